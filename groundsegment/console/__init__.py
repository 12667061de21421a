"""The `skyload` command: one file per command, nothing but arguments in and words out."""
