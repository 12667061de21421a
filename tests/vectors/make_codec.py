"""The golden segments of the weight codec. `python -m tests.vectors.make_codec` prints the file anew; see the README.

Each is a payload of a TENSOR segment, the base bytes that it is a difference to, and the bytes that it has to become.
Numbers are made by a rule in integers, so that they are the same everywhere; payloads need not be what today's encoder
makes of them, but every decoder must make the same bytes of them for ever.
"""

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from protocol.codec import floats, integers, matches, plain, row_classes, streams
from protocol.codec.contexts import contextual
from protocol.codec.contexts.grid import Grid
from protocol.codec.floats import FloatFormat, FloatLayout
from protocol.codec.fourbit import cells, nibbles
from protocol.codec.fourbit.affine import Float
from protocol.codec.fourbit.coded_fields import Form
from protocol.codec.fourbit.nibble_layout import NibbleLayout, Packing, Zeros
from protocol.codec.ggml import gguf
from protocol.codec.ggml.gguf import GgufLayout
from protocol.codec.ggml.gguf_blocks import FORMATS, BlockType
from protocol.codec.integers import IntegerLayout
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.payload import Extent, Piece, TensorPayload
from protocol.codec.values import fold

ROWS, COLUMNS = 16, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSegment:
    """What a decoder is given and what it has to say.

    Attributes:
        payload: of the segment.
        base: the base's only file.
        runs: (offset, bytes) of the file.
    """

    payload: bytes
    base: bytes
    runs: tuple[tuple[int, bytes], ...]


def noise(count: int, seed: int) -> np.ndarray:
    """Return uint32 of a linear congruential generator, its better half."""
    state, values = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 32)
    return np.array(values, np.uint32)


