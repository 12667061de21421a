"""What was found wrong with a release, and what became of it."""

from dataclasses import dataclass

from onboard.scrub.core import flipped_bits, num_flipped
from protocol.damage import LostRange

_BITS_LISTED = 8  # of one block; a block with more is a burst, told by its number of bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One block of a file that was not what it should be.

    Attributes:
        file: its name; the guard's own files begin with a dot.
        offset: of the block.
        num_bits: flipped ones; 0 if that is not known, for the block is lost.
        bits: which, counted from the lowest of the file's first byte; empty for a burst, or if not known.
        is_repaired: whether it is right again.
    """

    file: str
    offset: int
    num_bits: int = 0
    bits: tuple[int, ...] = ()
    is_repaired: bool = False

    @classmethod
    def between(cls, file: str, offset: int, before: bytes, after: bytes) -> "Flip":
        """A repaired block."""
        num_bits = num_flipped(before, after)
        bits = flipped_bits(before, after) if num_bits <= _BITS_LISTED else ()
        return cls(
            file=file, offset=offset, num_bits=num_bits, bits=tuple(8 * offset + bit for bit in bits), is_repaired=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubOutcome:
    """One scrub of a whole release.

    Attributes:
        release: its digest.
        flips: every block that was not right.
        lost: what only the ground can bring back.
        num_bytes: read and compared.
        is_direct: whether the medium itself was read, and not perhaps the kernel's memory of it.
        trouble: why a repair was not written, empty if none failed.
    """

    release: bytes
    flips: tuple[Flip, ...]
    lost: tuple[LostRange, ...]
    num_bytes: int
    is_direct: bool
    trouble: str = ""

    @property
    def num_found(self) -> int:
        """Flipped bits; a lost block counts as one."""
        return sum(max(flip.num_bits, 1) for flip in self.flips)

    @property
    def num_repaired(self) -> int:
        """Flipped bits that are right again."""
        return sum(flip.num_bits for flip in self.flips if flip.is_repaired)

    @property
    def is_whole(self) -> bool:
        """Whether the release is as it was signed, now."""
        return not self.lost and not self.trouble
