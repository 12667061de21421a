"""Whole missions on one machine: `make demo`, and the processes that soak, bench and end-to-end tests fly with."""
