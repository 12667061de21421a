"""Four-bit codes with the scales and zero points of their groups: taken apart, predicted from the base, coded. Pure."""
