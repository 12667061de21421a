"""What order-0 coding with context could reach: empirical entropies in numpy, independent of the codec's code.

A bound is the number of bytes that an ideal entropy coder would need that knows every table for nothing. Tables are per
matrix and contexts few, so that what the tables would cost stays small. Classes that no stored field gives away (how
loud a row or a column is) are paid for, at their own order-0 entropy.

Loudness class of a value: half octaves of (rms of its row) * (rms of its column), over the step of its group where
there is one; sent once for each row and each column.

Full:
    bf16       sign: 1 bit; exponent given the loudness class; mantissa given the exponent
    int8       code given the loudness class; scales: exponent, and mantissa, each order 0
    int4       code given the zero point where there is one, and the loudness class; scales as for int8; zeros order 0
    q8_0       code given the loudness class; d: high byte, low byte
    q4_1       code given the zero point, rounded, and the loudness class; d; m: high byte given d's, low byte
    q4_k       code given the zero point, rounded, and the loudness class; 6-bit minima given scales; d and dmin by byte

Delta, everything given the base:
    bf16       d given the old exponent: d the difference of the bits mapped to a rising integer
    int8       d given the magnitude of the old code in 9 classes and whether the row's scale changed
    int4       d given the old code and whether the group's scale or zero changed
    q8_0       d given the magnitude of the old code in 9 classes and whether d changed
    q4_1, q4_k d given the old code and whether scale or minimum of the group changed
    d is new - (old * old step / new step, put to the new zero point, rounded). Stored fields: their difference, order 0
    differences are coded exactly up to 63, beyond by 16 buckets an octave and the rest as it is
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.codec.fields import Fields, fields_of
from bench.codec.samples import Matrix
from groundsegment.models.bfloat16 import from_bfloat16

_CLASSES_MAX = 24
_EXACT_MAX = 64
_BUCKET_BITS = 4


def full_bytes(matrix: Matrix) -> float:
    """Return the bound of a matrix without a base."""
    if matrix.kind == "bf16":
        return _full_floats(matrix) / 8
    fields = fields_of(matrix)
    loudness, cost = _code_loudness(fields)
    context = loudness if fields.zeros is None else loudness * 16 + _zero_class(fields)
    return (cost + conditional_bits(fields.codes, context) + _full_stored(matrix.kind, fields)) / 8


def delta_bytes(new: Matrix, old: Matrix) -> float:
    """Return the bound of a matrix given the same one of the base."""
    if new.kind == "bf16":
        return _delta_floats(new, old) / 8
    fields, before = fields_of(new), fields_of(old)
    predicted, changed = _predict(fields, before)
    if new.kind in {"int8", "q8_0"}:
        context = np.minimum(np.abs(before.codes) // 15, 8) * 2 + changed
    else:
        context = before.codes * 2 + changed
    bits = difference_bits(fields.codes.astype(np.int64) - predicted, context)
    for name, values in fields.stored.items():
        bits += difference_bits(values.astype(np.int64) - before.stored[name].astype(np.int64), None)
    return bits / 8


def entropy_bits(values: NDArray[np.integer]) -> float:
    """Return n times the empirical entropy."""
    counts = np.unique(values, return_counts=True)[1]
    return float(counts.sum() * np.log2(counts.sum()) - (counts * np.log2(counts)).sum())


def conditional_bits(values: NDArray[np.integer], context: NDArray[np.integer]) -> float:
    """Return n times the empirical entropy of values given their context."""
    wide = np.broadcast_to(context, values.shape).astype(np.int64).ravel()
    joint = (wide - wide.min()) << 20 | (values.astype(np.int64).ravel() - int(values.min()))
    return entropy_bits(joint) - entropy_bits(wide)


def difference_bits(differences: NDArray[np.int64], context: NDArray[np.integer] | None) -> float:
    """Return the bits of differences; of large ones only sign, octave and top bits are modelled."""
    magnitude = np.abs(differences)
    octave = np.maximum(np.frexp(magnitude.astype(np.float64))[1] - 1, 0)
    spare = np.where(magnitude < _EXACT_MAX, 0, octave - _BUCKET_BITS)
    bucket = np.where(magnitude < _EXACT_MAX, magnitude, _EXACT_MAX + (octave << _BUCKET_BITS) + (magnitude >> spare))
    symbols = np.where(differences < 0, -bucket, bucket)
    known = entropy_bits(symbols) if context is None else conditional_bits(symbols, context)
    return known + float(spare.sum())


def _full_floats(matrix: Matrix) -> float:
    bits = matrix.parts["values"].view("<u2").reshape(matrix.rows, matrix.columns)
    exponent, mantissa = bits >> 7 & 255, bits & 127
    loudness, cost = _loudness(from_bfloat16(bits), None)
    return cost + bits.size + conditional_bits(exponent, loudness) + conditional_bits(mantissa, exponent)


def _delta_floats(new: Matrix, old: Matrix) -> float:
    values, before = new.parts["values"].view("<u2"), old.parts["values"].view("<u2")
    difference = _rising(values) - _rising(before)
    difference = (difference + 32768) % 65536 - 32768
    return difference_bits(difference, before >> 7 & 255)


def _rising(bits: NDArray[np.uint16]) -> NDArray[np.int64]:
    wide = bits.astype(np.int64)
    return np.where(wide & 0x8000, 0xFFFF - wide, wide + 0x8000)


def _full_stored(kind: str, fields: Fields) -> float:
    stored = fields.stored
    if kind in {"int8", "int4", "int4_asym"}:
        bits = entropy_bits(stored["scales"] >> 7) + entropy_bits(stored["scales"] & 127)
        return bits + (entropy_bits(stored["zeros"]) if "zeros" in stored else 0.0)
    bits = _by_byte(stored["d"], None)
    if kind == "q4_1":
        bits += _by_byte(stored["m"], stored["d"] >> 8)
    if kind == "q4_k":
        bits += _by_byte(stored["dmin"], None) + entropy_bits(stored["scales"])
        bits += conditional_bits(stored["minima"], stored["scales"])
    return bits


def _by_byte(values: NDArray[np.integer], context: NDArray[np.integer] | None) -> float:
    high, low = values >> 8, values & 255
    return (entropy_bits(high) if context is None else conditional_bits(high, context)) + entropy_bits(low)


def _code_loudness(fields: Fields) -> tuple[NDArray[np.int64], float]:
    steps = np.repeat(fields.steps, fields.group_columns, axis=1)
    if fields.zeros is not None:
        centre = np.repeat(fields.zeros, fields.group_columns, axis=1)
    else:
        centre = np.float32(8 if fields.codes.min() >= 0 else 0)
    return _loudness((fields.codes - centre) * steps, steps)


def _loudness(values: NDArray[np.float32], steps: NDArray[np.float32] | None) -> tuple[NDArray[np.int64], float]:
    """Return the class of every value, and the bits that tell the rows' and columns' share of it."""
    squares = np.square(values, dtype=np.float64)
    rows, columns = _half_octaves(squares.mean(axis=1)), _half_octaves(squares.mean(axis=0))
    classes = rows[:, None] + columns[None, :]
    if steps is not None:
        classes = classes - _half_octaves(np.square(steps, dtype=np.float64))
    classes -= int(np.median(classes))
    half = _CLASSES_MAX // 2
    return np.clip(classes, -half, half) + half, entropy_bits(rows) + entropy_bits(columns)


def _half_octaves(mean_squares: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(np.log2(np.maximum(mean_squares, 1e-30))).astype(np.int64)


def _zero_class(fields: Fields) -> NDArray[np.int64]:
    assert fields.zeros is not None
    zeros = np.clip(np.rint(fields.zeros), 0, 15).astype(np.int64)
    return np.repeat(zeros, fields.group_columns, axis=1)


def _predict(new: Fields, old: Fields) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the old codes on the new grid, rounded, and where the grid changed."""
    before = old.zeros if old.zeros is not None else np.float32(8 if old.codes.min() >= 0 else 0)
    now = new.zeros if new.zeros is not None else np.float32(8 if new.codes.min() >= 0 else 0)
    changed = old.steps != new.steps
    if old.zeros is not None and new.zeros is not None:
        changed |= old.zeros != new.zeros
    ratio = np.divide(old.steps, new.steps, out=np.ones_like(old.steps), where=new.steps != 0)
    spread: Callable[[NDArray[np.generic]], NDArray[np.generic]] = lambda part: np.repeat(  # noqa: E731
        np.broadcast_to(part, old.steps.shape), old.group_columns, axis=1
    )
    moved = np.rint((old.codes - spread(before)) * spread(ratio) + spread(now)).astype(np.int64)
    wide = spread(changed)
    return np.where(wide, moved, old.codes), wide
