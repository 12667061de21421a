"""safetensors files, read by header and written tensor by tensor, in bounded memory.

Layout: 8 bytes little-endian header length, a JSON header of name -> {dtype, shape, data_offsets}, then
the data. The reader accepts only what the format promises: known types, no duplicate keys, offsets that
cover the data exactly once. The writer knows all shapes first and takes values in any order, a block of
rows at a time; it never holds a tensor. It does not know what the tensors mean.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from groundsegment.errors import InputError
from groundsegment.models.tensor_info import TensorInfo

HEADER_BYTES_MAX = 100_000_000  # the limit of the reference implementation
_NUM_AXES_MAX = 16
_HINT = "download or convert the model again; this file is damaged or not a safetensors file"

DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(["F64", "I64", "U64", "C64"], 64),
    **dict.fromkeys(["F32", "I32", "U32"], 32),
    **dict.fromkeys(["BF16", "F16", "I16", "U16"], 16),
    **dict.fromkeys(["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"], 8),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor to be written: name, safetensors dtype, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size of its data."""
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


def read_header(path: Path) -> tuple[tuple[TensorInfo, ...], dict[str, str]]:
    """Return a file's tensors, in order of their data, and its metadata.

    Raises:
        InputError: the file breaks a rule of the format.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size_bytes < 10 or length > HEADER_BYTES_MAX or length > size_bytes - 8:
            raise _broken(path, f"a header of {length} bytes does not fit in a file of {size_bytes} bytes")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"the header is not usable JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "the header is not a JSON object")
    metadata = _metadata(path, header.pop("__metadata__", {}))
    start = 8 + length
    tensors = [_tensor(path, name, entry, start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes, tensor.name))
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            raise _broken(path, f"tensor {tensor.name} starts at {tensor.offset}, expected {end}")
        end += tensor.size_bytes
    if end != size_bytes:
        raise _broken(path, f"the header promises {end} bytes, the file has {size_bytes}")
    return tuple(tensors), metadata


class SafetensorsWriter:
    """Writes one file whose tensors are known beforehand, in any order of blocks.

    Every byte of every tensor must have been written once, front to back per tensor, when the writer closes.
    """

    def __init__(self, path: Path, specs: Iterable[TensorSpec]) -> None:
        # Widest types first, as the reference writer does: a reader that maps the file finds every tensor
        # aligned.
        ordered = sorted(specs, key=lambda spec: (-DTYPE_BITS[spec.dtype], spec.name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._next: dict[str, int] = {}
        self._end: dict[str, int] = {}
        offset = 0
        for spec in ordered:
            end = offset + spec.size_bytes
            header[spec.name] = {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "data_offsets": [offset, end],
            }
            self._next[spec.name], self._end[spec.name] = offset, end
            offset = end
        assert len(self._next) == len(ordered), "tensor names repeat"
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        self._start = 8 + len(raw)
        self._file: BinaryIO = path.open("wb")
        self._file.write(len(raw).to_bytes(8, "little") + raw)

    def write(self, name: str, block: bytes | memoryview) -> None:
        """Append one block to one tensor."""
        offset = self._next[name]
        self._next[name] = offset + len(block)
        assert self._next[name] <= self._end[name], f"too many bytes for {name}"
        self._file.seek(self._start + offset)
        self._file.write(block)

    def is_complete(self) -> bool:
        """Tell whether every tensor has all its bytes."""
        return self._next == self._end

    def close(self) -> None:
        """Make the file durable and close it."""
        assert self.is_complete(), [name for name, end in self._end.items() if self._next[name] != end]
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close an unfinished file."""
        self._file.close()


class CheckpointWriter:
    """Writes model.safetensors, or shards of at most `shard_bytes` with their index.

    A context manager: leaving it closes all files and writes the index; an exception abandons them.
    """

    def __init__(self, directory: Path, specs: Sequence[TensorSpec], *, shard_bytes: int) -> None:
        groups = _shards(specs, shard_bytes)
        total = len(groups)
        self._directory = directory
        self._total_bytes = sum(spec.size_bytes for spec in specs)
        self._weight_map: dict[str, str] = {}
        self._writers: dict[str, SafetensorsWriter] = {}
        self.file_names: list[str] = []
        for number, group in enumerate(groups, start=1):
            name = "model.safetensors" if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"
            self.file_names.append(name)
            self._weight_map.update(dict.fromkeys((spec.name for spec in group), name))
            self._writers[name] = SafetensorsWriter(directory / name, group)

    def write(self, name: str, block: bytes | memoryview) -> None:
        """Append one block to one tensor."""
        self._writers[self._weight_map[name]].write(name, block)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for writer in self._writers.values():
                writer.abandon()
            return
        for writer in self._writers.values():
            writer.close()
        if len(self._writers) > 1:
            index = {
                "metadata": {"total_size": self._total_bytes},
                "weight_map": dict(sorted(self._weight_map.items())),
            }
            text = json.dumps(index, indent=2) + "\n"
            (self._directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _shards(specs: Sequence[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    groups: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if groups[-1] and size + spec.size_bytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(spec)
        size += spec.size_bytes
    return groups


def _tensor(path: Path, name: str, entry: object, start: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _broken(path, f"tensor {name!r} has the unknown type {dtype!r}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _broken(path, f"tensor {name!r} has an unusable shape or offsets")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or end - begin != bits // 8:
        raise _broken(path, f"tensor {name!r} of {dtype} {shape} spans {end - begin} bytes, expected {bits / 8:g}")
    return TensorInfo(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        file=path.name,
        offset=start + begin,
        size_bytes=end - begin,
    )


def _are_counts(value: object) -> bool:
    # bool is an int in Python, and true is not a size; 2^63 is beyond any file.
    return (
        isinstance(value, list)
        and len(value) <= _NUM_AXES_MAX
        and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    )


def _metadata(path: Path, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _broken(path, "__metadata__ is not a map of text to text")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}", hint=_HINT)
