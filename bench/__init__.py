"""Measurements, side by side with peers and limits. `make bench` lists them; `docs/benchmarks.md` keeps the results."""
