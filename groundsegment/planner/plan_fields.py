"""What stands in a contact plan's YAML, read strictly: every key known, every number finite, every time a time.

It knows keys, seconds and times; what they mean is `contact_plan`'s.
"""

import math
from datetime import datetime

from groundsegment.errors import InputError
from groundsegment.planner.quantities import parse_rate, parse_share, parse_utc

HINT = "see `skyload plan --help` for an example of a contact plan"


class Fields:
    """A YAML mapping of which every key must be known."""

    def __init__(self, value: object, place: str, known: tuple[str, ...]) -> None:
        """Take a mapping.

        Raises:
            InputError: it is none, or has another key; names the place.
        """
        if not isinstance(value, dict):
            raise InputError(f"{place}: must be a mapping of keys to values", hint=HINT)
        unknown = [str(key) for key in value if key not in known]
        if unknown:
            raise InputError(f"{place}: unknown key {unknown[0]!r}", hint=f"keys here are {', '.join(known)}")
        self._value, self.place = value, place

    def get(self, name: str, default: object = None) -> object:
        """The value of a key as YAML has it."""
        return self._value.get(name, default)

    def rate_bps(self, default: float | None) -> float | None:
        """The key `rate`, in bits per second."""
        value = self.get("rate")
        return default if value is None else parse_rate(str(value), option=f"{self.place}: rate")

    def loss(self, default: float | None) -> float | None:
        """The key `loss`, as 0..1."""
        value = self.get("loss")
        return default if value is None else parse_share(str(value), option=f"{self.place}: loss")

    def moment(self, name: str, epoch_s: float, now_s: float) -> float:
        """A moment given as NAME_s, seconds after the epoch (null: never), or as NAME, a time; in Unix seconds."""
        seconds, text = self.get(f"{name}_s"), self.get(name)
        if (seconds is None) == (text is None):
            if name == "end" and seconds is None and "end_s" in self._value:
                return math.inf  # end_s: null, it never ends
            raise InputError(f"{self.place}: needs either {name}_s or {name}", hint=HINT)
        if seconds is not None:
            return epoch_s + number(seconds, f"{self.place}: {name}_s")
        return unix_s(text, f"{self.place}: {name}", now_s)


SECONDS_MAX = 1e15  # thirty million years: what is larger is a slip, and beyond what floats can add


def number(value: object, place: str) -> float:
    """A number of seconds, 0 or more.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < SECONDS_MAX:
        raise InputError(f"{place}: must be a number of seconds, got {value!r}", hint=HINT)
    return float(value)


def unix_s(value: object, place: str, now_s: float) -> float:
    """A time, or the word now, in Unix seconds.

    Raises:
        InputError: it is none.
    """
    if value == "now":
        return now_s
    if isinstance(value, datetime):  # YAML reads ISO times itself
        value = value.isoformat()
    if not isinstance(value, str):
        raise InputError(f"{place}: must be a time, got {value!r}", hint="write it as 2026-11-22T06:00:00Z")
    return parse_utc(value, option=place).timestamp()
