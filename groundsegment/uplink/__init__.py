"""The uplink: which symbol goes next (core), and the socket, clock and depot around it (shell)."""
