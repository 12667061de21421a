"""What a codec module has to be told about a piece: its layout, from the facts of the job.

The one place where the ground's words for tensors (parts.py) meet the codec's. None: no module but the one for bytes
can take the piece, because it cannot say what it looks like (a group that does not divide a row, a cut row of blocks).
"""

from groundsegment.packer.tensors.jobs import PieceJob
from groundsegment.packer.tensors.parts import Packing, PartKind
from protocol.codec.floats import FloatFormat, FloatLayout
from protocol.codec.fourbit import nibble_layout
from protocol.codec.fourbit.affine import Float
from protocol.codec.fourbit.nibble_layout import NibbleLayout, Zeros
from protocol.codec.ggml.gguf import BlockType, GgufLayout
from protocol.codec.integers import IntegerLayout

_FLOATS = {
    "BF16": FloatFormat.BF16,
    "F16": FloatFormat.FP16,
    "F32": FloatFormat.FP32,
    "F8_E4M3": FloatFormat.FP8_E4M3,
    "F8_E5M2": FloatFormat.FP8_E5M2,
    # Other biases and no infinities: the fields lie where they lie.
    "F8_E4M3FNUZ": FloatFormat.FP8_E4M3,
    "F8_E5M2FNUZ": FloatFormat.FP8_E5M2,
}
_SCALES = {"F16": Float.F16, "BF16": Float.BF16, "F32": Float.F32}
_ZEROS = {"": Zeros.NONE, "I32": Zeros.PACKED, "I8": Zeros.BYTES, "U8": Zeros.BYTES}
_PACKINGS = {
    Packing.ROW: nibble_layout.Packing.ROW,
    Packing.GPTQ: nibble_layout.Packing.GPTQ,
    Packing.AWQ: nibble_layout.Packing.AWQ,
}


def float_layout(piece: PieceJob) -> FloatLayout | None:
    """Return the layout of FLOATS."""
    if piece.kind is not PartKind.FLOATS:
        return None
    return FloatLayout(format=_FLOATS[piece.dtype], columns=piece.columns if piece.rows > 1 else 0)


def integer_layout(piece: PieceJob) -> IntegerLayout | None:
    """Return the layout of INTEGERS."""
    if piece.kind is not PartKind.INTEGERS:
        return None
    bits, is_signed = int(piece.dtype[1:]), piece.dtype.startswith("I")
    return IntegerLayout(bits=bits, is_signed=is_signed, columns=piece.columns if piece.rows > 1 else 0)


def nibble_layout_of(piece: PieceJob) -> NibbleLayout | None:
    """Return the layout of NIBBLES."""
    packed = piece.packed
    if piece.kind is not PartKind.NIBBLES or packed is None:
        return None
    if not packed.scale_dtype:
        # Without scales all codes are alike, wherever they lie.
        count = 2 * piece.size_bytes
        layout = NibbleLayout(packing=nibble_layout.Packing.ROW, rows=1, columns=count, group=count)
    else:
        layout = NibbleLayout(
            packing=_PACKINGS[packed.packing],
            rows=piece.rows,
            columns=piece.columns,
            group=max(packed.group_rows, packed.group_columns),
            scales=_SCALES[packed.scale_dtype],
            zeros=_ZEROS[packed.zero_dtype],
        )
    is_whole = layout.is_possible and layout.sizes == [extent.size_bytes for extent in piece.extents]
    return layout if is_whole else None


def gguf_layout(piece: PieceJob) -> GgufLayout | None:
    """Return the layout of GGUF."""
    if piece.kind is not PartKind.GGUF:
        return None
    layout = GgufLayout(block_type=BlockType[piece.dtype], columns=piece.columns if piece.rows > 1 else 0)
    return layout if layout.fits(piece.size_bytes) else None
