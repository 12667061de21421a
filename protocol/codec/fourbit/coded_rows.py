"""The codes of groups, row by row, as streams: as they are, or as the difference to what the base predicts.

Pure.
"""

import numpy as np
from numpy.typing import NDArray

from protocol.codec.contexts.buckets import Cuts
from protocol.codec.fourbit import cells, grouped
from protocol.codec.fourbit.grouped import Classes, StreamReader
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

Bytes = NDArray[np.uint8]


def encode(
    rows: Bytes, predicted: Bytes | None, classes: Classes, *, code_max: int, is_packed: bool, levels: int, level: int
) -> tuple[Cuts, list[Stream]]:
    """Return the cuts and streams of the rows.

    Args:
        rows: one for each group.
        predicted: what to take the difference to.
        classes: one for each group.
        code_max: 2**bits - 1; differences are modulo 2**bits.
        is_packed: whether a byte holds two codes, of four bits.
        levels: see `grouped.choose_cuts`.
        level: see `grouped.encode_rows`.
    """
    if predicted is not None:
        rows = cells.subtract(rows, predicted) if is_packed else (rows - predicted) & np.uint8(code_max)
    cuts = grouped.choose_cuts(rows, classes, is_packed=is_packed, levels=levels)
    return cuts, grouped.encode_rows(rows, classes, cuts, is_packed=is_packed, level=level)


def decode(
    source: StreamReader,
    predicted: Bytes | None,
    classes: Classes,
    cuts: Cuts,
    *,
    width: int,
    code_max: int,
    is_packed: bool,
) -> Bytes:
    """Return the rows; undoes `encode`.

    Args:
        source: where the streams come from.
        predicted: as for `encode`.
        classes: likewise.
        cuts: as `encode` returned them.
        width: bytes of a row.
        code_max: as for `encode`.
        is_packed: likewise.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    rows = grouped.decode_rows(source, classes, cuts, width, is_packed=is_packed)
    if not is_packed and rows.max() > code_max:
        raise DecodeError(f"a code of {rows.max()} where {code_max} is the highest")
    if predicted is None:
        return rows
    if is_packed:
        return cells.add(predicted, rows)
    rows += predicted
    rows &= np.uint8(code_max)
    return rows
