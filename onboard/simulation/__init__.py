"""A satellite in virtual time, for `skyload simulate`: the real receiver, a simulated disk and owner."""
