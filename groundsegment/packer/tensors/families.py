"""Quantized matrices in safetensors files: which tensors are one matrix's codes, scales and zero points.

Recognised by names, types and shapes; the config helps where these leave something open (quantization.py):

    GPTQ                .qweight  I32 (in*bits/32, out)         .scales (G, out)   .qzeros I32 (G, out*bits/32)
    AWQ (GEMM)          .qweight  I32 (in, out/8)               .scales (G, out)   .qzeros I32 (G, out/8)
    compressed-tensors  .weight_packed I32 (out, in*bits/32)    .weight_scale (out, G)
                                                                .weight_zero_point I32 (out/8, G) or I8 (out, G)
    torchao             ._weight_qdata I8, U8 or I32 with metadata that say Int4..., _weight_scale, _weight_zero_point

Codes of 4 bits travel with their scales. GPTQ and AWQ are cut along the inputs, group by group; compressed-tensors
along the rows. What does not fit, lies in another file, or could not be cut at whole groups within a segment goes by
itself, and so do torchao's scales, which lie across the rows of the codes (G, out), and groups out of order (GPTQ's
desc_act, a g_idx). The codes are then still known as codes, and the scales as floats: SmolLM2's matrices as torchao
lays them take 0.2-0.6 % more than as compressed-tensors does whole, and 0.1-0.5 % more as a difference.

Codes of 8 bits are integers like any others, by themselves: rows and columns tell the coder what scales would (on
SmolLM2's int8 per channel, knowing the scales saves less than 1 % of a difference, and nothing of a whole). Those of
2 or 3 bits are bytes: what lies in eight bits has frequencies that an int32 of them has not.

Reads headers, and weight_shape: 16 bytes that tell 4 bits from 8.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from groundsegment.models.tensor_info import TensorInfo
from groundsegment.packer.tensors.codes import WORD_CODES, Nibbles, Scales, byte_codes
from groundsegment.packer.tensors.parts import Packing, Part, num_rows
from groundsegment.packer.tensors.quantization import Quantization

ReadTensor = Callable[[TensorInfo], bytes]

_WORD_BITS = 32
_CODE_BITS = (4, 8)
_SCALE_DTYPES = {"BF16", "F16", "F32"}
_SHAPE_BYTES = 16
_TORCHAO_WORDS = {"Int4PlainInt32Tensor", "Int4TilePackedTo4dTensor"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What recognisers may look at.

    Attributes:
        tensors: of the file, by name; none is empty.
        types: class of each flattened torchao tensor, by its name, from the file's metadata.
        quantization: of the release.
        read: returns the bytes of a tensor of a few bytes.
    """

    tensors: Mapping[str, TensorInfo]
    types: Mapping[str, str]
    quantization: Quantization
    read: ReadTensor


def recognise_all(sources: Sources) -> list[Part]:
    """Return the parts of all tensors that hold packed codes, with their scales where these can travel along."""
    parts: list[Part] = []
    taken: set[str] = set()
    for suffix, recogniser in _RECOGNISERS.items():
        for name, info in sources.tensors.items():
            if not name.endswith(suffix) or name in taken:
                continue
            part = recogniser(info, name.removesuffix(suffix), sources)
            if part is not None:
                parts.append(part)
                taken.update(member.name for member in part.members)
    return parts


