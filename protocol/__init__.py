"""The only thing both ends share: wire formats, coding, trust rules. Pure: no I/O, clock or randomness."""
