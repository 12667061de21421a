"""The catalogue: cuts each file of a release into parts, by its header.

    safetensors   the header, then tensors and families (families.py)
    GGUF          the metadata, its long arrays one by one (gguf_header.py), then tensors, and the padding between
    anything else one part of bytes

A file whose header breaks a rule is one part of bytes: what this code does not understand flies all the same. Reads
headers, and 16 bytes of some tensors; it does not know the base.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from groundsegment.errors import InputError
from groundsegment.models.gguf_file import MAGIC, read_gguf
from groundsegment.models.safetensors_file import DTYPE_BITS, read_header
from groundsegment.models.tensor_info import TensorInfo
from groundsegment.packer.tensors import families
from groundsegment.packer.tensors.codes import byte_codes
from groundsegment.packer.tensors.gguf_header import long_values
from groundsegment.packer.tensors.parts import (
    WHOLE_FILE,
    Member,
    Packed,
    Packing,
    Part,
    PartKind,
    Role,
    bytes_part,
    num_rows,
)
from groundsegment.packer.tensors.quantization import UNKNOWN, Quantization, quantization_of
from protocol.codec.ggml.gguf_blocks import FORMATS, BlockType
from protocol.limits import SEGMENT_SIZE_MAX

Read = Callable[[str, int, int], bytes]
"""(name of a file of the release, offset, size) -> its bytes."""

FLOAT_DTYPES = frozenset({"BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
GGUF_TYPES = frozenset(kind.name for kind in BlockType)
_INTEGER_DTYPES = {
    **{name: name for name in ("I8", "U8", "I16", "U16", "I32", "U32")},
    "BOOL": "U8",
    "F8_E8M0": "U8",  # powers of two: exponents, and nothing but
}


def catalogue(paths: Mapping[str, Path]) -> tuple[Part, ...]:
    """Return the parts of a whole release, file by file in order of names.

    Args:
        paths: where each file is, by its name in the release.
    """
    quantization = quantization_of(paths)
    return tuple(part for name in sorted(paths) for part in parts_of(paths[name], name, quantization))


def parts_of(path: Path, name: str, quantization: Quantization = UNKNOWN) -> tuple[Part, ...]:
    """Cut a file into parts, in order of their first bytes; an empty file has none.

    Args:
        path: where the file is.
        name: in the release.
        quantization: what the release's config says.
    """
    size_bytes = path.stat().st_size
    try:
        if name.endswith(".safetensors"):
            parts = _safetensors_parts(path, name, quantization)
        elif _starts_with(path, MAGIC):
            parts = _gguf_parts(path, name)
        else:
            parts = []
    except InputError:
        parts = []
    return tuple(_without_gaps(parts, name, size_bytes))


def reader(paths: Mapping[str, Path]) -> Read:
    """Return what reads a few bytes of any file of a release; InputError if they are not there any more.

    Args:
        paths: where each file is, by its name in the release.
    """

    def read(name: str, offset: int, size: int) -> bytes:
        descriptor = os.open(paths[name], os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
        if len(raw) != size:
            hint = "do not touch the files of a release while it is staged; run the same command again"
            raise InputError(f"{paths[name]}: changed while it was read", hint=hint)
        return raw

    return read


def _safetensors_parts(path: Path, name: str, quantization: Quantization) -> list[Part]:
    infos, metadata = read_header(path)
    tensors = {info.name: _named(info, name) for info in infos if info.size_bytes}
    read = reader({name: path})
    sources = families.Sources(
        tensors=tensors,
        types=_torchao_types(metadata),
        quantization=quantization,
        read=lambda info: read(name, info.offset, info.size_bytes),
    )
    parts = families.recognise_all(sources)
    taken = {member.name for part in parts for member in part.members}
    return parts + [single(info) for info in tensors.values() if info.name not in taken]


def _gguf_parts(path: Path, name: str) -> list[Part]:
    tensors = read_gguf(path).tensors
    header = [bytes_part(name, f"({key})", offset, size) for key, offset, size in long_values(path)]
    return header + [_gguf_tensor(_named(info, name)) for info in tensors if info.size_bytes]


def _named(info: TensorInfo, file: str) -> TensorInfo:
    return TensorInfo(
        name=info.name,
        dtype=info.dtype,
        shape=info.shape,
        file=file,
        offset=info.offset,
        size_bytes=info.size_bytes,
    )


def single(info: TensorInfo) -> Part:
    """Return the part of a tensor that stands by itself."""
    bits = DTYPE_BITS[info.dtype]
    if info.dtype in FLOAT_DTYPES:
        return _plain(info, PartKind.FLOATS, info.dtype, bits // 8)
    if info.dtype in {"I32", "U32"} and len(info.shape) > 1:
        return byte_codes(info)  # words of some packing: bytes have frequencies that they have not
    if info.dtype in _INTEGER_DTYPES:
        return _plain(info, PartKind.INTEGERS, _INTEGER_DTYPES[info.dtype], bits // 8)
    if info.dtype == "F4" and info.shape[-1] % 2 == 0:
        packed = Packed(packing=Packing.ROW, group_rows=1, group_columns=1)
        return _plain(info, PartKind.NIBBLES, "U4", 1, packed)
    return _plain(info, PartKind.BYTES, "", 1)


def _gguf_tensor(info: TensorInfo) -> Part:
    if info.dtype in {"F32", "F16", "BF16", "I8", "I16", "I32"}:
        return single(info)
    if info.dtype not in GGUF_TYPES:
        return _plain(info, PartKind.BYTES, "", 1)
    return _plain(info, PartKind.GGUF, info.dtype, FORMATS[BlockType[info.dtype]].size)


def _plain(info: TensorInfo, kind: PartKind, dtype: str, item_bytes: int, packed: Packed | None = None) -> Part:
    """Return a part of one member, cut at rows; within a row that is the only one, or too long for a segment."""
    rows = num_rows(info.shape)
    row_bytes = info.size_bytes // rows
    has_rows = len(info.shape) > 1 and kind is not PartKind.BYTES
    unit_rows = 1 if has_rows and row_bytes <= SEGMENT_SIZE_MAX else 0
    member = Member(
        name=info.name,
        role=Role.CODES if packed else Role.VALUES,
        dtype=info.dtype,
        shape=info.shape,
        offset=info.offset,
        size_bytes=info.size_bytes,
        unit_bytes=row_bytes if unit_rows else item_bytes,
    )
    return Part(
        file=info.file,
        name=info.name,
        kind=kind,
        dtype=dtype,
        rows=rows,
        columns=info.num_values // rows,
        unit_rows=unit_rows,
        members=(member,),
        packed=packed,
    )


def _without_gaps(parts: Iterable[Part], file: str, size_bytes: int) -> Iterator[Part]:
    """Yield the parts in order of their first bytes, with parts of bytes for all that they leave."""
    found = list(parts)
    runs = sorted((member.offset, member.size_bytes, member.name) for part in found for member in part.members)
    at, before = 0, ""
    for offset, size, name in [*runs, (size_bytes, 0, "")]:
        if offset > at:
            found.append(bytes_part(file, _gap_name(at, before, offset == size_bytes), at, offset - at))
        at, before = offset + size, name
    yield from sorted(found, key=lambda part: part.offset)


def _gap_name(offset: int, before: str, is_last: bool) -> str:
    if not offset:
        return WHOLE_FILE if is_last else "(header)"
    return f"(after {before})"


def _torchao_types(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the class of each tensor that torchao flattened, by the tensor's name."""
    types = {}
    for name, text in metadata.items():
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            continue
        kind = entry.get("_type") if isinstance(entry, dict) else None
        if isinstance(kind, str):
            types[name] = kind
    return types


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
