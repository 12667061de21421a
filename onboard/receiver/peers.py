"""The ground stations that are heard, each with its own echo, counts and time to report. Pure.

Several stations may feed one transfer at the same time. Each learns from its own reports what of its own frames has
arrived, so nothing here is shared between them but what is to be told, and the budget of telling it.

It promises that a report's echo and its counts go together for each station: the echo names the last symbol that had
come from it when the last finished sync began, or the newest one if nothing waits for a sync.
"""

from collections import OrderedDict
from collections.abc import Iterator

from onboard.receiver.reporting import DownlinkBudget, ReportOptions, ReportTimer
from protocol.report import NO_HANDLE

Position = tuple[bytes, int, int]  # object, block, ESI
NOWHERE: Position = (NO_HANDLE, 0, 0)
_RECENT_MAX = 8  # objects that a station sends in turn
_NEAR_S = 1.0  # a station last heard no earlier than that before another is as near


class Peer:
    """One station.

    Attributes:
        station: its number.
        num_frames: authentic ones, in this session.
        next_sequence: of its next report. Each station's are numbered apart, so that it can tell what it has missed;
            no nonce comes twice, for each has a key of its own.
        echo: the last symbol that came.
        echo_durable: the last one before the last finished sync.
        recent: objects whose symbols it sent lately, the newest last.
        cursor: how far the objects that do not fit its reports have been told in turn.
        timer: when it is to be told.
        last_frame_at: when it was heard last.
    """

    __slots__ = (
        "_echo_syncing",
        "cursor",
        "echo",
        "echo_durable",
        "last_frame_at",
        "next_sequence",
        "num_frames",
        "recent",
        "station",
        "timer",
    )

    def __init__(self, station: int, timer: ReportTimer) -> None:
        self.station, self.timer = station, timer
        self.num_frames = self.next_sequence = self.cursor = 0
        self.echo = self.echo_durable = self._echo_syncing = NOWHERE
        self.recent: OrderedDict[bytes, None] = OrderedDict()
        self.last_frame_at = float("-inf")

    def heard(self, num_frames: int, echo: Position | None, now: float) -> None:
        """So many authentic frames came; the last symbol among them was that one, if there was any."""
        self.num_frames += num_frames
        self.last_frame_at = now
        self.timer.frame_arrived(now)
        if echo is None:
            return
        self.echo = echo
        if next(reversed(self.recent), None) != echo[0]:
            self.recent[echo[0]] = None
            self.recent.move_to_end(echo[0])
            if len(self.recent) > _RECENT_MAX:
                self.recent.popitem(last=False)

    def sync_begun(self, *, is_held: bool) -> None:
        """A sync begins. `is_held`: it covers not all that came, so the echo may not move."""
        self._echo_syncing = self.echo_durable if is_held else self.echo

    def sync_done(self) -> None:
        """It is through."""
        self.echo_durable = self._echo_syncing


class Peers:
    """All stations; at most as many as there are numbers (16).

    Args:
        options: how much each is told.
    """

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self.budget = DownlinkBudget(options.bytes_per_s)
        self._peers: dict[int, Peer] = {}

    def peer(self, station: int) -> Peer:
        """The station with that number."""
        peer = self._peers.get(station)
        if peer is None:
            peer = self._peers[station] = Peer(station, ReportTimer(self._options, self.budget))
        return peer

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    @property
    def num_frames(self) -> int:
        """Of all stations."""
        return sum(peer.num_frames for peer in self)

    def note_news(self, *, is_urgent: bool = False) -> None:
        """All who are there would like to know something."""
        for peer in self:
            peer.timer.note_news(is_urgent=is_urgent)

    def is_heard(self, now: float) -> bool:
        """Whether anybody was heard of lately, and we may speak."""
        return any(peer.timer.is_heard(now) for peer in self)

    def nearest(self, now: float) -> Peer | None:
        """The station to send messages to: the one heard last. Among those heard just now, always the same."""
        heard = [peer for peer in self if peer.timer.is_heard(now)]
        latest = max((peer.last_frame_at for peer in heard), default=0.0)
        return next((peer for peer in heard if peer.last_frame_at >= latest - _NEAR_S), None)

    def next_deadline(self) -> float | None:
        """When some station's report is due."""
        dues = (peer.timer.next_deadline() for peer in self)
        return min((due for due in dues if due is not None), default=None)

    def next_due(self, now: float) -> Peer | None:
        """A station whose report is due: the one that has waited longest."""
        for peer in self:
            peer.timer.note_time(now)
        due = [peer for peer in self if (at := peer.timer.next_deadline()) is not None and at <= now]
        return min(due, key=lambda peer: peer.timer.last_report_at, default=None)
