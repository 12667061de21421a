"""The intake: datagrams in, authentic symbols out, in runs of one block each. Pure.

This is where the receiver's speed is made. Whoever checks a frame whole (`protocol.frame`) pays several times what its
tag costs; but all frames of an object from one station share nine bytes of header and their length. So the first of
them is decoded whole, and of the others only what differs is looked at: position and tag; a frame is first taken for
the next one of the flow before. Symbols that came together are handed on together, so that what follows is paid once
for many.

It promises that nothing comes out which the codec would refuse, and counts by cause what does not. What a forged frame
can cost is bounded: a tag or two, nine for one with a short header, and a few dozen times a second a search for the
station's contact (`contact_search`). It does not know which objects are wanted.
"""

import contextlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from onboard.receiver.contact_search import ContactSearch
from protocol.errors import ChecksumError, DecodeError, TruncatedError, UnknownObjectError, UnsupportedVersionError
from protocol.frame import HEADER_SIZE, SHORT_HEADER_SIZE, VERSION, Frame, FrameCodec, FrameKind
from protocol.limits import SYMBOL_ALIGNMENT, SYMBOL_SIZE_MAX

_FLOWS_MAX = 512  # a few objects of each station; one more costs a whole decode
_BLOCK_BITS = 4
_SHORT_FIRST = VERSION << 2  # high nibble of a short header's first byte
_SLOTS, _SLOT_OBJECTS_MAX = 16, 8

Tag = Callable[[bytes, bytes, bytes], bytes]
Position = tuple[bytes, int, int]  # object, block, ESI


@dataclass(slots=True, kw_only=True)
class SymbolRun:
    """Symbols of one block that came together from one station.

    Attributes:
        station: they came from.
        handle: of the object.
        kind: how its symbols are coded.
        num_symbols: source symbols of the whole object.
        symbol_size: bytes.
        block: source block number.
        esis: one for each symbol.
        symbols: as they came; duplicates are possible.
        address: the last of them came from.
    """

    station: int
    handle: bytes
    kind: FrameKind
    num_symbols: int
    symbol_size: int
    block: int
    esis: list[int]
    symbols: list[bytes]
    address: Any = None


@dataclass(slots=True)
class Batch:
    """What came of some datagrams.

    Attributes:
        runs: symbols, by block.
        reports: of the ground.
        heard: for each station the position of its last symbol (None if it sent none), its address, how many frames.
        rejected: datagrams that were no authentic frame, by cause.
        contacts: of stations that were heard in a later contact than before: its number.
    """

    runs: list[SymbolRun] = field(default_factory=list)
    reports: list[Frame] = field(default_factory=list)
    heard: dict[int, tuple[Position | None, Any, int]] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    contacts: dict[int, int] = field(default_factory=dict)


_Match = Callable[[bytes], tuple[int, int, bytes] | None]


class _Flow:
    """What all frames of one object from one station have in common.

    Attributes:
        number: tells runs of different flows apart, with a block's number added.
        frame: the first one.
        match: says of a datagram as long as a whole frame of this flow whether it is an authentic one: its block and
            high bits of its ESI (1 byte), low bits of its ESI, its symbol. None: it is not, or not of this flow.
        match_short: the same for one with a short header.
        matches: both, by the length of the datagrams that they take.
    """

    __slots__ = ("frame", "match", "match_short", "matches", "number")

    def __init__(self, number: int, data: bytes, frame: Frame, trailer_size: int, tag: Tag) -> None:
        self.number, self.frame = number << _BLOCK_BITS, frame
        form = f"{len(frame.payload)}s{trailer_size}s"
        self.match = _whole_match(data, Struct(f">3sBH6s{form}").unpack, trailer_size, tag)
        self.match_short = _short_match(data, Struct(f">BBH{form}").unpack, trailer_size, tag)
        size_saved = HEADER_SIZE - SHORT_HEADER_SIZE
        self.matches = {len(data): self.match, len(data) - size_saved: self.match_short}


def _whole_match(first: bytes, unpack: Callable[[bytes], tuple[Any, ...]], trailer_size: int, tag: Tag) -> _Match:
    """See `_Flow.match`. One closure for each flow: this runs for every frame, and a name in it costs nothing."""
    flow_head, flow_handle, end = first[:3], first[6:HEADER_SIZE], len(first) - trailer_size
    is_equal, header_size = hmac.compare_digest, HEADER_SIZE

    def match(datagram: bytes) -> tuple[int, int, bytes] | None:
        head, high, low, handle, symbol, trailer = unpack(datagram)
        if head != flow_head or handle != flow_handle:
            return None
        made = tag(datagram[:header_size], b"", datagram[:end])
        return (high, low, symbol) if is_equal(made[:trailer_size], trailer) else None

    return match


