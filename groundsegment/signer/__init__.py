"""Everything that touches a private key: the key store, what is signed with it, and the kit of a satellite."""
