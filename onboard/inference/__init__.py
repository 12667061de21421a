"""Inference: the endpoint in its own process, engine workers behind it, one per loaded model."""
