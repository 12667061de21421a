"""Quantized matrices in safetensors files: which tensors are one matrix's codes, scales and zero points.

Recognised by names, types and shapes; the config helps where these leave something open (quantization.py):

    GPTQ                .qweight  I32 (in*bits/32, out)     .scales (G, out)   .qzeros I32 (G, out*bits/32)
    AWQ (GEMM)          .qweight  I32 (in, out/8)           .scales (G, out)   .qzeros I32 (G, out/8)
    compressed-tensors  .weight_packed I32 (out, in*bits/32)   .weight_scale (out, G)
                                                            .weight_zero_point I32 (out/8, G) or I8 (out, G)
                        .weight   I8 (out, in)              .weight_scale (out, G)   .weight_zero_point I8 (out, G)
    torchao             ._weight_qdata I8 (out, in)         ._weight_scale (out, G)  ._weight_zero_point I8 (out, G)
    bitsandbytes        .weight   I8 (out, in)              .SCB F32 (out)

GPTQ and AWQ are cut along the inputs, group by group; the others along the rows. What does not fit, lies in another
file, or could not be cut at whole groups within a segment stays by itself: codes are then still known as codes, without
scales. That goes for torchao's Int4Tensor too, whose scales lie across its rows (G, out), and for groups out of order
(GPTQ's desc_act, a g_idx). Headers only, but for weight_shape: 16 bytes that tell 4 bits from 8.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from groundsegment.models.safetensors_file import DTYPE_BITS
from groundsegment.models.tensor_info import TensorInfo
from groundsegment.packer.tensors.parts import Member, Packed, Packing, Part, PartKind, Role, num_rows
from groundsegment.packer.tensors.quantization import Quantization
from protocol.limits import SEGMENT_SIZE_MAX

ReadTensor = Callable[[TensorInfo], bytes]

_WORD_BITS = 32
_CODE_BITS = (4, 8)
_SCALE_DTYPES = {"BF16", "F16", "F32"}
_ZERO_ROWS = 8  # rows of zero points that compressed-tensors packs in an int32
_SHAPE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What recognisers may look at.

    Attributes:
        tensors: of the file, by name.
        types: class of each flattened torchao tensor, by its name, from the file's metadata.
        quantization: of the release.
        read: returns the bytes of a tensor of a few bytes.
    """

    tensors: Mapping[str, TensorInfo]
    types: Mapping[str, str]
    quantization: Quantization
    read: ReadTensor


def recognise_all(sources: Sources) -> list[Part]:
    """Return the parts of all tensors that hold codes, with their scales where these can travel along."""
    parts: list[Part] = []
    taken: set[str] = set()
    for suffix, recogniser in _RECOGNISERS.items():
        for name, info in sources.tensors.items():
            part = recogniser(info, name.removesuffix(suffix), sources) if name.endswith(suffix) else None
            if part is not None and name not in taken:
                parts.append(part)
                taken.update(member.name for member in part.members)
    return parts


