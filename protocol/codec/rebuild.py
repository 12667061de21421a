"""Turns the payload of a TENSOR segment back into bytes of a file, given the base. The decoder's front door.

Driven by the installer on board and by its twin on the ground: the same code. Checks what no transform can: extents do
not overlap and add up to the row's raw size, streams claim no more values than bytes can hold, the base gives as many
bytes as were asked for. Memory is bounded by a few times SEGMENT_SIZE_MAX whatever the payload says.

Pure; it does not know files, rows, or whether the base is the right one: `read_base` sees to that.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocol.codec import floats, integers, matches, plain
from protocol.codec.fourbit import nibbles
from protocol.codec.ggml import gguf
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import Piece, Stream, TensorPayload
from protocol.errors import DecodeError
from protocol.limits import MIB, WINDOWS_SIZE_MAX

_KEPT_SIZE = 24 * MIB  # more than any array here, less than what glibc would never keep (32 MiB)
ReadBase = Callable[[int, int, int], bytes]
"""(file of the base, offset, size) -> its bytes."""

VALUES_PER_BYTE_MAX = 4  # of all streams of a piece: nibbles are 2 a byte, and class tables come on top
_VALUES_SLACK = 1024  # tables of a tiny tensor


def _keep_freed_memory() -> None:
    """Have the C library keep what a segment frees for the next one.

    glibc gives blocks of more than 128 KiB back to the system, and asks for fresh pages the next time, until a larger
    one was freed once; from then on it keeps up to twice as much. Fresh pages took up to a fifth of the decoder's time.
    This block is never touched, so it takes no memory. Other C libraries are none the worse for it.
    """
    np.empty(_KEPT_SIZE, np.uint8)


_keep_freed_memory()


class Decode(Protocol):
    """What the module of a transform offers."""

    def __call__(
        self,
        parameters: bytes,
        streams: tuple[Stream, ...],
        sizes: list[int],
        olds: list[NDArray[np.uint8]] | None,
        /,
    ) -> list[NDArray[np.uint8]]:
        """Return the bytes of each extent, of the given sizes; DecodeError for anything odd."""


_DECODERS: dict[TransformKind, Decode] = {
    TransformKind.BYTES: plain.decode,
    TransformKind.SAME: plain.decode_same,
    TransformKind.BYTES_DELTA: plain.decode,
    TransformKind.FLOATS: floats.decode,
    TransformKind.FLOATS_DELTA: floats.decode,
    TransformKind.INTEGERS: integers.decode,
    TransformKind.INTEGERS_DELTA: integers.decode,
    TransformKind.NIBBLES: nibbles.decode,
    TransformKind.NIBBLES_DELTA: nibbles.decode,
    TransformKind.GGUF: gguf.decode,
    TransformKind.GGUF_DELTA: gguf.decode,
    TransformKind.BYTES_MATCHES: matches.decode,
}


def rebuild(payload: bytes, raw_size: int, read_base: ReadBase) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return what the payload says about a file, as (offset, bytes) in rising order of the offsets.

    Args:
        payload: decrypted; authenticated, but checked all the same.
        raw_size: of the row: bytes that all extents have together.
        read_base: returns exactly `size` old bytes, or raises what its caller wants to see; called extent by extent.

    Raises:
        DecodeError: it does not turn into exactly that.
    """
    decoded = TensorPayload.decode(payload)
    if decoded.raw_size != raw_size:
        raise DecodeError(f"tensor payload: {decoded.raw_size} bytes, {raw_size} expected")
    _check_overlaps(decoded)
    _check_windows(decoded)
    runs = [run for piece in decoded.pieces for run in rebuild_piece(piece, read_base)]
    return sorted(runs, key=lambda run: run[0])


def rebuild_piece(piece: Piece, read_base: ReadBase) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return (offset, bytes) of each extent of one piece.

    Raises:
        DecodeError: it does not decode to its extents.
    """
    num_values = sum(stream.count for stream in piece.streams)
    if num_values > VALUES_PER_BYTE_MAX * piece.raw_size + _VALUES_SLACK:
        raise DecodeError(f"tensor payload: {num_values} values for {piece.raw_size} bytes")
    sizes = [extent.size for extent in piece.extents]
    olds = _read_olds(piece, read_base) if piece.transform.needs_base else None
    parts = _DECODERS[piece.transform](piece.parameters, piece.streams, sizes, olds)
    if [part.nbytes for part in parts] != sizes:
        raise DecodeError(f"tensor payload: {piece.transform.name} made other sizes than {sizes}")
    return [(extent.offset, part) for extent, part in zip(piece.extents, parts, strict=True)]


def _check_overlaps(payload: TensorPayload) -> None:
    extents = sorted((extent for piece in payload.pieces for extent in piece.extents), key=lambda extent: extent.offset)
    for before, after in pairwise(extents):
        if before.offset + before.size > after.offset:
            raise DecodeError(f"tensor payload: extents overlap at {after.offset}")


def _check_windows(payload: TensorPayload) -> None:
    found = [piece for piece in payload.pieces if piece.transform is TransformKind.BYTES_MATCHES]
    total = sum(matches.window_size(piece.parameters, len(piece.extents)) for piece in found)
    if total > WINDOWS_SIZE_MAX:
        raise DecodeError(f"tensor payload: windows of {total} bytes, {WINDOWS_SIZE_MAX} at most")


def _read_olds(piece: Piece, read_base: ReadBase) -> list[NDArray[np.uint8]]:
    is_matches = piece.transform is TransformKind.BYTES_MATCHES
    olds = []
    for extent in piece.extents:
        size = matches.window_size(piece.parameters, len(piece.extents)) if is_matches else extent.size
        old = np.frombuffer(read_base(extent.base_file, extent.base_offset, size), np.uint8)
        if old.size != size:
            raise DecodeError(f"the base has no {size} bytes at {extent.base_offset}")
        olds.append(old)
    return olds