def _short_match(first: bytes, unpack: Callable[[bytes], tuple[Any, ...]], trailer_size: int, tag: Tag) -> _Match:
    """See `_Flow.match_short`."""
    head, handle = first[:3], first[6:HEADER_SIZE]
    short_first, slot = _SHORT_FIRST << 4 | first[0] & 0x0F, handle[-1] & 0x0F
    is_equal = hmac.compare_digest

    def match(datagram: bytes) -> tuple[int, int, bytes] | None:
        start, place, low, symbol, trailer = unpack(datagram)
        if start != short_first or place >> 4 != slot:
            return None
        high = (place & 0x0F) << 4
        header = head + (high << 16 | low).to_bytes(3, "big") + handle
        made = tag(header, b"", header + symbol)
        return (high, low, symbol) if is_equal(made[:trailer_size], trailer) else None

    return match


class Intake:
    """See the module.

    Args:
        codec: of the frames that come.
    """

    def __init__(self, codec: FrameCodec) -> None:
        self._codec, self._search = codec, ContactSearch(codec)
        self._now = 0.0
        self._flows: dict[bytes, _Flow] = {}
        self._num_flows = 0
        self._slots: list[OrderedDict[bytes, tuple[FrameKind, int]]] = [OrderedDict() for _ in range(_SLOTS)]

    def remember(self, kind: FrameKind, handle: bytes, num_symbols: int) -> None:
        """Know an object, so that frames of it with a short header are understood; whole frames teach it themselves."""
        slot = self._slots[handle[-1] & 0x0F]
        slot[handle] = (kind, num_symbols)
        slot.move_to_end(handle, last=False)
        if len(slot) > _SLOT_OBJECTS_MAX:
            slot.popitem()

    def forget_station(self, station: int) -> None:
        """Have the next frame of a station decoded whole: its key has changed."""
        self._flows = {key: flow for key, flow in self._flows.items() if key[0] & 0x0F != station}

    def sort(self, datagrams: Iterable[tuple[bytes, Any]], now: float = 0.0) -> Batch:
        """Take datagrams, each with its sender's address, that came by a time in seconds."""
        batch, self._now = Batch(), now
        runs: dict[int, SymbolRun] = {}
        last: dict[int, SymbolRun] = {}  # of each station: the run that its last symbol so far is in
        matches: dict[int, _Match] = {}  # of the flow of the frame before, which most likely goes on
        run_high = -1
        for datagram, address in datagrams:
            match = matches.get(len(datagram))
            found = match(datagram) if match else None
            if found is None:
                other = self._find(datagram, address, batch)
                if other is None:
                    if batch.contacts:
                        matches = {}  # may be of one that is void now
                    continue
                flow, found = other
                matches, run_high = flow.matches, -1
            high, low, symbol = found
            if high != run_high:
                run_high, number = high, flow.number | high >> 4
                run = runs.get(number) or self._begin_run(runs, number, flow.frame)
                add_esi, add_symbol, high_bits = run.esis.append, run.symbols.append, (high & 0x0F) << 16
                last[run.station] = run
            add_esi(high_bits | low)
            add_symbol(symbol)
            run.address = address
        batch.runs += runs.values()
        for station, run in last.items():
            num = sum(len(other.esis) for other in batch.runs if other.station == station)
            self._note(batch, station, (run.handle, run.block, run.esis[-1]), run.address, num)
        return batch

    def _find(self, data: bytes, address: Any, batch: Batch) -> tuple[_Flow, tuple[int, int, bytes]] | None:  # noqa: ANN401
        """Find the flow of a datagram that is not of the flow before, and see whether it is authentic.

        None: it has been counted as rejected, or is a report.
        """
        if data and data[0] >> 4 == _SHORT_FIRST:
            return self._complete(data, batch)
        known = self._flows.get(data[:3] + data[6:HEADER_SIZE])
        if known is not None and (match := known.matches.get(len(data))) is known.match:
            found = match(data)
            if found is not None:
                return known, found
            frame = self._decode_later(data, batch)
        else:
            frame = self._decode(data, batch)
        if frame is None:
            return None
        if frame.kind is FrameKind.REPORT:
            batch.reports.append(frame)
            self._note(batch, frame.station, None, address, 1)
            return None
        return self._flow(data, frame), _found(frame)

    def _begin_run(self, runs: dict[int, SymbolRun], number: int, frame: Frame) -> SymbolRun:
        self.remember(frame.kind, frame.handle, frame.num_symbols)  # who is heard is not forgotten
        run = runs[number] = _run(frame, number & (1 << _BLOCK_BITS) - 1)
        return run

    def _is_short_size(self, size: int) -> bool:
        payload_size = size - SHORT_HEADER_SIZE - self._codec.trailer_size
        return 1 <= payload_size <= SYMBOL_SIZE_MAX and payload_size % SYMBOL_ALIGNMENT == 0

    def _note(self, batch: Batch, station: int, echo: Position | None, address: Any, num: int) -> None:  # noqa: ANN401
        before, _, num_before = batch.heard.get(station, (None, None, 0))
        batch.heard[station] = (echo or before, address, num_before + num)

    def _decode(self, data: bytes, batch: Batch) -> Frame | None:
        try:
            return self._codec.decode(data)
        except ChecksumError:
            return self._decode_later(data, batch)
        except DecodeError as error:
            _count(batch.rejected, _cause(error))
            return None

    def _decode_later(self, data: bytes, batch: Batch) -> Frame | None:
        """Decode a frame whose tag fails: it may be the first of a new contact, which makes all before it void."""
        contact = self._search.find(data, self._now)
        if contact is None:
            _count(batch.rejected, "checksum")
            return None
        station = data[0] & 0x0F
        self._codec.set_contact(station, contact)
        self.forget_station(station)
        batch.contacts[station] = contact
        return self._codec.decode(data)

    def _flow(self, data: bytes, frame: Frame) -> _Flow:
        """Note what the frames that follow an authentic one will have in common with it."""
        if len(self._flows) >= _FLOWS_MAX:
            self._flows.clear()
        self._num_flows += 1
        tag = self._codec.tag_maker(data[0], len(frame.payload))
        flow = _Flow(self._num_flows, data, frame, self._codec.trailer_size, tag)
        self._flows[data[:3] + data[6:HEADER_SIZE]] = flow
        return flow

    def _complete(self, data: bytes, batch: Batch) -> tuple[_Flow, tuple[int, int, bytes]] | None:
        """Complete a short header with each object that it may mean; the tag tells which."""
        if not self._is_short_size(len(data)):
            _count(batch.rejected, "truncated")
            return None
        position = bytes(((data[1] & 0x0F) << 4,)) + data[2:SHORT_HEADER_SIZE]
        for handle, (kind, num_symbols) in self._slots[data[1] >> 4].items():
            head = bytes((data[0] | kind << 4,)) + (num_symbols - 1).to_bytes(2, "big")
            flow = self._flows.get(head + handle)
            if flow is not None and (match := flow.matches.get(len(data))) is flow.match_short:
                found = match(data)
                if found is not None:
                    return flow, found
                continue
            whole = head + position + handle + data[SHORT_HEADER_SIZE:]
            with contextlib.suppress(DecodeError):
                frame = self._codec.decode(whole)
                return self._flow(whole, frame), _found(frame)
        _count(batch.rejected, "unknown")
        return None


def _found(frame: Frame) -> tuple[int, int, bytes]:
    return frame.block << 4 | frame.esi >> 16, frame.esi & 0xFFFF, frame.payload


def _run(frame: Frame, block: int) -> SymbolRun:
    return SymbolRun(
        station=frame.station,
        handle=frame.handle,
        kind=frame.kind,
        num_symbols=frame.num_symbols,
        symbol_size=len(frame.payload),
        block=block,
        esis=[],
        symbols=[],
    )


def run_of(frame: Frame) -> SymbolRun:
    """A run of one frame."""
    run = _run(frame, frame.block)
    run.esis.append(frame.esi)
    run.symbols.append(frame.payload)
    return run


def _count(counts: dict[str, int], cause: str) -> None:
    counts[cause] = counts.get(cause, 0) + 1


def _cause(error: DecodeError) -> str:
    match error:
        case TruncatedError():
            return "truncated"
        case UnsupportedVersionError():
            return "version"
        case UnknownObjectError():
            return "unknown"
        case ChecksumError():
            return "checksum"
        case _:
            return "malformed"
