"""What the cut gives to whoever encodes: segment jobs, made of pieces, made of extents. Picklable facts, no bytes.

The names of files, not their numbers, stand here: the packer knows the order of the manifest.
"""

from dataclasses import dataclass

from groundsegment.packer.tensors.parts import Packed, PartKind, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRef:
    """Where the base release has the counterpart of an extent; as many bytes.

    Attributes:
        file: name of the file in the base release.
        offset: in that file.
    """

    file: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWindow:
    """A run of bytes of the base in which those of a piece may be found again, anywhere.

    Attributes:
        file: name of the file in the base release.
        offset: in that file.
        size_bytes: at least 1, at most what a decoder holds.
    """

    file: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceExtent:
    """A run of bytes of the segment's file.

    Attributes:
        role: what it is to the piece.
        offset: in the file.
        size_bytes: at least 1.
        base: its counterpart; all extents of a piece have one, or none has.
    """

    role: Role
    offset: int
    size_bytes: int
    base: BaseRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceJob:
    """Extents that one transform encodes together.

    Attributes:
        parts: names of the parts they are of; several where tiny neighbours were joined.
        kind: what the values of the first extent are.
        dtype: of these values.
        rows: whole rows in the piece; 1 where a row was cut.
        columns: values in a row, or in the cut of one.
        packed: how codes lie and share scales, of a quantized matrix.
        extents: codes, scales, zero points; or a single one.
        window: of bytes that are no tensor: where the base has what they grew from, of whatever size.
    """

    parts: tuple[str, ...]
    kind: PartKind
    dtype: str
    rows: int
    columns: int
    extents: tuple[PieceExtent, ...]
    packed: Packed | None = None
    window: BaseWindow | None = None

    @property
    def size_bytes(self) -> int:
        """Of all extents: bytes it turns into."""
        return sum(extent.size_bytes for extent in self.extents)

    @property
    def has_base(self) -> bool:
        """Whether a difference to the base can be tried."""
        return self.extents[0].base is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentJob:
    """One segment to be made.

    Attributes:
        file: name of the file in the release.
        pieces: what it holds, in order of their first extents.
    """

    file: str
    pieces: tuple[PieceJob, ...]

    @property
    def offset(self) -> int:
        """Of its first extent."""
        return self.pieces[0].extents[0].offset

    @property
    def size_bytes(self) -> int:
        """Bytes it turns into."""
        return sum(piece.size_bytes for piece in self.pieces)
