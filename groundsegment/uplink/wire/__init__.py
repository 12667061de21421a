"""What touches the link: the socket, the bytes of symbols, what goes up and what comes down. Shells."""
