"""The store: the only room that knows how bytes lie on the satellite's disk."""
