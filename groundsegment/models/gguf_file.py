"""GGUF files, read by header in bounded memory: metadata and where each tensor lies.

Versions 2 and 3, little-endian. Every length is checked against what is left of the file before anything
is allocated, so a truncated or hostile file costs an error and no memory. The values of tensors are read
by whoever needs them.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from groundsegment.errors import InputError
from groundsegment.models.tensor_info import TensorInfo

MAGIC = b"GGUF"
_HINT = "download the file again; it is truncated, damaged, or not a GGUF file of version 2 or 3"
_NUM_TENSORS_MAX = 1 << 20
_NUM_KEYS_MAX = 1 << 16
_HEADER_BYTES_MAX = 1 << 28  # vocabularies of a quarter million tokens need some 10 MB
_KEY_BYTES_MAX = 1 << 16
_NUM_AXES_MAX = 8
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """What a GGUF file says about itself.

    Attributes:
        version: of the format.
        metadata: key to value; arrays are lists, or None when they were not asked for.
        tensors: in order of their data, shapes outermost axis first.
    """

    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]


def read_gguf(path: Path, *, keep_arrays: bool = False) -> GgufFile:
    """Read the header of a GGUF file.

    Args:
        path: the file.
        keep_arrays: also return arrays (the vocabulary, mostly); otherwise they are walked and dropped.

    Raises:
        InputError: the file breaks a rule of the format.
    """
    with path.open("rb") as file:
        reader = _Reader(path, file)
        if reader.take(4) != MAGIC:
            raise reader.broken("does not start with GGUF")
        version = reader.scalar("I")
        if version not in {2, 3}:
            raise reader.broken(f"version {version} is not supported (big-endian files are not either)")
        num_tensors, num_keys = reader.scalar("Q"), reader.scalar("Q")
        if num_tensors > _NUM_TENSORS_MAX or num_keys > _NUM_KEYS_MAX:
            raise reader.broken(f"promises {num_tensors} tensors and {num_keys} keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = reader.text(_KEY_BYTES_MAX)
            if key in metadata:
                raise reader.broken(f"key {key!r} appears twice")
            metadata[key] = reader.value(reader.scalar("I"), keep_arrays=keep_arrays)
        rows = [_tensor_row(reader) for _ in range(num_tensors)]
        header_bytes = file.tell()
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise reader.broken(f"alignment {alignment!r} is not a power of two")
    start = -(-header_bytes // alignment) * alignment
    return GgufFile(version=version, metadata=metadata, tensors=_place(reader, rows, start, alignment))


class _Reader:
    """Reads fields and refuses to pass the end of the file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.size_bytes = path.stat().st_size
        self._left = min(self.size_bytes, _HEADER_BYTES_MAX)

    @property
    def name(self) -> str:
        return self._path.name

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise self.broken(f"ends in the middle of its header (or the header passes {_HEADER_BYTES_MAX} bytes)")
        self._left -= count
        raw = self._file.read(count)
        if len(raw) != count:
            raise self.broken("became shorter while it was read")
        return raw

    def scalar(self, code: str) -> Any:  # noqa: ANN401 - int, float or bool by code
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self, size_bytes_max: int) -> str:
        count = self.scalar("Q")
        if count > size_bytes_max:
            raise self.broken(f"holds a name of {count} bytes")
        try:
            return self.take(count).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.broken(f"holds text that is not UTF-8 ({error})") from error

    def value(self, kind: int, *, keep_arrays: bool) -> Any:  # noqa: ANN401 - whatever the file holds
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text(_HEADER_BYTES_MAX)
        if kind != _ARRAY:
            raise self.broken(f"holds a value of unknown type {kind}")
        item_kind, count = self.scalar("I"), self.scalar("Q")
        if item_kind in _SCALARS:
            code = _SCALARS[item_kind]
            raw = self.take(count * struct.calcsize("<" + code))
            return list(struct.unpack(f"<{count}{code}", raw)) if keep_arrays else None
        if item_kind != _STRING:
            raise self.broken(f"holds an array of type {item_kind}")
        if count * 8 > self._left:
            raise self.broken(f"promises an array of {count} texts")
        if keep_arrays:
            return [self.text(_HEADER_BYTES_MAX) for _ in range(count)]
        for _ in range(count):
            self.take(self.scalar("Q"))
        return None

    def broken(self, what: str) -> InputError:
        return InputError(f"{self._path}: {what}", hint=_HINT)


def _tensor_row(reader: _Reader) -> tuple[str, tuple[int, ...], str, int, int]:
    """Return name, shape, type, size and relative offset of the next tensor."""
    name = reader.text(_KEY_BYTES_MAX)
    num_axes = reader.scalar("I")
    if num_axes > _NUM_AXES_MAX:
        raise reader.broken(f"tensor {name!r} has {num_axes} axes")
    axes = [reader.scalar("Q") for _ in range(num_axes)]  # innermost first
    kind, offset = reader.scalar("I"), reader.scalar("Q")
    type_name, block_values, block_bytes = _block_size(reader, name, kind)
    num_values = math.prod(axes)
    if num_values >= 1 << 63 or (axes and axes[0] % block_values):
        raise reader.broken(f"tensor {name!r} has axes {axes}, not whole blocks of {block_values}")
    return name, tuple(reversed(axes)), type_name, num_values // block_values * block_bytes, offset


def _block_size(reader: _Reader, name: str, kind: int) -> tuple[str, int, int]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        quantization = GGMLQuantizationType(kind)
        block_values, block_bytes = GGML_QUANT_SIZES[quantization]
    except (ValueError, KeyError) as error:
        raise reader.broken(f"tensor {name!r} has the unknown type {kind}") from error
    return quantization.name, block_values, block_bytes


def _place(
    reader: _Reader, rows: list[tuple[str, tuple[int, ...], str, int, int]], start: int, alignment: int
) -> tuple[TensorInfo, ...]:
    names = {row[0] for row in rows}
    if len(names) != len(rows):
        raise reader.broken("a tensor name appears twice")
    tensors = []
    end = 0
    for name, shape, dtype, size_bytes, offset in sorted(rows, key=lambda row: (row[4], row[3], row[0])):
        if offset < end or offset % alignment:
            raise reader.broken(f"tensor {name!r} starts at {offset}, inside another or off its alignment")
        end = offset + size_bytes
        if start + end > reader.size_bytes:
            raise reader.broken(f"tensor {name!r} ends at {start + end}, the file at {reader.size_bytes}")
        tensors.append(
            TensorInfo(
                name=name,
                dtype=dtype,
                shape=shape,
                file=reader.name,
                offset=start + offset,
                size_bytes=size_bytes,
            )
        )
    return tuple(tensors)
