"""Randomness of a simulation: every source from the seed and a name, so that none disturbs another."""

import random  # noqa: TID251 - simulated weather is not a core, and a seed makes it the same every time

Random = random.Random


def source(seed: int, *names: object) -> Random:
    """Return the source of that name."""
    return Random("/".join(str(part) for part in (seed, *names)))
