"""How fast frames leave: a link's rate as it is known, learned, or searched for. Pure."""
