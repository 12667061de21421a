"""What survives power cuts, faults and flipped bits, measured: `make bench NAME=durability`."""
