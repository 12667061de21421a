"""msgpack under limits: no duplicate keys, no extension types, bounded input, string keys only."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgpack

from protocol.errors import DecodeError, UnsupportedVersionError

_E = TypeVar("_E", bound=StrEnum)
_ITEMS_MAX = 65536  # of one array or map; the input cap is the real bound


def pack_map(value: Mapping[str, Any]) -> bytes:
    """Return a map as msgpack."""
    packed: bytes = msgpack.packb(dict(value), use_bin_type=True)
    return packed


def unpack_map(data: bytes, *, unit: str, size_max: int) -> dict[str, Any]:
    """Parse exactly one msgpack map.

    Raises:
        DecodeError: too long, not a map, duplicate or non-string keys, extension types, anything after the map.
    """
    if len(data) > size_max:
        raise DecodeError(f"{unit}: {len(data)} bytes, at most {size_max} are allowed")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_array_len=_ITEMS_MAX,
            max_map_len=_ITEMS_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise DecodeError(f"{unit}: not valid msgpack: {error}") from None
    if not isinstance(value, dict):
        raise DecodeError(f"{unit}: expected a map, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str) or key in result:
            raise ValueError(f"key {key!r} is not a string or comes twice")
        result[key] = value
    return result


class Fields:
    """Takes the fields of an untrusted map one by one, checking type and range, and nothing may be left over."""

    def __init__(self, value: object, *, unit: str) -> None:
        if not isinstance(value, dict):
            raise DecodeError(f"{unit}: expected a map, got {type(value).__name__}")
        self._left = dict(value)
        self._unit = unit

    def _take(self, name: str) -> Any:  # noqa: ANN401 - checked by the caller below
        if name not in self._left:
            raise DecodeError(f"{self._unit}: no field {name!r}")
        return self._left.pop(name)

    def integer(self, name: str, *, lowest: int = 0, highest: int = 2**63 - 1) -> int:
        """An integer in lowest .. highest."""
        value = self._take(name)
        if type(value) is not int or not lowest <= value <= highest:
            raise DecodeError(f"{self._unit}: {name} must be an integer in {lowest}..{highest}, got {value!r}")
        return value

    def text(self, name: str, *, length_max: int = 1024) -> str:
        """A string of at most length_max characters."""
        value = self._take(name)
        if not isinstance(value, str) or len(value) > length_max:
            raise DecodeError(f"{self._unit}: {name} must be a string of at most {length_max} characters")
        return value

    def version(self, expected: int) -> None:
        """Take the field `v`; raises UnsupportedVersionError unless it is the expected one."""
        version = self.integer("v")
        if version != expected:
            raise UnsupportedVersionError(self._unit, version=version)

    def choice(self, name: str, kind: type[_E]) -> _E:
        """A member of an enumeration of strings."""
        try:
            return kind(self.text(name, length_max=32))
        except ValueError as error:
            raise DecodeError(f"{self._unit}: {error}") from None

    def boolean(self, name: str) -> bool:
        """True or false, and nothing that is merely like them."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise DecodeError(f"{self._unit}: {name} must be true or false, got {value!r}")
        return value

    def data(self, name: str, *, size: int | None = None, size_max: int = 65536) -> bytes:
        """Bytes, of exactly `size` where given."""
        value = self._take(name)
        if not isinstance(value, bytes) or len(value) > size_max or (size is not None and len(value) != size):
            raise DecodeError(f"{self._unit}: {name} must be {size or f'at most {size_max}'} bytes")
        return value

    def items(self, name: str, *, length_max: int) -> list[Any]:
        """An array of at most length_max items."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > length_max:
            raise DecodeError(f"{self._unit}: {name} must be an array of at most {length_max} items")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A map."""
        value = self._take(name)
        if not isinstance(value, dict):
            raise DecodeError(f"{self._unit}: {name} must be a map")
        return value

    def is_none(self, name: str) -> bool:
        """Whether the field is nil; takes it if so."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return True
        return False

    def has(self, name: str) -> bool:
        """Whether the field is there; takes nothing."""
        return name in self._left

    def finish(self) -> None:
        """Refuse whatever nobody took."""
        if self._left:
            raise DecodeError(f"{self._unit}: unknown fields {sorted(self._left)}")


def unpack_row(item: object, names: tuple[str, ...], *, unit: str) -> Fields:
    """Return the items of an array as if they had names.

    Raises:
        DecodeError: not an array of as many items.
    """
    if not isinstance(item, list) or len(item) != len(names):
        raise DecodeError(f"{unit}: expected {len(names)} items ({', '.join(names)})")
    return Fields(dict(zip(names, item, strict=True)), unit=unit)
