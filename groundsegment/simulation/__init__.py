"""Whole missions in virtual time: the real uplink, the real channel, and a real receiver in a process beside us."""
