"""Scrubbing: bit flips on the medium that holds the releases are found, located, repaired, and told."""
