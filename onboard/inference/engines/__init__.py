"""Engines behind the seam of onboard/inference/engine.py. Only worker processes import them."""