def bell(count: int, seed: int) -> np.ndarray:
    """Return int64 that look like weights: sums of noise around 0, of -510 to 510; every 16th row is loud."""
    parts = noise(4 * count, seed).reshape(4, count).astype(np.int64) % 256
    values = parts[0] + parts[1] - parts[2] - parts[3]
    return np.where(np.arange(count) // COLUMNS % 16 == 3, values * 4, values)


def float_bits(kind: FloatFormat, count: int, seed: int) -> np.ndarray:
    """Return floats of a format with a bell's magnitudes; the first are zeros, infinities, NaNs and denormals."""
    wide = (bell(count, seed).astype(np.float64) / (4096 if kind.size > 1 else 64)).astype(np.float32).view(np.uint32)
    bits, mantissa = 8 * kind.size, kind.mantissa_bits
    exponent_bits = bits - 1 - mantissa
    sign, exponent = wide >> 31, (wide >> 23 & 255).astype(np.int64) - 127 + 2 ** (exponent_bits - 1) - 1
    field = np.clip(exponent, 0, 2**exponent_bits - 1).astype(np.uint32)
    values = sign << np.uint32(bits - 1) | field << np.uint32(mantissa) | (wide & 0x7FFFFF) >> np.uint32(23 - mantissa)
    top = (2**exponent_bits - 1) << mantissa
    special = [0, 1 << bits - 1, 1, 1 << bits - 1 | 1, top, 1 << bits - 1 | top, top | 1, 2**bits - 1]
    values[: len(special)] = special
    return values.astype(f"<u{kind.size}")


def moved(values: np.ndarray, seed: int) -> np.ndarray:
    """Return bits of which one in four moved by a few."""
    step = (noise(values.size, seed) % 16).astype(np.int64) - 8
    return (values.astype(np.int64) + np.where(np.abs(step) < 2, step * 3, 0)).astype(values.dtype)


def hand_made_grid(rows: int, columns: int) -> Grid:
    """Return a grid that no encoder chose: three classes of rows, four of columns, five contexts."""
    return Grid(
        row_classes=(np.arange(rows) * 7 % 3).astype(np.uint8),
        column_classes=(np.arange(columns) * 5 % 4).astype(np.uint8),
        contexts=np.array([[0, 1, 1, 2], [3, 3, 3, 3], [4, 0, 2, 2]], np.uint8),
    )


def golden(transform: TransformKind, coded: tuple, news: list, olds: list | None) -> GoldenSegment:
    """Return the segment of one piece; extents lie one after another with gaps, in rising order."""
    extents, runs, base, at = [], [], b"", 64
    for index, new in enumerate(news):
        reference = {}
        if olds is not None:
            base += bytes(16)
            reference = {"base_file": 0, "base_offset": len(base)}
            base += olds[index].tobytes()
        extents.append(Extent(offset=at, size=new.size, **reference))
        runs.append((at, new.tobytes()))
        at += new.size + 8
    piece = Piece(transform=transform, extents=tuple(extents), parameters=coded[0], streams=coded[1])
    return GoldenSegment(payload=TensorPayload(pieces=(piece,)).encode(), base=base, runs=tuple(runs))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Return the bytes of values."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def bytes_segment(with_base: bool) -> GoldenSegment:
    """Return text, whole or with a few letters changed."""
    old = np.frombuffer(b"What goes up must come down, bit for bit. " * 20, np.uint8)
    new = old.copy()
    new[::97] += 1
    if with_base:
        return golden(TransformKind.BYTES_DELTA, plain.encode([new], [old], None), [new], [old])
    return golden(TransformKind.BYTES, plain.encode([new], None, None), [new], None)


def matches_segment() -> GoldenSegment:
    """Return text that grew in the middle, and what it grew from."""
    old = noise(300, 21).astype(np.uint8)
    new = np.concatenate([old[:100], np.frombuffer(b"and a line more", np.uint8), old[100:]])
    return golden(TransformKind.BYTES_MATCHES, matches.encode([new], old, level=19), [new], [old])


def same_segment() -> GoldenSegment:
    """Return two extents that stayed as they were."""
    olds = [as_bytes(noise(50, 3)), as_bytes(noise(20, 4))]
    return golden(TransformKind.SAME, (b"", ()), olds, olds)


def float_segment(kind: FloatFormat) -> GoldenSegment:
    """Return floats in two extents, as the encoder codes them."""
    new = as_bytes(float_bits(kind, ROWS * COLUMNS, 5))
    news = [new[: 8 * kind.size], new[8 * kind.size :]]
    layout = FloatLayout(format=kind, columns=COLUMNS)
    return golden(TransformKind.FLOATS, floats.encode(news, None, layout), news, None)


def float_grid_segment() -> GoldenSegment:
    """Return bf16 with a grid."""
    values = float_bits(FloatFormat.BF16, ROWS * COLUMNS, 6)
    parameters, coded = contextual.encode(
        floats.rotate_left(values.astype(np.uint16)), hand_made_grid(ROWS, COLUMNS), 8
    )
    return golden(TransformKind.FLOATS, (bytes([FloatFormat.BF16]) + parameters, coded), [as_bytes(values)], None)


def float_delta_segment(kind: FloatFormat) -> GoldenSegment:
    """Return a delta with the old exponent as key."""
    old = float_bits(kind, ROWS * COLUMNS, 7)
    new = moved(old, 8)
    native = f"u{kind.size}"
    folded = fold(floats.to_rising(new.astype(native)) - floats.to_rising(old.astype(native)))
    exponents = old.astype(np.uint32) >> kind.mantissa_bits & (2 ** (8 * kind.size - 1 - kind.mantissa_bits) - 1)
    keys = exponents.astype(np.uint8)
    middle = int(np.sort(keys)[keys.size // 2])
    parameters, coded = contextual.encode_by_key(folded, keys, (0, middle - 1, middle, middle + 1), 8)
    return golden(TransformKind.FLOATS_DELTA, (bytes([kind]) + parameters, coded), [as_bytes(new)], [as_bytes(old)])


def row_classes_segment() -> GoldenSegment:
    """Return a delta of bf16 of three classes of rows, coded each by itself, with a fourth that no row is in."""
    old = float_bits(FloatFormat.BF16, ROWS * COLUMNS, 24)
    new = moved(old, 25)
    folded = fold(floats.to_rising(new.astype(np.uint16)) - floats.to_rising(old.astype(np.uint16)))
    keys = (old >> 7).astype(np.uint8)
    classes = (np.arange(ROWS) * 5 % 3).astype(np.uint8)
    coded = []
    for own in range(4):
        rows, own_keys = (values.reshape(ROWS, -1)[classes == own].reshape(-1) for values in (folded, keys))
        firsts = (0, 100 + own, 124) if own < 2 else (0,)
        coded.append(contextual.encode_by_key(rows, own_keys, firsts, 8))
    parameters, told = row_classes.encode(classes, COLUMNS, coded, 8)
    return golden(
        TransformKind.FLOATS_DELTA, (bytes([FloatFormat.BF16]) + parameters, told), [as_bytes(new)], [as_bytes(old)]
    )


def still_segment(transform: TransformKind) -> GoldenSegment:
    """Return a delta of which only every third row moved."""
    is_float = transform is TransformKind.FLOATS_DELTA
    old = as_bytes(float_bits(FloatFormat.BF16, ROWS * COLUMNS, 16))
    new = old.copy()
    matrix = new.reshape(ROWS, -1)
    matrix[::3] += (noise(matrix[::3].size, 17) % 2).astype(np.uint8).reshape(matrix[::3].shape)
    if is_float:
        coded = floats.encode([new], [old], FloatLayout(format=FloatFormat.BF16, columns=COLUMNS))
    else:
        coded = integers.encode([new], [old], IntegerLayout(bits=16, is_signed=False, columns=COLUMNS))
    return golden(transform, coded, [new], [old])


def integer_segment(bits: int, is_signed: bool) -> GoldenSegment:
    """Return integers, as the encoder codes them."""
    new = as_bytes(bell(ROWS * COLUMNS, 9).astype(f"<i{bits // 8}"))
    layout = IntegerLayout(bits=bits, is_signed=is_signed, columns=COLUMNS)
    return golden(TransformKind.INTEGERS, integers.encode([new], None, layout), [new], None)


def integer_delta_segment(context: contextual.Context) -> GoldenSegment:
    """Return a delta of int8 in one stream, with a grid, or with the old magnitude as key."""
    old = (bell(ROWS * COLUMNS, 10) // 16).astype(np.int8)
    new = moved(old, 11)
    folded = fold(as_bytes(new) - as_bytes(old))
    if context is contextual.Context.KEY:
        parameters, coded = contextual.encode_by_key(folded, np.abs(old).view(np.uint8), (0, 3, 9, 20), 8)
    else:
        grid = hand_made_grid(ROWS, COLUMNS) if context is contextual.Context.GRID else None
        parameters, coded = contextual.encode(folded, grid, 8)
    return golden(TransformKind.INTEGERS_DELTA, (b"\x88" + parameters, coded), [as_bytes(new)], [as_bytes(old)])


def nibble_segment(packing: Packing, with_base: bool) -> GoldenSegment:
    """Return four-bit codes with bf16 scales and packed zero points, whole or as a delta with some scales moved."""
    layout = NibbleLayout(packing=packing, rows=ROWS, columns=COLUMNS, group=8, scales=Float.BF16, zeros=Zeros.PACKED)
    codes, scales, zeros = layout.sizes
    nibble = np.clip(bell(2 * codes, 12) // 100 + 8, 0, 15).astype(np.uint8)
    olds = [
        nibble[::2] | nibble[1::2] << np.uint8(4),
        as_bytes((0x3C00 + noise(scales // 2, 13) % 200).astype("<u2")),
        np.where(noise(zeros, 14) % 3 == 0, np.uint8(0x87), np.uint8(0x88)),
    ]
    news = [old.copy() for old in olds]
    news[0][::11] ^= 1
    news[1].view("<u2")[::5] += 3
    coded = nibbles.encode(news, olds if with_base else None, layout, level=8)
    return golden(
        TransformKind.NIBBLES_DELTA if with_base else TransformKind.NIBBLES, coded, news, olds if with_base else None
    )


def sparse_segment() -> GoldenSegment:
    """Return bytes of which some are not 0."""
    new = np.where(noise(5000, 43) % 50 == 0, noise(5000, 44) % 7, 0).astype(np.uint8)
    stream = streams.encode(new, level=8)
    assert stream.coder is Coder.SPARSE
    return golden(TransformKind.BYTES, (b"", (stream,)), [new], None)


def turned_segment() -> GoldenSegment:
    """Return groups that lean to one end or the other or to none; those of a bucket as pcodec's codes or as zstd's."""
    layout = NibbleLayout(packing=Packing.ROW, rows=32, columns=512, group=32, zeros=Zeros.BYTES)
    zeros = np.choose(noise(512, 40) % 3, [3, 7, 12]).astype(np.uint8)
    codes = (np.abs(bell(32 * 512, 41).reshape(512, 32)) // 80 + 1).clip(max=12).astype(np.uint8)
    codes = np.where((zeros > 7)[:, None], np.uint8(15) - codes, codes)
    codes[zeros == 7] = (noise(32 * 512, 42).reshape(512, 32)[zeros == 7] % 16).astype(np.uint8)
    news = [cells.bytes_of(codes.reshape(-1)), zeros]
    parameters, (told, *coded) = nibbles.encode(news, None, layout, level=8)
    assert len(coded) == 2
    made = streams.decode(coded[1], np.uint8, coded[1].count)
    joined = np.empty(made.size // 2, np.uint8)
    cells.join(made, joined)
    as_bytes_of_two = replace(streams.encode_bytes(joined.tobytes(), level=1), count=joined.size)
    assert as_bytes_of_two.coder is Coder.ZSTD
    return golden(TransformKind.NIBBLES, (parameters, (told, coded[0], as_bytes_of_two)), news, None)


def few_changes_segment(packing: Packing) -> GoldenSegment:
    """Return a delta of four-bit codes of which one in a hundred and a few of their scales moved."""
    rows, columns = (64, 48) if packing is Packing.ROW else (48, 64)
    layout = NibbleLayout(packing=packing, rows=rows, columns=columns, group=16, scales=Float.F16, zeros=Zeros.BYTES)
    codes, scales, zeros = layout.sizes
    nibble = np.clip(bell(2 * codes, 18) // 100 + 8, 0, 15).astype(np.uint8)
    olds = [
        nibble[::2] | nibble[1::2] << np.uint8(4),
        as_bytes((0x2000 + noise(scales // 2, 19) % 3000).astype("<u2")),
        (noise(zeros, 20) % 3 + 7).astype(np.uint8),
    ]
    news = [old.copy() for old in olds]
    news[0][3::167] ^= 0x10
    news[0][5::431] ^= 0x03
    news[1].view("<u2")[::29] += 1
    coded = nibbles.encode(news, olds, layout, level=8)
    return golden(TransformKind.NIBBLES_DELTA, coded, news, olds)


def grid_of_scales_segment() -> GoldenSegment:
    """Return blocks whose scales are told apart by a grid that no encoder chose."""
    columns, blocks = 128, 64
    table = noise(20 * blocks, 30).astype(np.uint8).reshape(blocks, 20)
    scales = (0x1000 + noise(blocks, 31) % 64).astype(np.uint16)
    table[:, :2] = as_bytes(scales.astype("<u2")).reshape(blocks, 2)
    new = table.reshape(-1)
    layout = GgufLayout(block_type=BlockType.Q4_1, columns=columns)
    parameters, coded = gguf.encode([new], None, layout, level=8)
    head = layout.encode() + b"\0"  # no thresholds
    form, rest = Form.decode(parameters[len(head) :])
    assert form == Form()
    said, apart = contextual.encode(scales, hand_made_grid(blocks * 32 // columns, columns // 32), 8)
    form = Form((), False, said, len(apart))
    return golden(TransformKind.GGUF, (head + form.encode() + rest, (*apart, *coded[1:])), [new], None)


def stack_segment(packing: Packing) -> GoldenSegment:
    """Return a delta of three matrices of different shapes in one piece, some codes, scales and zero points moved."""
    shapes = [(16, 32), (8, 48), (24, 16)]
    shapes = shapes if packing is Packing.ROW else [(columns, rows) for rows, columns in shapes]
    layout = NibbleLayout.stack(
        [
            NibbleLayout(packing=packing, rows=rows, columns=columns, group=16, scales=Float.BF16, zeros=Zeros.PACKED)
            for rows, columns in shapes
        ]
    )
    olds = [noise(size, 22 + at).astype(np.uint8) for at, size in enumerate(layout.sizes)]
    news = [old.copy() for old in olds]
    for at, new in enumerate(news):
        new[at :: 7 + 2 * at] ^= 1
    coded = nibbles.encode(news, olds, layout, level=8)
    return golden(TransformKind.NIBBLES_DELTA, coded, news, olds)


def gguf_segment(block_type: BlockType, with_base: bool) -> GoldenSegment:
    """Return two rows of blocks whose bytes are small numbers, whole or as a delta with one in thirteen moved."""
    old = (noise(8 * FORMATS[block_type].size, 15) % 40).astype(np.uint8)
    new = old.copy()
    new[::13] += 1
    layout = GgufLayout(block_type=block_type, columns=4 * FORMATS[block_type].num_values)
    coded = gguf.encode([new], [old] if with_base else None, layout, level=8)
    return golden(
        TransformKind.GGUF_DELTA if with_base else TransformKind.GGUF, coded, [new], [old] if with_base else None
    )


SEGMENTS: dict[str, Callable[[], GoldenSegment]] = {
    "bytes": partial(bytes_segment, with_base=False),
    "bytes delta": partial(bytes_segment, with_base=True),
    "bytes matches": matches_segment,
    "same": same_segment,
    "bytes sparse": sparse_segment,
    "nibbles ROW turned": turned_segment,
    "gguf Q4_1 grid of scales": grid_of_scales_segment,
    "floats BF16 grid": float_grid_segment,
    "floats BF16 delta still rows": partial(still_segment, TransformKind.FLOATS_DELTA),
    "floats BF16 delta classes of rows": row_classes_segment,
    "integers delta still rows": partial(still_segment, TransformKind.INTEGERS_DELTA),
}
for _kind in FloatFormat:
    SEGMENTS[f"floats {_kind.name}"] = partial(float_segment, _kind)
    SEGMENTS[f"floats {_kind.name} delta"] = partial(float_delta_segment, _kind)
for _bits in (8, 16, 32):
    SEGMENTS[f"integers int{_bits}"] = partial(integer_segment, _bits, is_signed=True)
    SEGMENTS[f"integers uint{_bits}"] = partial(integer_segment, _bits, is_signed=False)
for _context in contextual.Context:
    SEGMENTS[f"integers delta {_context.name}"] = partial(integer_delta_segment, _context)
for _packing in Packing:
    SEGMENTS[f"nibbles {_packing.name}"] = partial(nibble_segment, _packing, with_base=False)
    SEGMENTS[f"nibbles {_packing.name} delta"] = partial(nibble_segment, _packing, with_base=True)
    SEGMENTS[f"nibbles {_packing.name} few changes"] = partial(few_changes_segment, _packing)
    SEGMENTS[f"nibbles {_packing.name} stack"] = partial(stack_segment, _packing)
for _block_type in BlockType:
    SEGMENTS[f"gguf {_block_type.name}"] = partial(gguf_segment, _block_type, with_base=False)
    SEGMENTS[f"gguf {_block_type.name} delta"] = partial(gguf_segment, _block_type, with_base=True)


def read(text: str) -> dict[str, GoldenSegment]:
    """Return the golden segments of a file that `main` printed."""
    decode = base64.b64decode
    return {
        name: GoldenSegment(
            payload=decode(entry["payload"]),
            base=decode(entry["base"]),
            runs=tuple((offset, decode(run)) for offset, run in entry["runs"]),
        )
        for name, entry in json.loads(text).items()
    }


def main() -> None:
    """Print the golden segments as JSON, binary parts as base64."""
    json.dump({name: _entry(make()) for name, make in SEGMENTS.items()}, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _entry(segment: GoldenSegment) -> dict:
    return {
        "payload": base64.b64encode(segment.payload).decode(),
        "base": base64.b64encode(segment.base).decode(),
        "runs": [[offset, base64.b64encode(run).decode()] for offset, run in segment.runs],
    }


if __name__ == "__main__":
    main()
