"""How an object is cut into source blocks: a rule both ends compute from a frame's header alone.

An object of N source symbols of T bytes is cut into Z = ceil(N / K_max) blocks that differ by at most one symbol
(RFC 6330, 4.4.1.2, "Partition"), larger ones first, so there is never a small tail block. K_max keeps K <= 8000
and K * T <= 10 MiB (see `limits`). Source symbol i of the object is bytes [i * T, (i + 1) * T); the last one is
padded with zeros.
"""

from dataclasses import dataclass
from functools import lru_cache

from protocol.errors import DecodeError
from protocol.limits import (
    BLOCK_SIZE_MAX,
    BLOCK_SYMBOLS_MAX,
    BLOCKS_MAX,
    OBJECT_SIZE_MAX,
    SYMBOL_ALIGNMENT,
    SYMBOL_SIZE_MAX,
    SYMBOLS_MAX,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayout:
    """The blocks of one object.

    Attributes:
        num_symbols: source symbols of the object, >= 1.
        symbol_size: bytes of a symbol (T), a multiple of 8.
        num_blocks: Z, 1 .. BLOCKS_MAX.
        num_large: the first so many blocks have one symbol more than the others.
        small_symbols: source symbols of a small block.
    """

    num_symbols: int
    symbol_size: int
    num_blocks: int
    num_large: int
    small_symbols: int

    def symbols_of(self, block: int) -> int:
        """K: the number of source symbols of a block."""
        return self.small_symbols + (block < self.num_large)

    def first_symbol(self, block: int) -> int:
        """The first source symbol of a block, counted over the object."""
        return block * self.small_symbols + min(block, self.num_large)

    def offset_of(self, block: int) -> int:
        """Where the block starts in the padded object, bytes."""
        return self.first_symbol(block) * self.symbol_size

    def size_of(self, block: int) -> int:
        """Bytes of the padded block."""
        return self.symbols_of(block) * self.symbol_size

    @property
    def padded_size(self) -> int:
        """Bytes of the padded object."""
        return self.num_symbols * self.symbol_size


@lru_cache(maxsize=4096)
def block_layout(num_symbols: int, symbol_size: int) -> BlockLayout:
    """Return how an object of `num_symbols` symbols is cut.

    Raises:
        DecodeError: no object may look like that (a frame's header is hostile until checked here).
    """
    if symbol_size % SYMBOL_ALIGNMENT or not SYMBOL_ALIGNMENT <= symbol_size <= SYMBOL_SIZE_MAX:
        raise DecodeError(f"symbol size {symbol_size} is not a multiple of 8 in 8..{SYMBOL_SIZE_MAX}")
    if not 1 <= num_symbols <= SYMBOLS_MAX or (num_symbols - 1) * symbol_size >= OBJECT_SIZE_MAX:
        raise DecodeError(f"an object of {num_symbols} symbols of {symbol_size} bytes is out of range")
    largest = min(BLOCK_SYMBOLS_MAX, BLOCK_SIZE_MAX // symbol_size)
    num_blocks = -(-num_symbols // largest)
    if num_blocks > BLOCKS_MAX:
        raise DecodeError(f"{num_symbols} symbols of {symbol_size} bytes need more than {BLOCKS_MAX} blocks")
    return BlockLayout(
        num_symbols=num_symbols,
        symbol_size=symbol_size,
        num_blocks=num_blocks,
        num_large=num_symbols % num_blocks,
        small_symbols=num_symbols // num_blocks,
    )


def symbols_needed(size_bytes: int, symbol_size: int) -> int:
    """How many source symbols an object of `size_bytes` has."""
    return max(1, -(-size_bytes // symbol_size))
