"""Scales and minima of groups: the form that takes the fewest bytes, and what is no form."""

import numpy as np
import pytest

from protocol.codec import numbers
from protocol.codec.contexts.contextual import Context
from protocol.codec.fourbit import coded_fields
from protocol.codec.fourbit.coded_fields import Form
from protocol.codec.fourbit.grouped import StreamReader
from protocol.errors import DecodeError

ROWS, COLUMNS = 256, 32
CLASSES = np.zeros(ROWS * COLUMNS, np.uint8)


def scales(*, loud_rows, values=1024):
    """Scales of a matrix, perhaps with a third of its rows three octaves louder; of so many values an octave."""
    rng = np.random.default_rng(2)
    loud = 3.0 * loud_rows * (rng.random((ROWS, 1)) < 0.33)
    bits = np.rint(values * (8 + loud + rng.normal(0, 0.2, (ROWS, COLUMNS)))) * (1024 // values)
    return bits.astype(np.uint16).reshape(-1)


def come_back(values, columns):
    """Check that values survive; returns their form and the bytes that they took."""
    form, coded = coded_fields.encode(values, None, CLASSES, level=10, columns=columns)
    again, rest = Form.decode(form.encode() + b"rest")
    assert (again, rest) == (form, b"rest")
    source = StreamReader(coded)
    assert coded_fields.decode(source, None, CLASSES, again, 2).tolist() == values.tolist()
    source.finish()
    return form, len(form.encode()) + sum(stream.stored_size for stream in coded)


@pytest.mark.parametrize("values", [64, 1024])
def test_loud_rows_are_told_apart_where_that_saves_bytes(values):
    form, size = come_back(scales(loud_rows=True, values=values), COLUMNS)
    assert form.grid[0] == Context.GRID
    assert form.has_dictionary is (values == 64)
    without, size_without = come_back(scales(loud_rows=True, values=values), 0)
    assert not without.grid
    assert size < 0.95 * size_without


def test_scales_of_even_rows_need_no_grid():
    assert not come_back(scales(loud_rows=False), COLUMNS)[0].grid


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "missing"),
        (b"\x41\x05" + numbers.pack(1, 1) + b"\0", "a grid of rows and columns, and 1 cuts"),
        (b"\x40" + numbers.pack(5000, 1), "not in 0"),
        (b"\x40" + numbers.pack(5, 65), "not in 0"),
        (b"\x40" + numbers.pack(5, 3) + b"\1", "ends at"),
    ],
)
def test_what_is_no_form_is_refused(data, match):
    with pytest.raises(DecodeError, match=match):
        Form.decode(data)


def test_a_grid_of_other_values_is_refused():
    form, coded = coded_fields.encode(scales(loud_rows=True), None, CLASSES, level=10, columns=COLUMNS)
    for wrong in (CLASSES[:-COLUMNS], np.zeros(ROWS * COLUMNS * 2, np.uint8)):
        with pytest.raises(DecodeError):
            coded_fields.decode(StreamReader(coded), None, wrong, form, 2)
    with pytest.raises(DecodeError):
        coded_fields.decode(StreamReader(coded[:-1]), None, CLASSES, form, 2)
