"""The intake: datagrams in, authentic symbols out, in runs of one block each. Pure.

This is where the receiver's speed is made. Whoever checks a frame whole (`protocol.frame`) pays several times what its
tag costs; but all frames of an object from one station share nine bytes of header and their length. So the first of
them is decoded whole, and of the others only what differs is looked at: position and tag. Symbols that came together
are handed on together, so that what follows is paid once for many.

It promises that nothing comes out which the codec would refuse, and counts by cause what does not. What a forged frame
can cost is bounded: a tag or two, eight for one with a short header. It does not know which objects are wanted.
"""

import hmac
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from protocol.errors import ChecksumError, DecodeError, TruncatedError, UnknownObjectError, UnsupportedVersionError
from protocol.frame import HEADER_SIZE, SHORT_HEADER_SIZE, VERSION, Frame, FrameCodec, FrameKind
from protocol.limits import ESI_MAX, SYMBOL_ALIGNMENT, SYMBOL_SIZE_MAX

_FLOWS_MAX = 512  # a few objects of each station; one more costs a whole decode
_BLOCK_BITS, _ESI_BITS = 4, 20
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
    """

    runs: list[SymbolRun] = field(default_factory=list)
    reports: list[Frame] = field(default_factory=list)
    heard: dict[int, tuple[Position | None, Any, int]] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)


class _Flow:
    """What all frames of one object from one station have in common."""

    __slots__ = ("end", "frame", "number", "size", "tag")

    def __init__(self, number: int, frame: Frame, size: int, tag: Tag) -> None:
        self.number, self.frame, self.tag = number << _BLOCK_BITS, frame, tag
        self.size, self.end = size, HEADER_SIZE + len(frame.payload)


class Intake:
    """See the module.

    Args:
        codec: of the frames that come.
    """

    def __init__(self, codec: FrameCodec) -> None:
        self._codec = codec
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

    def sort(self, datagrams: Iterable[tuple[bytes, Any]]) -> Batch:
        """Take datagrams, each with its sender's address."""
        batch = Batch()
        flows, compare, trailer_size = self._flows, hmac.compare_digest, self._codec.trailer_size
        runs: dict[int, SymbolRun] = {}
        last: dict[int, SymbolRun] = {}  # of each station: the run that its last symbol so far is in
        number = -1
        for datagram, address in datagrams:
            data = datagram
            if data and data[0] >> 4 == _SHORT_FIRST:
                whole = self._complete(data)
                if whole is None:
                    _count(batch.rejected, "unknown" if self._is_short_size(len(data)) else "truncated")
                    continue
                data, flow = whole
            else:
                known = flows.get(data[:3] + data[6:HEADER_SIZE])
                if known is None or len(data) != known.size:
                    frame = self._decode(data, batch)
                    if frame is None:
                        continue
                    if frame.kind is FrameKind.REPORT:
                        batch.reports.append(frame)
                        self._note(batch, frame.station, None, address, 1)
                        continue
                    flow = self._flow(data, frame)
                else:
                    end, flow = known.end, known
                    tag = known.tag(data[:HEADER_SIZE], b"", data[:end])
                    if not compare(tag[:trailer_size], data[end:]):
                        _count(batch.rejected, "checksum")
                        continue
            position = int.from_bytes(data[3:6], "big")
            if flow.number | position >> _ESI_BITS != number:
                number = flow.number | position >> _ESI_BITS
                run = runs.get(number) or self._begin_run(runs, number, flow.frame)
                add_esi, add_symbol = run.esis.append, run.symbols.append
                last[run.station] = run
            add_esi(position & ESI_MAX)
            add_symbol(data[HEADER_SIZE : flow.end])
            run.address = address
        batch.runs += runs.values()
        for station, run in last.items():
            num = sum(len(other.esis) for other in batch.runs if other.station == station)
            self._note(batch, station, (run.handle, run.block, run.esis[-1]), run.address, num)
        return batch

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
        except DecodeError as error:
            _count(batch.rejected, _cause(error))
            return None

    def _flow(self, data: bytes, frame: Frame) -> _Flow:
        """Note what the frames that follow an authentic one will have in common with it."""
        if len(self._flows) >= _FLOWS_MAX:
            self._flows.clear()
        self._num_flows += 1
        tag = self._codec.tag_maker(data[0], len(frame.payload))
        flow = self._flows[data[:3] + data[6:HEADER_SIZE]] = _Flow(self._num_flows, frame, len(data), tag)
        return flow

    def _complete(self, data: bytes) -> tuple[bytes, _Flow] | None:
        """Complete a short header with each object that it may mean; the tag tells which."""
        if not self._is_short_size(len(data)):
            return None
        slot = self._slots[data[1] >> 4]
        trailer_size = self._codec.trailer_size
        position = bytes(((data[1] & 0x0F) << 4,)) + data[2:SHORT_HEADER_SIZE]
        for handle, (kind, num_symbols) in slot.items():
            head = bytes((data[0] | kind << 4,)) + (num_symbols - 1).to_bytes(2, "big")
            whole = head + position + handle + data[SHORT_HEADER_SIZE:]
            flow = self._flows.get(head + handle)
            if flow is None or flow.size != len(whole):
                try:
                    flow = self._flow(whole, self._codec.decode(whole))
                except DecodeError:
                    continue
            elif not hmac.compare_digest(
                flow.tag(whole[:HEADER_SIZE], b"", whole[: flow.end])[:trailer_size], whole[flow.end :]
            ):
                continue
            return whole, flow
        return None


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