def _qweight(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    if info.dtype != "I32" or len(info.shape) != 2:
        return None
    scales, zeros = sources.tensors.get(f"{stem}.scales"), sources.tensors.get(f"{stem}.qzeros")
    words, width = info.shape
    outputs = scales.shape[1] if scales is not None and len(scales.shape) == 2 else 0
    if outputs == WORD_CODES * width or (not outputs and sources.quantization.method == "awq"):
        awq = Nibbles(info=info, packing=Packing.AWQ, rows=words, columns=WORD_CODES * width)
        return awq.part(_column_scales(awq, scales, zeros, 1, sources.quantization))
    num_bits = _gptq_bits(info, zeros, sources.tensors.get(f"{stem}.g_idx")) or sources.quantization.num_bits or 4
    if num_bits != 4:
        return byte_codes(info)
    gptq = Nibbles(info=info, packing=Packing.GPTQ, rows=WORD_CODES * words, columns=width)
    return gptq.part(_column_scales(gptq, scales, zeros, WORD_CODES, sources.quantization))


def _gptq_bits(info: TensorInfo, zeros: TensorInfo | None, order: TensorInfo | None) -> int:
    """Return the bits of a code by the shapes beside it; 0 if they do not say."""
    words, outputs = info.shape
    if zeros is not None and len(zeros.shape) == 2:
        return _exact_ratio(_WORD_BITS * zeros.shape[1], outputs)
    if order is not None and len(order.shape) == 1:
        return _exact_ratio(_WORD_BITS * words, order.shape[0])
    return 0


def _column_scales(
    codes: Nibbles, scales: TensorInfo | None, zeros: TensorInfo | None, word_rows: int, hint: Quantization
) -> Scales | None:
    """Return the scales of codes whose groups run down the columns; None if they do not fit them.

    Args:
        codes: of GPTQ or AWQ.
        scales: (G, out), perhaps.
        zeros: (G, out/8), perhaps.
        word_rows: rows of codes in a row of int32.
        hint: from the config.
    """
    if scales is None or scales.dtype not in _SCALE_DTYPES or len(scales.shape) != 2 or hint.is_reordered:
        return None
    num_groups, outputs = scales.shape
    group = _exact_ratio(codes.rows, num_groups)
    if outputs != codes.columns or not group or group % 2 or group % word_rows or outputs % WORD_CODES:
        return None
    if zeros is not None and (zeros.dtype != "I32" or zeros.shape != (num_groups, outputs // WORD_CODES)):
        return None
    return Scales(
        scales=scales,
        zeros=zeros,
        group_rows=group,
        group_columns=1,
        unit_rows=group,
        code_rows=group // word_rows,
        scale_rows=1,
    )


def _weight_packed(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    if info.dtype != "I32" or len(info.shape) < 2:
        return None
    num_bits = _bits_by_shape(info, sources, f"{stem}.weight_shape") or sources.quantization.num_bits or 4
    if num_bits != 4:
        return byte_codes(info)
    codes = _row_codes(info, WORD_CODES)
    if f"{stem}.weight_g_idx" in sources.tensors:
        return codes.part(None)
    return codes.part(_row_scales(codes, sources, f"{stem}.weight_scale", f"{stem}.weight_zero_point"))


def _bits_by_shape(info: TensorInfo, sources: Sources, name: str) -> int:
    shape = sources.tensors.get(name)
    if shape is None or shape.dtype != "I64" or shape.size_bytes != _SHAPE_BYTES:
        return 0
    columns = int.from_bytes(sources.read(shape)[8:], "little", signed=True)
    fitting = [bits for bits in _CODE_BITS if -(-columns * bits // _WORD_BITS) == info.shape[-1]]
    return fitting[0] if fitting else 0


def _row_scales(codes: Nibbles, sources: Sources, scale_name: str, zero_name: str) -> Scales | None:
    """Return the scales and zero points of codes whose groups run along the rows; None if they do not fit them."""
    scales, zeros = sources.tensors.get(scale_name), sources.tensors.get(zero_name)
    if scales is None or scales.dtype not in _SCALE_DTYPES:
        return None
    num_groups = _exact_ratio(scales.num_values, codes.rows)
    group = _exact_ratio(codes.columns, num_groups)
    leading = codes.info.shape[:-1]
    if scales.shape not in {(*leading, num_groups), leading if num_groups == 1 else None} or not group or group % 2:
        return None
    unit_rows = 1
    if zeros is not None and zeros.dtype == "I32":
        if codes.rows % WORD_CODES:
            zeros = None  # its last int32 holds more than there is: by itself
        elif zeros.shape != (codes.rows // WORD_CODES, num_groups):
            return None
        else:
            unit_rows = WORD_CODES
    elif zeros is not None and (zeros.shape != scales.shape or zeros.dtype not in {"I8", "U8"}):
        return None
    return Scales(
        scales=scales,
        zeros=zeros,
        group_rows=1,
        group_columns=group,
        unit_rows=unit_rows,
        code_rows=unit_rows,
        scale_rows=unit_rows,
    )


def _qdata(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    kind = sources.types.get(f"{stem}.weight", "")
    if len(info.shape) < 2:
        return None
    if info.dtype in {"I8", "U8"} and kind == "Int4Tensor":
        return _row_codes(info, 2).part(None)
    if info.dtype == "I32" and kind in _TORCHAO_WORDS:
        return _row_codes(info, WORD_CODES).part(None)
    return None


def _zeros_alone(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    """Packed zero points whose codes are elsewhere, or have 8 bits, are codes themselves."""
    num_bits = sources.quantization.num_bits or _codes_bits(stem, sources) or 4
    if info.dtype != "I32" or len(info.shape) != 2 or num_bits not in _CODE_BITS:
        return None
    return _row_codes(info, WORD_CODES).part(None) if num_bits == 4 else byte_codes(info)


def _codes_bits(stem: str, sources: Sources) -> int:
    codes, zeros = sources.tensors.get(f"{stem}.qweight"), sources.tensors.get(f"{stem}.qzeros")
    is_matrix = codes is not None and len(codes.shape) == 2
    return _gptq_bits(codes, zeros, None) if is_matrix and codes is not None else 0


_RECOGNISERS: Mapping[str, Callable[[TensorInfo, str, Sources], Part | None]] = {
    ".qweight": _qweight,
    ".weight_packed": _weight_packed,
    "._weight_qdata": _qdata,
    ".qzeros": _zeros_alone,  # last: only what no family took
    ".weight_zero_point": _zeros_alone,
}


def _row_codes(info: TensorInfo, per_element: int) -> Nibbles:
    columns = info.shape[-1] * per_element
    return Nibbles(info=info, packing=Packing.ROW, rows=num_rows(info.shape), columns=columns)


def _exact_ratio(numerator: int, denominator: int) -> int:
    """Return the quotient; 0 if there is none."""
    return numerator // denominator if denominator and numerator % denominator == 0 else 0
