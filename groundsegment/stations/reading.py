"""What stands in a letter, read strictly: every value has a type and a range, every list a length. Pure.

All of it raises LetterError with the place. Keys that nobody asks for are no error: a newer skyload may write them.
"""

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from groundsegment.stations.letters import LetterError
from protocol.frame import HANDLE_SIZE

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

INT_MAX = 2**63 - 1  # what a database holds
TEXT_MAX = 1000
_YEAR_MIN, _YEAR_MAX = 2000, 9000


class Reader:
    """One JSON object."""

    def __init__(self, value: object, place: str) -> None:
        """Take a value.

        Raises:
            LetterError: it is no object.
        """
        if not isinstance(value, dict):
            raise LetterError(f"{place}: not a mapping")
        self._value: Mapping[str, Any] = value
        self.place = place

    def error(self, name: str, problem: str) -> LetterError:
        """What to raise about a key."""
        return LetterError(f"{self.place}: {name}: {problem}")

    def has(self, name: str) -> bool:
        """Whether a key is there, and not null."""
        return self._value.get(name) is not None

    def integer(self, name: str, *, lowest: int = 0, highest: int = INT_MAX) -> int:
        """A whole number in a range."""
        value = self._value.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.error(name, f"not a whole number in {lowest}..{highest}")
        return value

    def number(self, name: str, *, lowest: float = -math.inf, highest: float = math.inf) -> float:
        """A finite number in a range."""
        value = self._value.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "not a number")
        if abs(value) > 1e300 or not lowest <= value <= highest:
            raise self.error(name, f"not in {lowest:g}..{highest:g}")
        return float(value)

    def text(self, name: str, *, length_max: int = TEXT_MAX) -> str:
        """Printable text of one line."""
        value = self._value.get(name)
        if not isinstance(value, str) or len(value) > length_max or not (value.isprintable() or not value):
            raise self.error(name, f"not a line of at most {length_max} characters")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise self.error(name, "neither true nor false")
        return value

    def choice(self, name: str, kinds: type[E]) -> E:
        """One of the words of an enumeration."""
        value = self._value.get(name)
        if not isinstance(value, str) or value not in list(kinds):
            raise self.error(name, f"not one of {', '.join(kinds)}")
        return kinds(value)

    def data(self, name: str, *, size: int) -> bytes:
        """So many bytes, as hex."""
        value = self._value.get(name)
        try:
            found = bytes.fromhex(value) if isinstance(value, str) and len(value) == 2 * size else b""
        except ValueError:
            found = b""
        if len(found) != size:
            raise self.error(name, f"not {size} bytes in hex")
        return found

    def handle(self, name: str) -> bytes:
        """An object's handle."""
        return self.data(name, size=HANDLE_SIZE)

    def blob(self, name: str, *, size_max: int) -> bytes:
        """At most so many bytes, as base64."""
        value = self._value.get(name)
        if not isinstance(value, str) or len(value) > 4 * (size_max // 3 + 1):
            raise self.error(name, f"not base64 of at most {size_max} bytes")
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise self.error(name, "not base64") from None

    def utc(self, name: str) -> datetime:
        """A time with a zone."""
        value = self._value.get(name)
        try:
            found = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
        except ValueError:
            found = None
        if found is None or found.tzinfo is None or not _YEAR_MIN <= found.year <= _YEAR_MAX:
            raise self.error(name, "not a time in UTC")
        return found.astimezone(UTC)

    def names(self, *, count_max: int) -> tuple[str, ...]:
        """Its keys: short, printable, at most so many."""
        if len(self._value) > count_max or not all(len(key) <= 64 and key.isprintable() for key in self._value):
            raise LetterError(f"{self.place}: not at most {count_max} short names")
        return tuple(self._value)

    def child(self, name: str) -> "Reader":
        """An object in it."""
        return Reader(self._value.get(name), f"{self.place}: {name}")

    def items(self, name: str, read: Callable[["Reader"], T], *, count_max: int) -> tuple[T, ...]:
        """A list of objects."""
        value = self._value.get(name)
        if not isinstance(value, list) or len(value) > count_max:
            raise self.error(name, f"not a list of at most {count_max}")
        return tuple(read(Reader(item, f"{self.place}: {name}[{index}]")) for index, item in enumerate(value))

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """None where the key is missing or null; else what one of the methods above reads."""
        return read(name) if self.has(name) else None


def utc_text(value: datetime) -> str:
    """A time as letters have it."""
    return value.astimezone(UTC).isoformat()


def blob_text(value: bytes) -> str:
    """Bytes as letters have them."""
    return base64.b64encode(value).decode("ascii")


def line_text(value: str) -> str:
    """Any text as one printable line."""
    words = "".join(letter if letter.isprintable() else " " for letter in value).split()
    return " ".join(words)[:TEXT_MAX]
