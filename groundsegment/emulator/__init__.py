"""The link emulator: a pure channel and a UDP proxy around it. Electrical ground support equipment (EGSE)."""
