"""Between the receiver's core and its shell: what the core is told at the start, and what it asks for. Pure."""

from dataclasses import dataclass, field

from onboard.receiver.reporting import ReportOptions
from onboard.store.shape import ObjectShape
from protocol.limits import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreOptions:
    """Limits of the receiver.

    Attributes:
        inbox_bytes_max: of the disk, for all open objects.
        open_objects_max: collected or kept at once.
        report: how much is told.
    """

    inbox_bytes_max: int = 512 * MIB
    open_objects_max: int = 64
    report: ReportOptions = field(default_factory=ReportOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReady:
    """Solve this block; its log holds so many symbols."""

    shape: ObjectShape
    block: int
    num_symbols: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSolved:
    """Check this object; all its blocks are there."""

    shape: ObjectShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReady:
    """Offer this object to the owner."""

    shape: ObjectShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDropped:
    """Delete this object's files."""

    shape: ObjectShape


@dataclass(frozen=True, slots=True)
class Accepted:
    """Symbols that are new: store them."""

    shape: ObjectShape
    esis: list[int]
    symbols: list[bytes]


Event = BlockReady | ObjectSolved | ObjectReady | ObjectDropped
