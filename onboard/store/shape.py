"""The shape of an object that is being received, and the set of its symbols that are there. Pure.

A shape is all that a frame's header and length say; it is also the name of the object's directory, so that nothing
about an object can be lost or torn apart from its bytes:

    HANDLE.KIND.N.T     handle in hex, frame kind, source symbols of the object, bytes of a symbol
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from protocol.blocks import BlockLayout, block_layout, symbols_needed
from protocol.errors import DecodeError
from protocol.fec import best_kind, can_solve
from protocol.frame import HANDLE_SIZE, FrameKind
from protocol.limits import SYMBOL_SIZE_DEFAULT

_PAGE_BITS = 8  # symbols of a page: a small integer, so that a bit is set without copying the whole set
_PAGE_MASK = (1 << _PAGE_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectShape:
    """What every frame of an object must agree on.

    Attributes:
        handle: of the object.
        kind: how its symbols are coded.
        num_symbols: source symbols of the whole object.
        symbol_size: bytes.
    """

    handle: bytes
    kind: FrameKind
    num_symbols: int
    symbol_size: int

    @property
    def layout(self) -> BlockLayout:
        """How it is cut into blocks."""
        return block_layout(self.num_symbols, self.symbol_size)

    @property
    def directory_name(self) -> str:
        """The name of its directory."""
        return f"{self.handle.hex()}.{int(self.kind)}.{self.num_symbols}.{self.symbol_size}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read a directory's name; None if it is not that of an object we could solve."""
        try:
            handle, kind, num_symbols, symbol_size = name.split(".")
            shape = cls(
                handle=bytes.fromhex(handle),
                kind=FrameKind(int(kind)),
                num_symbols=int(num_symbols),
                symbol_size=int(symbol_size),
            )
            block_layout(shape.num_symbols, shape.symbol_size)
        except (ValueError, DecodeError):
            return None
        is_ours = len(shape.handle) == HANDLE_SIZE and can_solve(shape.kind) and shape.directory_name == name
        return shape if is_ours else None

    def symbol_key(self, block: int, esi: int) -> int:
        """What tells symbols of a block apart: two with the same key are the same symbol."""
        return esi if self.kind is FrameKind.RAPTORQ else esi % self.layout.symbols_of(block)

    def symbol_keys(self, block: int, esis: Iterable[int]) -> Iterable[int]:
        """The keys of many symbols."""
        if self.kind is FrameKind.RAPTORQ:
            return esis
        num_source = self.layout.symbols_of(block)
        return [esi % num_source for esi in esis]


def shape_of_file(handle: bytes, size_bytes: int) -> ObjectShape:
    """The shape that an object takes on that comes whole, as a file."""
    return ObjectShape(
        handle=handle,
        kind=best_kind(),
        num_symbols=symbols_needed(size_bytes, SYMBOL_SIZE_DEFAULT),
        symbol_size=SYMBOL_SIZE_DEFAULT,
    )


class SymbolSet:
    """Which symbols of a block are there. A bit each where they lie close, 100 bytes each at worst."""

    __slots__ = ("_pages", "num")

    def __init__(self, keys: Iterable[int] = ()) -> None:
        self._pages: dict[int, int] = {}
        self.num = 0
        for key in keys:
            self.add(key)

    def add(self, key: int) -> bool:
        """Put a symbol in; whether it was not there yet."""
        number, bit = key >> _PAGE_BITS, 1 << (key & _PAGE_MASK)
        page = self._pages.get(number, 0)
        if page & bit:
            return False
        self._pages[number] = page | bit
        self.num += 1
        return True

    def add_all(self, keys: Iterable[int]) -> list[int]:
        """Put symbols in; which of them, counted from 0, were not there yet."""
        pages, fresh = self._pages, []
        current, page = -1, 0  # keys that come together mostly lie on one page
        for index, key in enumerate(keys):
            if key >> _PAGE_BITS != current:
                current = key >> _PAGE_BITS
                page = pages.get(current, 0)
            bit = 1 << (key & _PAGE_MASK)
            if not page & bit:
                page = pages[current] = page | bit
                fresh.append(index)
        self.num += len(fresh)
        return fresh

    def __contains__(self, key: int) -> bool:
        return bool(self._pages.get(key >> _PAGE_BITS, 0) >> (key & _PAGE_MASK) & 1)

    def __len__(self) -> int:
        return self.num
