"""The ground's end of the return path: frames from the satellite in, reports and whole messages out. Pure.

Driven by datagrams (`receive`) and time (`frames_to_send`, `next_deadline`). Reports of sessions older than the newest,
and of lower sequence numbers, are replays or stragglers: counted and dropped. Message objects are verified with the
satellite's identity key; what does not verify is counted and never acknowledged. Acknowledgements go up in a ground
report's `complete` list, once whoever keeps the messages says that they are safe (`message_kept`).

Frames go up under the key of the newest contact; those that come down are taken under the few newest ones, since the
satellite may not have heard of the last (`protocol.contacts`).

The ground's reports are also how a satellite learns where to send to: `hello`. Reports are numbered, so those that are
missing between two of one contact tell how lossy the way down is.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.envelope import key_id
from protocol.errors import ChecksumError, ProtocolError
from protocol.exchange import Inbox
from protocol.frame import HANDLE_SIZE, Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.message import Message
from protocol.objects import object_handle
from protocol.report import Report

SESSION_SIZE = HANDLE_SIZE
_SESSIONS_MAX = 64
_ACK_PAUSE_S = 0.1  # acknowledgements at most so often
_ACKS_MAX = 32
_CONTACTS_HEARD = 4  # newest ones


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReceived:
    """A fresh report.

    Attributes:
        report: what it says.
        session: of the receiver that made it.
        sequence: its number in the session.
    """

    report: Report
    session: bytes
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A verified message: keep it, then say `message_kept`.

    Attributes:
        message: what it says.
        handle: of its object.
        data: the object, as the satellite signed it.
    """

    message: Message
    handle: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkStatistics:
    """Counters of one process.

    Attributes:
        frames_received: authentic ones.
        frames_rejected: damaged, or with another key.
        reports_stale: replays and stragglers.
        messages_refused: whole, but not signed by this satellite.
        reports_expected: sent to us by the satellite in our contacts, as their numbers say; reports_heard: of them.
    """

    frames_received: int
    frames_rejected: int
    reports_stale: int
    messages_refused: int
    reports_expected: int
    reports_heard: int


