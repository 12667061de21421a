"""Quantities as people write them: 2Mbit/s, 435s, 10%, 2026-11-22T06:00:00Z. Bits and bytes are always spelled."""

import math
import re
from datetime import UTC, datetime

from groundsegment.errors import InputError

RATE_BPS_MAX = 1e12  # no link is faster; what is larger is a slip
_EPOCH_S_MAX = 253_402_300_800.0  # the end of the year 9999, and of `datetime`
_RATES = {"bit/s": 1.0, "kbit/s": 1e3, "mbit/s": 1e6, "gbit/s": 1e9, "B/s": 8.0, "kB/s": 8e3, "MB/s": 8e6}
_DURATIONS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\s*([0-9]+(?:[._][0-9]+)*(?:[eE]\+?[0-9]+)?)\s*(.*?)\s*")


def parse_rate(text: str, *, option: str = "--rate") -> float:
    """Read a rate; returns bits per second.

    Raises:
        InputError: no number, no unit, or a unit that does not say bits or bytes.
    """
    number, unit = _split(text)
    scale = _RATES.get(unit, _RATES.get(unit.lower()))
    if number is None or scale is None or not 0 < number * scale <= RATE_BPS_MAX:
        raise InputError(
            f"{option}: {text!r} is not a rate", hint="write 250kbit/s, 2Mbit/s or 1.5MB/s: bits or bytes, spelled"
        )
    return number * scale


def parse_duration(text: str, *, option: str) -> float:
    """Read a duration; returns seconds.

    Raises:
        InputError: it is none.
    """
    number, unit = _split(text)
    scale = _DURATIONS.get(unit)
    if number is None or scale is None or number <= 0:
        raise InputError(f"{option}: {text!r} is not a duration", hint="write 435s, 7min or 1.5h")
    return number * scale


def parse_share(text: str, *, option: str) -> float:
    """Read a probability; returns 0..1.

    Raises:
        InputError: it is none.
    """
    number, unit = _split(text)
    value = math.nan if number is None or unit not in {"", "%"} else number / (100 if unit else 1)
    if not 0 <= value < 1:
        raise InputError(f"{option}: {text!r} is not a share below 1", hint="write 10% or 0.1")
    return value


def parse_utc(text: str, *, option: str) -> datetime:
    """Read a time; one without a zone is UTC.

    Raises:
        InputError: it is none.
    """
    try:
        value = datetime.fromisoformat(text.strip().replace(" ", "T"))
    except ValueError:
        raise InputError(
            f"{option}: {text!r} is not a time", hint="write it as 2026-11-22T06:00:00Z (ISO 8601, UTC)"
        ) from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def check_epoch(unix_s: float | None, *, option: str = "--epoch") -> float | None:
    """Return a moment in Unix seconds as it is, if it is one.

    Raises:
        InputError: it is none.
    """
    if unix_s is not None and not 0 <= unix_s < _EPOCH_S_MAX:
        raise InputError(
            f"{option}: {unix_s:g} is not a time in Unix seconds", hint="`date +%s` prints the present one"
        )
    return unix_s


def format_utc(unix_s: float) -> str:
    """A time as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_duration(seconds: float) -> str:
    """A duration for people: 7.2 s, 7 min 15 s, 5 h 40 min, 3 d 2 h."""
    if math.isinf(seconds):
        return "without end"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for upper, lower, large, small in ((60, 1, "min", "s"), (3600, 60, "h", "min"), (86400, 3600, "d", "h")):
        if seconds < {60: 3600, 3600: 86400, 86400: math.inf}[upper]:
            total = round(seconds / lower)
            return f"{total // (upper // lower)} {large} {total % (upper // lower)} {small}"
    raise AssertionError(seconds)


def format_bytes(size: float) -> str:
    """A size for people, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError(size)


def format_count(number: int, noun: str) -> str:
    """A count with its noun: "1 update", "2 updates"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def format_rate(bits_per_s: float) -> str:
    """A rate for people."""
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if bits_per_s < 1000 or unit == "Gbit/s":
            return f"{bits_per_s:.3g} {unit}"
        bits_per_s /= 1000
    raise AssertionError(bits_per_s)


def _split(text: str) -> tuple[float | None, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None, ""
    try:
        return float(match[1].replace("_", "")), match[2]
    except ValueError:
        return None, ""
