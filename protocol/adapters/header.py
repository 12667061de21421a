"""The header of a safetensors file, as far as an adapter and its base need it: which tensor lies where.

8 bytes little-endian length, JSON of name -> {dtype, shape, data_offsets}, then the data. What breaks a rule of the
format is refused before any of it is used; memory is bounded whatever the file says.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.adapters.errors import AdapterError

HEADER_SIZE_MAX = 8 << 20
_LENGTH_SIZE = 8
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Bytes to read.

    Attributes:
        size_bytes: how many there are.
        read: (offset, size) to exactly so many bytes; raises what it likes.
    """

    size_bytes: int
    read: Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: in the file.
        dtype: as safetensors calls it.
        shape: of it.
        offset: of its first byte in the file.
        size_bytes: of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def end(self) -> int:
        """Where its data ends in the file."""
        return self.offset + self.size_bytes


def read_tensors(source: Source, file: str) -> dict[str, Tensor]:
    """Return the tensors of a file by name, in order of their data.

    Raises:
        AdapterError: it is no safetensors file.
    """
    if source.size_bytes < _LENGTH_SIZE:
        raise _broken(file, "too short")
    length = int.from_bytes(source.read(0, _LENGTH_SIZE), "little")
    start = _LENGTH_SIZE + length
    if length > HEADER_SIZE_MAX or start > source.size_bytes:
        raise _broken(file, f"a header of {length} bytes in a file of {source.size_bytes}")
    try:
        header = json.loads(source.read(_LENGTH_SIZE, length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"its header is not usable JSON ({error})") from None
    if not isinstance(header, dict):
        raise _broken(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = [_tensor(name, entry, start, source.size_bytes, file) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.end))
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            raise _broken(file, f"tensor {tensor.name!r} begins at {tensor.offset}, not at {end}")
        end = tensor.end
    if end != source.size_bytes:
        raise _broken(file, f"its tensors end at {end}, the file at {source.size_bytes}")
    return {tensor.name: tensor for tensor in tensors}


def _tensor(name: str, entry: Any, start: int, size_bytes: int, file: str) -> Tensor:  # noqa: ANN401 - parsed JSON
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(file, f"tensor {name!r} is not described by dtype, shape and data_offsets")
    shape, offsets, bits = entry["shape"], entry["data_offsets"], _BITS.get(str(entry["dtype"]))
    if bits is None or not _are_counts(shape, 16) or not _are_counts(offsets, 2) or len(offsets) != 2:
        raise _broken(file, f"tensor {name!r} has an unusable type, shape or offsets")
    begin, end = offsets
    if not begin <= end <= size_bytes - start or (end - begin) * 8 != math.prod(shape) * bits:
        raise _broken(file, f"tensor {name!r} spans bytes {begin} to {end}")
    return Tensor(
        name=name, dtype=str(entry["dtype"]), shape=tuple(shape), offset=start + begin, size_bytes=end - begin
    )


def _are_counts(value: object, length_max: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= length_max
        and all(type(item) is int and 0 <= item < 1 << 48 for item in value)
    )


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _broken(file: str, what: str) -> AdapterError:
    return AdapterError(f"{file}: {what}: not a safetensors file", hint="save or download it again")
