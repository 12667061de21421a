"""The transport measured against UFTP and cfdp-py, over the same impaired link: `make bench NAME=transport`."""
