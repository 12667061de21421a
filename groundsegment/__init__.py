"""The ground: packs, signs, plans, sends and watches updates; also the link emulator, which is test equipment."""
