"""Rows that changed much and rows that changed little: a delta of floats codes each class of rows by itself.

A fine-tune moves some rows of a matrix several times as far as others: tokens that came often, heads that had to learn.
The class of each row is told, in two or three bits; the values of a class are coded as if there were no others.

On the wire, in front of what `contextual` says:

    0       1     0x40
    1       n     columns; classes, 2 .. 8; of each: size of its parameters, its streams
    ...     ...   the parameters of each class, as `contextual` has them

and in front of the streams of all classes one of a byte for each row: its class. Pure.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from protocol.codec import numbers, streams
from protocol.codec.numbers import Reader
from protocol.codec.payload import STREAMS_MAX, Stream
from protocol.codec.values import Bytes, Values
from protocol.errors import DecodeError

NUM_CLASSES = (8, 4)
_FLAG = 0x40
_INNER_MAX = 0x3F  # neither classes nor still rows within a class
_SIZE_MAX = 2**32 - 1
_ROWS_MIN = 64
_GAIN_MIN = 0.025  # of the bits: moving rows takes the decoder a tenth of its time

Coded = tuple[bytes, tuple[Stream, ...]]


def choose(loudness: NDArray[np.float64], bits_of: Callable[[Bytes | None], float]) -> Bytes | None:
    """Return the class of each row; None if telling them apart is not worth it.

    Args:
        loudness: how far each row moved.
        bits_of: estimates the bits of all values, given the class of each row or None.
    """
    if loudness.size < _ROWS_MIN:
        return None
    best, least = None, (1 - _GAIN_MIN) * bits_of(None)
    for number in NUM_CLASSES:
        classes = np.empty(loudness.size, np.uint8)
        classes[np.argsort(loudness, kind="stable")] = np.arange(loudness.size) * number // loudness.size
        bits = bits_of(classes) + loudness.size * np.log2(number)
        if bits < least:
            best, least = classes, bits
    return best


def encode(classes: Bytes, columns: int, coded: list[Coded], level: int) -> Coded:
    """Say which row is of which class, in front of the parameters and streams of each class."""
    sizes = (number for parameters, own in coded for number in (len(parameters), len(own)))
    head = bytes([_FLAG]) + numbers.pack(columns, len(coded), *sizes)
    told = streams.encode(classes, level=level)
    return head + b"".join(parameters for parameters, _ in coded), (told, *(each for _, own in coded for each in own))


def is_there(parameters: bytes) -> bool:
    """Tell whether rows are told apart."""
    return bool(parameters and parameters[0] == _FLAG)


def decode(
    parameters: bytes,
    coded: tuple[Stream, ...],
    old: Values,
    inner: Callable[[bytes, tuple[Stream, ...], Values], Values],
) -> Values:
    """Return the values of all rows; undoes `encode`.

    Args:
        parameters: with the flag in front.
        coded: streams.
        old: the base's values.
        inner: decodes the rows of a class, given its parameters, streams and old values.

    Raises:
        DecodeError: there are no such rows.
    """
    reader = Reader(parameters[1:], "classes of rows")
    columns, number = reader.number(_SIZE_MAX), reader.number(max(NUM_CLASSES))
    if not columns or old.size % columns or not old.size or not coded:
        raise DecodeError(f"classes of rows of {columns} columns among {old.size} values")
    sizes = [(reader.number(_SIZE_MAX), reader.number(STREAMS_MAX)) for _ in range(number)]
    classes = streams.decode(coded[0], np.uint8, old.size // columns)
    if classes.max() >= number:
        raise DecodeError(f"a row of class {classes.max()} of {number}")
    values, olds = np.empty((classes.size, columns), old.dtype), old.reshape(classes.size, columns)
    at = 1
    for own, (size, num_streams) in enumerate(sizes):
        said = reader.take(size)
        if not said or said[0] > _INNER_MAX:
            raise DecodeError("classes of rows within a class")
        rows = np.flatnonzero(classes == own)
        values[rows] = inner(said, coded[at : at + num_streams], olds[rows].reshape(-1)).reshape(-1, columns)
        at += num_streams
    reader.finish()
    if at != len(coded):
        raise DecodeError(f"{len(coded)} streams where {at} belong")
    return values.reshape(-1)
