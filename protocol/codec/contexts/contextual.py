"""Values coded with contexts: what floats and integers have in common on the wire.

    0       1     context   0 none: one stream; 1 grid; 2 key: something both ends know of each old value
    1       ...   grid: its head; key: the first key of each class, rising from 0, one byte each

A grid has two streams of tables before those of its contexts, keys have a stream for each class. Pure.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import numpy as np

from protocol.codec import streams
from protocol.codec.contexts.grid import Grid
from protocol.codec.contexts.partition import Places, check_firsts, merge, partition
from protocol.codec.payload import Stream
from protocol.codec.values import Bytes, Values
from protocol.errors import DecodeError

_DTYPES: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


class Context(IntEnum):
    """By what values are told apart."""

    NONE = 0
    GRID = 1
    KEY = 2


def encode(values: Values, grid: Grid | None, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and the streams of values, in one stream or with a grid."""
    if grid is None:
        return bytes([Context.NONE]), (streams.encode(values, level=level),)
    head, tables = grid.encode(level)
    parts = tuple(streams.encode(part, level=level) for part in grid.split(values))
    return bytes([Context.GRID]) + head, tables + parts


def encode_by_key(values: Values, keys: Bytes, firsts: tuple[int, ...], level: int) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and the streams of values told apart by keys."""
    if len(firsts) == 1:
        return encode(values, None, level)
    coded = tuple(streams.encode(part, level=level) for part in partition(values, keys, firsts))
    return bytes([Context.KEY, *firsts]), coded


def is_by_key(parameters: bytes) -> bool:
    """Whether `decode_by_key` is to be called rather than `decode`."""
    return parameters[:1] == bytes([Context.KEY])


def decode(parameters: bytes, coded: tuple[Stream, ...], size: int, count: int) -> Values:
    """Undo `encode`.

    Args:
        parameters: without KEY in front.
        coded: the streams.
        size: bytes of a value: 1, 2 or 4.
        count: of the values.

    Raises:
        DecodeError: they do not hold exactly `count` values.
    """
    if parameters == bytes([Context.NONE]) and len(coded) == 1:
        return streams.decode(coded[0], _DTYPES[size], count)
    if parameters[:1] != bytes([Context.GRID]):
        raise DecodeError(f"{len(coded)} streams in context {parameters[:1].hex()}")
    grid = Grid.decode(parameters[1:], coded, count)
    return grid.join(_decode_parts(coded[2:], size, count))


def decode_by_key(
    parameters: bytes,
    coded: tuple[Stream, ...],
    size: int,
    count: int,
    keys: Iterable[Bytes],
) -> Iterator[tuple[Places, Values]]:
    """Undo `encode_by_key`, chunk by chunk.

    Args:
        parameters: with KEY in front.
        coded: the streams.
        size: bytes of a value: 1, 2 or 4.
        count: of the values.
        keys: in chunks of `partition.CHUNK_SIZE`, as many as values.

    Yields:
        Where values go, and the values, as `partition.merge` does: where none go they are 0.

    Raises:
        DecodeError: they do not hold exactly as many values of each class as the keys have.
    """
    firsts = list(parameters[1:])
    check_firsts(firsts)
    if len(coded) != len(firsts):
        raise DecodeError(f"{len(firsts)} classes in {len(coded)} streams")
    yield from merge(_decode_parts(coded, size, count), keys, firsts)


def _decode_parts(coded: tuple[Stream, ...], size: int, count: int) -> list[Values]:
    # First the sum: it bounds the memory that single counts could ask for.
    if sum(stream.count for stream in coded) != count:
        raise DecodeError(f"{sum(stream.count for stream in coded)} values in {len(coded)} streams, {count} belong")
    return [streams.decode(stream, _DTYPES[size], stream.count) for stream in coded]
