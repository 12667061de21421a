"""Passes as one mid-latitude station has them: in groups, an orbit apart, twice a day, of uneven length. Pure.

Real passes come from an orbit; these have the same counts, gaps and spread of lengths (a 500 km,
97.4 degree orbit has 3.2 to 4.5 a day over one station between 18 and 47 degrees north, of 430 s on average above 5
degrees of elevation).
"""

import math
from dataclasses import dataclass

from groundsegment.emulator.channel import RandomSource
from groundsegment.emulator.conditions import Contact

ORBIT_S = 5677.0  # 500 km
_GOLDEN = (math.sqrt(5) - 1) / 2
HALF_DAY_S = 43_082.0  # sidereal: the station turns below the orbit's plane twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How often and how long a station sees the satellite.

    Attributes:
        per_day: on average.
        mean_s: mean length, exactly, over all of them.
        first_s: when the first group begins.
    """

    per_day: float
    mean_s: float
    first_s: float = 0.0


def pass_contacts(passes: Passes, *, until_s: float, rng: RandomSource, station: str = "") -> tuple[Contact, ...]:
    """Return the passes that begin before a time."""
    per_group = passes.per_day * HALF_DAY_S / 86_400
    starts = []
    for group in range(math.ceil((until_s - passes.first_s) / HALF_DAY_S)):
        count = round((group + 1) * per_group) - round(group * per_group)
        starts += [passes.first_s + group * HALF_DAY_S + number * ORBIT_S for number in range(count)]
    starts = [start_s for start_s in starts if start_s < until_s]
    # Chords of the circle that the station sees, at distances from its middle that are spread evenly (golden section):
    # so the mean holds for any run of passes, not just for all of them.
    first = rng.random()
    chords = [math.sqrt(1 - (0.95 * ((first + number * _GOLDEN) % 1)) ** 2) for number in range(len(starts))]
    scale = passes.mean_s * len(chords) / sum(chords) if chords else 0.0
    return tuple(
        Contact(start_s=start_s, end_s=start_s + chord * scale, station=station)
        for start_s, chord in zip(starts, chords, strict=True)
    )
