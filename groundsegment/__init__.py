"""The ground: packs, signs, plans, sends and watches updates. The link emulator is its test equipment."""
