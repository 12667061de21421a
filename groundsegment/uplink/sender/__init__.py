"""What goes up next, and what reports teach: the uplink's decisions. Pure."""
