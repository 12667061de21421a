"""The weight codec beside its peers and the entropy bounds, on real weights."""
