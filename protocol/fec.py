"""Our seam in front of the FEC codec: RaptorQ (RFC 6330) through `raptorq`, and a plain fallback.

The library panics (a BaseException) on short packets and unknown block numbers, and decodes damaged symbols silently
to wrong data. So everything is checked here first, here alone a BaseException is caught, and whoever calls must have
authenticated each symbol and must hash the object afterwards.

A solve holds the GIL for up to 0.12 s (K = 8000): call it in a worker process where that matters.

PLAIN has no repair: encoding symbol e is source symbol e mod K, a carousel. It keeps a link alive where no codec can
be installed, at several times the bytes.
"""

from collections.abc import Iterable, Mapping

from protocol.errors import DecodeError, MisuseError
from protocol.frame import FrameKind
from protocol.limits import BLOCK_SIZE_MAX, BLOCK_SYMBOLS_MAX, ESI_MAX

try:
    import raptorq
except ImportError:  # pragma: no cover - a platform without the codec
    raptorq = None

_PACKET_HEADER_SIZE = 4  # RFC 6330, 3.2: source block number (1) and ESI (3)


def best_kind() -> FrameKind:
    """The best frame kind that this installation can encode and solve."""
    return FrameKind.PLAIN if raptorq is None else FrameKind.RAPTORQ


def can_solve(kind: FrameKind) -> bool:
    """Whether this installation can solve blocks of that kind."""
    return kind is FrameKind.PLAIN or (kind is FrameKind.RAPTORQ and raptorq is not None)


class BlockEncoder:
    """Encoding symbols of one block.

    Args:
        kind: RAPTORQ or PLAIN.
        data: the padded block, K * symbol_size bytes. Kept, not copied.
        symbol_size: T, bytes.
    """

    def __init__(self, kind: FrameKind, data: bytes, symbol_size: int) -> None:
        if not data or len(data) % symbol_size or len(data) > BLOCK_SIZE_MAX:
            raise MisuseError(f"a block of {len(data)} bytes is not a whole number of {symbol_size}-byte symbols")
        if not can_solve(kind):
            raise MisuseError(f"no codec for {kind.name} is installed")
        self._kind, self._data, self._symbol_size = kind, data, symbol_size
        self.num_source = len(data) // symbol_size

    def symbols(self, first_esi: int, count: int) -> list[bytes]:
        """Return symbols first_esi .. first_esi + count - 1.

        The same ESI always gives the same bytes. Repair symbols are made anew from ESI K on at each call (some 20 ms
        for K = 8000): ask for many at once.
        """
        if first_esi < 0 or count < 0 or first_esi + count - 1 > ESI_MAX:
            raise MisuseError(f"ESI {first_esi} + {count} is out of range")
        last = first_esi + count
        if self._kind is FrameKind.PLAIN:
            return [self._source(esi % self.num_source) for esi in range(first_esi, last)]
        result = [self._source(esi) for esi in range(first_esi, min(last, self.num_source))]
        if last > self.num_source:
            skip = max(first_esi, self.num_source)
            packets = raptorq.Encoder.with_defaults(self._data, self._symbol_size).get_encoded_packets(
                last - self.num_source
            )
            result += [packet[_PACKET_HEADER_SIZE:] for packet in packets[skip:]]
        return result

    def _source(self, index: int) -> bytes:
        return self._data[index * self._symbol_size : (index + 1) * self._symbol_size]


def solve(
    kind: FrameKind,
    num_source: int,
    symbol_size: int,
    symbols: Iterable[tuple[int, bytes]] | Mapping[int, bytes],
) -> bytes | None:
    """Rebuild a block from any of its symbols.

    Args:
        kind: RAPTORQ or PLAIN.
        num_source: K.
        symbol_size: T, bytes.
        symbols: (esi, symbol) in any order, duplicates allowed, each authenticated by the caller.

    Returns:
        The padded block, or None when these symbols do not suffice (RaptorQ: 1 in 100 times with K, 1 in 10,000
        with K + 1).

    Raises:
        DecodeError: a symbol of the wrong length or ESI, a kind this installation cannot solve, or a refusal of
            the codec.
    """
    _check_block(kind, num_source, symbol_size)
    known = dict(symbols)
    for esi, symbol in known.items():
        if len(symbol) != symbol_size or not 0 <= esi <= ESI_MAX:
            raise DecodeError(f"symbol {esi} has {len(symbol)} bytes, expected {symbol_size}")
    if kind is FrameKind.PLAIN:
        known = {esi % num_source: symbol for esi, symbol in known.items()}
    if len(known) < num_source:
        return None
    if all(esi in known for esi in range(num_source)):
        return b"".join(known[esi] for esi in range(num_source))
    return None if kind is FrameKind.PLAIN else _solve_raptorq(num_source, symbol_size, known)


def solve_packets(kind: FrameKind, num_source: int, symbol_size: int, packets: list[bytes]) -> bytes | None:
    """Rebuild a block from distinct symbols, each with its ESI (4 bytes, big-endian) before it. Else as `solve`."""
    size, esi_end = _PACKET_HEADER_SIZE + symbol_size, (ESI_MAX + 1).to_bytes(_PACKET_HEADER_SIZE, "big")
    if kind is FrameKind.PLAIN:
        return solve(kind, num_source, symbol_size, map(_symbol_of, packets))
    if len(packets) < num_source:
        return solve(kind, num_source, symbol_size, {})
    _check_block(kind, num_source, symbol_size)
    packets = sorted(packets)  # source symbols first: the codec copies them, and only solves for the rest
    if packets[-1] >= esi_end or set(map(len, packets)) != {size}:
        raise DecodeError(f"a symbol has the wrong length or ESI, expected {symbol_size} bytes")
    if packets[num_source - 1][:_PACKET_HEADER_SIZE] == (num_source - 1).to_bytes(_PACKET_HEADER_SIZE, "big"):
        return b"".join(packet[_PACKET_HEADER_SIZE:] for packet in packets[:num_source])
    return _run_codec(num_source, symbol_size, packets)


def _check_block(kind: FrameKind, num_source: int, symbol_size: int) -> None:
    if not 1 <= num_source <= BLOCK_SYMBOLS_MAX or num_source * symbol_size > BLOCK_SIZE_MAX:
        raise DecodeError(f"a block of {num_source} symbols of {symbol_size} bytes is out of range")
    if not can_solve(kind):
        raise DecodeError(f"no codec for {kind.name} is installed")


def _symbol_of(packet: bytes) -> tuple[int, bytes]:
    return int.from_bytes(packet[:_PACKET_HEADER_SIZE], "big"), packet[_PACKET_HEADER_SIZE:]


def _solve_raptorq(num_source: int, symbol_size: int, known: Mapping[int, bytes]) -> bytes | None:
    packets = (esi.to_bytes(_PACKET_HEADER_SIZE, "big") + known[esi] for esi in sorted(known))
    return _run_codec(num_source, symbol_size, packets)


def _run_codec(num_source: int, symbol_size: int, packets: Iterable[bytes]) -> bytes | None:
    size = num_source * symbol_size
    try:
        decoder = raptorq.Decoder.with_defaults(size, symbol_size)
        for packet in packets:
            data = decoder.decode(packet)
            if data is not None:
                return bytes(data) if len(data) == size else None
    except BaseException as error:  # a panic of the codec is not an Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise DecodeError(f"the codec refused a block of {num_source} symbols: {error}") from None
    return None
