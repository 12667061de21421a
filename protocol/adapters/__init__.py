"""Adapters: low-rank changes of a base release, merged by a rule or served beside it. Start at `merge`."""