class Downlink:
    """What one satellite sends to one process of one ground station."""

    def __init__(
        self,
        *,
        contact_key: bytes | None = None,
        station: int = 0,
        satellite: str,
        identity_public: bytes,
        session: bytes,
        known_sessions: Mapping[bytes, int] | None = None,
    ) -> None:
        """Start listening.

        Args:
            contact_key: of the station's contact 0; left out, `set_contact` has to say one before anything is sent.
            station: its number; what the satellite sends to others is refused.
            satellite: its name; messages of others are refused.
            identity_public: raw Ed25519 key that its messages are signed with.
            session: SESSION_SIZE random bytes that name this ground process.
            known_sessions: sessions heard by earlier processes, oldest first: the highest sequence of each.
        """
        assert len(session) == SESSION_SIZE
        self._station = station
        self._downs: deque[tuple[int, FrameCodec]] = deque(maxlen=_CONTACTS_HEARD)
        self.heard_contact = 0  # the newest one that a frame came down in
        if contact_key is not None:
            self.set_contact(0, contact_key)
        self._satellite, self._public_keys = satellite, {key_id(identity_public): identity_public}
        self._session, self._sequence = session, 0
        self._known: OrderedDict[bytes, int] = OrderedDict(known_sessions or {})
        self._inbox = Inbox()
        self._kept: OrderedDict[bytes, None] = OrderedDict()
        self._ack_due = False
        self._acked_s = float("-inf")
        self._events: deque[ReportReceived | MessageReceived] = deque()
        self._received = self._rejected = self._stale = self._refused = 0
        self._expected = self._heard = 0
        self._mark: tuple[bytes, int] | None = None  # session and number of the last report of this contact

    def set_contact(self, number: int, contact_key: bytes) -> None:
        """Send under the key of another contact, and listen under it too."""
        self._up = FrameCodec(Direction.UP, contact_key, station=self._station)
        self._downs.appendleft((number, FrameCodec(Direction.DOWN, contact_key, station=self._station)))

    def begin_contact(self) -> None:
        """What was sent down before, into the void, is not lost on the link."""
        self._mark = None

    def receive(self, data: bytes) -> None:
        """Take in one datagram."""
        try:
            frame = self._decode(data)
            if frame.kind is FrameKind.REPORT:
                self._receive_report(frame, Report.decode(frame.payload))
            else:
                self._receive_symbol(frame)
        except ProtocolError:
            self._rejected += 1
            return
        self._received += 1

    def _decode(self, data: bytes) -> Frame:
        error = ChecksumError("frame: in no contact")
        for number, codec in self._downs:
            try:
                frame = codec.decode(data)
            except ChecksumError as caught:
                error = caught
                continue
            self.heard_contact = max(self.heard_contact, number)
            return frame
        raise error

    def next_event(self) -> ReportReceived | MessageReceived | None:
        """What was heard, oldest first."""
        return self._events.popleft() if self._events else None

    def message_kept(self, handle: bytes) -> None:
        """A message is safe on disk: acknowledge it."""
        self._kept[handle] = None
        while len(self._kept) > _ACKS_MAX:
            self._kept.popitem(last=False)
        self._ack_due = True

    def frames_to_send(self, now: float) -> list[bytes]:
        """Acknowledgements that are due."""
        if not self._ack_due or now - self._acked_s < _ACK_PAUSE_S:
            return []
        return [self.hello(now)]

    def next_deadline(self) -> float | None:
        """When an acknowledgement is due."""
        return self._acked_s + _ACK_PAUSE_S if self._ack_due else None

    def hello(self, now: float) -> bytes:
        """A ground report as a datagram: tells the satellite where we are, and which messages we have."""
        self._sequence += 1
        self._ack_due, self._acked_s = False, now
        return self.encode(
            Frame(
                kind=FrameKind.REPORT,
                handle=self._session,
                num_symbols=0,
                sequence=self._sequence,
                payload=Report(complete=tuple(reversed(self._kept))).encode(),
            )
        )

    def encode(self, frame: Frame) -> bytes:
        """A frame to the satellite as a datagram."""
        return self._up.encode(frame)

    def encode_run(self, first: Frame, symbols: Sequence[bytes], is_short: Sequence[bool]) -> list[bytes]:
        """Frames to the satellite of consecutive symbols of one block as datagrams; see `FrameCodec.encode_run`."""
        return self._up.encode_run(first, symbols, is_short)

    @property
    def overhead(self) -> int:
        """Bytes of a datagram that are not payload."""
        return self._up.overhead

    def statistics(self) -> DownlinkStatistics:
        """A snapshot."""
        return DownlinkStatistics(
            frames_received=self._received,
            frames_rejected=self._rejected,
            reports_stale=self._stale,
            messages_refused=self._refused,
            reports_expected=self._expected,
            reports_heard=self._heard,
        )

    def _receive_report(self, frame: Frame, report: Report) -> None:
        newest = next(reversed(self._known), None)
        if frame.handle in self._known and (frame.handle != newest or frame.sequence <= self._known[frame.handle]):
            self._stale += 1
            return
        self._count(frame)
        self._known[frame.handle] = frame.sequence
        while len(self._known) > _SESSIONS_MAX:
            self._known.popitem(last=False)
        self._events.append(ReportReceived(report=report, session=frame.handle, sequence=frame.sequence))

    def _count(self, frame: Frame) -> None:
        if self._mark is not None and self._mark[0] == frame.handle:
            self._expected += frame.sequence - self._mark[1]
            self._heard += 1
        self._mark = frame.handle, frame.sequence

    def _receive_symbol(self, frame: Frame) -> None:
        if frame.handle in self._kept:
            self._ack_due = True  # our acknowledgement was lost
            return
        data = self._inbox.receive(frame)
        if data is None:
            return
        try:
            message = Message.open(data, public_keys=self._public_keys)
        except ProtocolError:
            self._refused += 1
            return
        if message.satellite != self._satellite:
            self._refused += 1
            return
        self._events.append(MessageReceived(message=message, handle=object_handle(data), data=data))
