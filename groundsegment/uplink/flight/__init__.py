"""Updates and commands on their way up, and what is written into the depot about them. Shells."""
