"""Contexts by row and column: loud rows and quiet columns of a matrix are coded apart.

Each row has a class, each column has one, and a table says which context a row class and a column class make. Sorted
by their classes, the rows and columns of a context are rectangles, so that splitting and joining are copies of
rectangles and one gather of columns: about 1.5 ns a value, where a class per value (`partition`) costs 5.

On the wire: a head in the parameters, and the classes of rows and columns as the first two streams.

    offset  size  field
    0       4     columns; the rows follow from the number of values
    4       1     row classes     1 .. 16
    5       1     column classes  1 .. 16
    6       1     contexts        1 .. 32
    7       r*c   the context of each row class and column class

The values of a context: row class by row class, in each the runs of neighbouring column classes with that context,
row by row. Pure.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.codec import streams
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

CLASSES_MAX = 16
CONTEXTS_MAX = 32
_HEAD = struct.Struct(">IBBB")
_T = TypeVar("_T", np.uint8, np.uint16, np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """Which values of a matrix share a context.

    Attributes:
        row_classes: one for each row.
        column_classes: one for each column.
        contexts: the context of each (row class, column class); 0 .. n without a gap.
    """

    row_classes: NDArray[np.uint8]
    column_classes: NDArray[np.uint8]
    contexts: NDArray[np.uint8]

    @property
    def num_contexts(self) -> int:
        """Streams that the values become."""
        return int(self.contexts.max()) + 1

    def encode(self, level: int) -> tuple[bytes, tuple[Stream, Stream]]:
        """Return the head and the two streams."""
        head = _HEAD.pack(self.column_classes.size, *self.contexts.shape, self.num_contexts)
        return head + self.contexts.tobytes(), (
            streams.encode(self.row_classes, level=level),
            streams.encode(self.column_classes, level=level),
        )

    @classmethod
    def decode(cls, head: bytes, coded: Sequence[Stream], num_values: int) -> Self:
        """Undo `encode`.

        Args:
            head: parameters.
            coded: all streams of the piece; one for each context comes after the first two.
            num_values: of the matrix.

        Raises:
            DecodeError: it is no grid of that many values.
        """
        if len(head) < _HEAD.size:
            raise DecodeError(f"grid head of {len(head)} bytes")
        columns, num_rows, num_columns, num_contexts = _HEAD.unpack_from(head)
        if not (1 <= num_rows <= CLASSES_MAX and 1 <= num_columns <= CLASSES_MAX):
            raise DecodeError(f"grid of {num_rows} row classes and {num_columns} column classes")
        if len(head) != _HEAD.size + num_rows * num_columns or len(coded) != 2 + num_contexts:
            raise DecodeError(f"grid head of {len(head)} bytes with {len(coded)} streams")
        if not columns or not num_values or num_values % columns:
            raise DecodeError(f"grid of {num_values} values in {columns} columns")
        contexts = np.frombuffer(head, np.uint8, offset=_HEAD.size).reshape(num_rows, num_columns)
        if not 1 <= num_contexts <= CONTEXTS_MAX or contexts.max() != num_contexts - 1:
            raise DecodeError(f"grid of {num_contexts} contexts, but the highest is {contexts.max()}")
        grid = cls(
            row_classes=streams.decode(coded[0], np.uint8, num_values // columns),
            column_classes=streams.decode(coded[1], np.uint8, columns),
            contexts=contexts,
        )
        if grid.row_classes.max() >= num_rows or grid.column_classes.max() >= num_columns:
            raise DecodeError("grid with a row or column of an unknown class")
        return grid

    def split(self, values: NDArray[_T]) -> list[NDArray[_T]]:
        """Return the values of each context.

        Args:
            values: one axis, row by row.
        """
        matrix = values.reshape(self.row_classes.size, self.column_classes.size)
        matrix = matrix[np.argsort(self.row_classes, kind="stable")]
        matrix = matrix[:, np.argsort(self.column_classes, kind="stable")]
        parts: list[list[NDArray[_T]]] = [[values[:0]] for _ in range(self.num_contexts)]
        for context, rows, columns in self._rectangles():
            parts[context].append(matrix[rows, columns].ravel())
        return [np.concatenate(part) for part in parts]

    def join(self, parts: Sequence[NDArray[_T]]) -> NDArray[_T]:
        """Undo `split`.

        Raises:
            DecodeError: the parts have not the sizes that the grid gives them.
        """
        matrix = np.empty((self.row_classes.size, self.column_classes.size), parts[0].dtype)
        done = [0] * len(parts)
        for context, rows, columns in self._rectangles():
            rectangle = matrix[rows, columns]
            begin = done[context]
            done[context] += rectangle.size
            if done[context] > parts[context].size:
                raise DecodeError(f"context {context} has only {parts[context].size} values")
            rectangle[:] = parts[context][begin : done[context]].reshape(rectangle.shape)
        if done != [part.size for part in parts]:
            raise DecodeError(f"contexts of {[part.size for part in parts]} values where {done} belong")
        return self._restore(matrix).reshape(-1)

    def _restore(self, matrix: NDArray[_T]) -> NDArray[_T]:
        """Put sorted rows and columns back where they were."""
        if self.contexts.shape[1] > 1:
            places = np.argsort(np.argsort(self.column_classes, kind="stable"), kind="stable")
            matrix = np.take(matrix, places, axis=1, mode="clip")
        if self.contexts.shape[0] == 1:
            return matrix
        restored = np.empty_like(matrix)
        restored[np.argsort(self.row_classes, kind="stable")] = matrix
        return restored

    def _rectangles(self) -> Iterator[tuple[int, slice, slice]]:
        """Yield (context, rows, columns) of the matrix sorted by classes; neighbours of one context are one."""
        num_rows, num_columns = self.contexts.shape
        row_ends = np.cumsum(np.bincount(self.row_classes, minlength=num_rows)).tolist()
        column_ends = np.cumsum(np.bincount(self.column_classes, minlength=num_columns)).tolist()
        for row, row_end in enumerate(row_ends):
            rows = slice(row_ends[row - 1] if row else 0, row_end)
            start = 0
            contexts = self.contexts[row].tolist()
            for column, column_end in enumerate(column_ends):
                if column + 1 < num_columns and contexts[column + 1] == contexts[column]:
                    continue
                yield contexts[column], rows, slice(start, column_end)
                start = column_end
