"""Staging: from a model directory to a signed, registered update. Start at `groundsegment.staging.staging`."""