def _qweight(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    if info.dtype != "I32" or len(info.shape) != 2 or not info.num_values:
        return None
    scales, zeros = sources.tensors.get(f"{stem}.scales"), sources.tensors.get(f"{stem}.qzeros")
    hint = sources.quantization
    words, width = info.shape
    outputs = scales.shape[1] if scales and len(scales.shape) == 2 else 0
    is_awq = outputs == 8 * width if outputs else hint.method == "awq"
    num_bits = 4 if is_awq else _gptq_bits(width, zeros, sources.tensors.get(f"{stem}.g_idx"), words, hint)
    if num_bits not in _CODE_BITS:
        return None
    per_word = _WORD_BITS // num_bits
    packing = Packing.AWQ if is_awq else Packing.GPTQ
    rows, columns = (words, width * 8) if is_awq else (words * per_word, width)
    alone = _Codes(info=info, packing=packing, num_bits=num_bits, rows=rows, columns=columns)
    if scales is None or hint.is_reordered or outputs != columns or scales.dtype not in _SCALE_DTYPES:
        return alone.part()
    num_groups = scales.shape[0]
    group = _group_size(rows, num_groups)
    step = 1 if is_awq else per_word
    if not group or group % step:
        return alone.part()
    if zeros is not None and (zeros.dtype != "I32" or zeros.shape != (num_groups, -(-columns // per_word))):
        return alone.part()
    return alone.part(
        _Scales(
            scales=scales,
            zeros=zeros,
            group_rows=group,
            group_columns=1,
            unit_rows=group,
            code_rows=group // step,
            scale_rows=1,
            zero_rows=1,
        )
    )


def _gptq_bits(columns: int, zeros: TensorInfo | None, order: TensorInfo | None, words: int, hint: Quantization) -> int:
    if zeros is not None and len(zeros.shape) == 2 and columns:
        return _exact_ratio(_WORD_BITS * zeros.shape[1], columns)
    if order is not None and len(order.shape) == 1 and order.shape[0]:
        return _exact_ratio(_WORD_BITS * words, order.shape[0])
    return hint.num_bits or 4


def _weight_packed(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    if info.dtype != "I32" or len(info.shape) < 2 or not info.num_values:
        return None
    num_bits = _bits_by_shape(info, sources, f"{stem}.weight_shape") or sources.quantization.num_bits or 4
    if num_bits not in _CODE_BITS:
        return None
    columns = info.shape[-1] * (_WORD_BITS // num_bits)
    codes = _Codes(info=info, packing=Packing.ROW, num_bits=num_bits, rows=num_rows(info.shape), columns=columns)
    if f"{stem}.weight_g_idx" in sources.tensors:
        return codes.part()
    return codes.part(_row_scales(codes, sources, f"{stem}.weight_scale", f"{stem}.weight_zero_point"))


def _bits_by_shape(info: TensorInfo, sources: Sources, name: str) -> int:
    shape = sources.tensors.get(name)
    if shape is None or shape.dtype != "I64" or shape.size_bytes != _SHAPE_BYTES:
        return 0
    raw = sources.read(shape)
    rows, columns = (int.from_bytes(raw[i : i + 8], "little", signed=True) for i in (0, 8))
    fitting = [bits for bits in _CODE_BITS if -(-columns * bits // _WORD_BITS) == info.shape[-1]]
    return fitting[0] if rows == info.shape[0] and fitting else 0


def _weight(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    if info.dtype != "I8" or len(info.shape) < 2 or not info.num_values:
        return None
    codes = _int8_codes(info)
    scale = f"{stem}.SCB" if f"{stem}.SCB" in sources.tensors else f"{stem}.weight_scale"
    return codes.part(_row_scales(codes, sources, scale, f"{stem}.weight_zero_point"))


def _qdata(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    kind = sources.types.get(f"{stem}.weight", "")
    if len(info.shape) < 2 or not info.num_values:
        return None
    if info.dtype in {"I8", "U8"} and kind == "Int4Tensor":
        return _Codes(
            info=info, packing=Packing.ROW, num_bits=4, rows=num_rows(info.shape), columns=2 * info.shape[-1]
        ).part()
    if info.dtype == "I32" and kind in {"Int4PlainInt32Tensor", "Int4TilePackedTo4dTensor"}:
        return _Codes(
            info=info, packing=Packing.ROW, num_bits=4, rows=num_rows(info.shape), columns=8 * info.shape[-1]
        ).part()
    if info.dtype == "I8" and kind in {"", "Int8Tensor", "IntxUnpackedToInt8Tensor"}:
        codes = _int8_codes(info)
        return codes.part(_row_scales(codes, sources, f"{stem}._weight_scale", f"{stem}._weight_zero_point"))
    return None


def _zeros_alone(info: TensorInfo, stem: str, sources: Sources) -> Part | None:
    """Packed zero points whose codes are elsewhere are codes themselves."""
    is_packed = info.dtype == "I32" and len(info.shape) == 2 and info.num_values
    num_bits = sources.quantization.num_bits or 4
    if not is_packed or num_bits not in _CODE_BITS:
        return None
    columns = info.shape[1] * (_WORD_BITS // num_bits)
    return _Codes(info=info, packing=Packing.ROW, num_bits=num_bits, rows=info.shape[0], columns=columns).part()


_RECOGNISERS: Mapping[str, Callable[[TensorInfo, str, Sources], Part | None]] = {
    ".qweight": _qweight,
    ".weight_packed": _weight_packed,
    ".weight": _weight,
    "._weight_qdata": _qdata,
    ".qzeros": _zeros_alone,  # last: only what no family took
    ".weight_zero_point": _zeros_alone,
}


def _int8_codes(info: TensorInfo) -> "_Codes":
    return _Codes(info=info, packing=Packing.PLAIN, num_bits=8, rows=num_rows(info.shape), columns=info.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scales:
    """The rest of a family, and how many rows of each member a unit has."""

    scales: TensorInfo
    zeros: TensorInfo | None
    group_rows: int
    group_columns: int
    unit_rows: int  # of codes
    code_rows: int  # as stored
    scale_rows: int
    zero_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codes:
    """The codes of a matrix, and how they lie."""

    info: TensorInfo
    packing: Packing
    num_bits: int
    rows: int
    columns: int

    def part(self, rest: _Scales | None = None) -> Part:
        """Return the part of the codes with the rest of their family, or alone."""
        info = self.info
        if rest is not None:
            members = [
                _member(info, Role.CODES, rest.code_rows),
                _member(rest.scales, Role.SCALES, rest.scale_rows),
            ]
            if rest.zeros is not None:
                members.append(_member(rest.zeros, Role.ZEROS, rest.zero_rows))
            fits = sum(member.unit_bytes for member in members) <= SEGMENT_SIZE_MAX
            if fits and len({member.num_units for member in members}) == 1:
                packed = self._packed(rest)
                return self._part(tuple(members), packed, rest.unit_rows)
        step = _WORD_BITS // self.num_bits if self.packing is Packing.GPTQ else 1
        code_bytes = info.size_bytes // num_rows(info.shape)
        if code_bytes > SEGMENT_SIZE_MAX:
            return self._part((_member(info, Role.CODES, 0),), self._packed(None), 0)
        return self._part((_member(info, Role.CODES, 1),), self._packed(None), step)

    def _packed(self, rest: _Scales | None) -> Packed:
        if rest is None:
            return Packed(packing=self.packing, num_bits=self.num_bits, group_rows=0, group_columns=0)
        return Packed(
            packing=self.packing,
            num_bits=self.num_bits,
            group_rows=rest.group_rows,
            group_columns=rest.group_columns,
            scale_dtype=rest.scales.dtype,
            zero_dtype=rest.zeros.dtype if rest.zeros is not None else "",
        )

    def _part(self, members: tuple[Member, ...], packed: Packed, unit_rows: int) -> Part:
        is_nibbles = self.num_bits == 4
        return Part(
            file=self.info.file,
            name=self.info.name,
            kind=PartKind.NIBBLES if is_nibbles else PartKind.INTEGERS,
            dtype="U4" if is_nibbles else "I8" if self.packing is Packing.PLAIN else "U8",
            rows=self.rows,
            columns=self.columns,
            unit_rows=unit_rows,
            members=members,
            packed=packed,
        )


def _row_scales(codes: _Codes, sources: Sources, scale_name: str, zero_name: str) -> _Scales | None:
    """Return the scales and zero points of codes whose groups run along the rows; None if they do not fit them."""
    scales, zeros = sources.tensors.get(scale_name), sources.tensors.get(zero_name)
    if scales is None or scales.dtype not in _SCALE_DTYPES or scales.num_values % codes.rows or not scales.num_values:
        return None
    num_groups = scales.num_values // codes.rows
    leading = codes.info.shape[:-1]
    group = _group_size(codes.columns, num_groups)
    if scales.shape not in {(*leading, num_groups), leading if num_groups == 1 else None} or not group:
        return None
    is_packed = zeros is not None and zeros.dtype == "I32"
    if is_packed and codes.rows % _ZERO_ROWS:
        zeros, is_packed = None, False  # the last int32 holds more than there is: by itself
    unit_rows = _ZERO_ROWS if is_packed else 1
    if zeros is not None:
        wanted = (-(-codes.rows // _ZERO_ROWS), num_groups) if is_packed else scales.shape
        if zeros.shape != wanted or not (is_packed or zeros.dtype in {"I8", "U8"}):
            return None
    return _Scales(
        scales=scales,
        zeros=zeros,
        group_rows=1,
        group_columns=group,
        unit_rows=unit_rows,
        code_rows=unit_rows,
        scale_rows=unit_rows,
        zero_rows=1,
    )


def _member(info: TensorInfo, role: Role, unit_rows: int) -> Member:
    """Return a member of `unit_rows` stored rows to a unit; 0: rows are too long, a unit is an element."""
    leading = info.shape[:-1] if role is Role.CODES or len(info.shape) > 1 else info.shape
    unit_bytes = DTYPE_BITS[info.dtype] // 8
    if unit_rows:
        unit_bytes = info.size_bytes // num_rows((*leading, 1)) * unit_rows
    return Member(
        name=info.name,
        role=role,
        dtype=info.dtype,
        shape=info.shape,
        offset=info.offset,
        size_bytes=info.size_bytes,
        unit_bytes=unit_bytes,
    )


def _group_size(length: int, num_groups: int) -> int:
    """Codes along an axis that share a scale; 0 if there is no telling."""
    return length // num_groups if num_groups and length % num_groups == 0 else 0


def _exact_ratio(numerator: int, denominator: int) -> int:
    return numerator // denominator if numerator % denominator == 0 else 0
