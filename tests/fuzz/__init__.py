"""Fuzzing: every parser of bytes that somebody else made, under hostile input. `python -m tests.fuzz --help`."""
