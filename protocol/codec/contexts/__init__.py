"""Contexts: what both ends know of a value before it is coded, and the streams they are split into by it. Pure."""
