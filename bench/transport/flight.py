"""One flight: one peer over one link, with or without trouble on the way, until the sender ends or time is up."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.transport.counters import DirectionCounts
from bench.transport.link import Link, Loss
from bench.transport.peer import Peer

GAP_S = 15.0  # how long the link stays dark
POLL_S = 0.05
SETTLE_S_MAX = 10.0
RESUMES_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a flight has to live through.

    Attributes:
        key: in the JSON of the measurement, and in the table.
        title: for people.
        loss: of the link.
        trouble: "" for none; "cut" takes the link down at half, for `GAP_S`; "kill" kills the receiver at half.
    """

    key: str
    title: str
    loss: Loss
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a flight went.

    Attributes:
        payload_bytes: what was to be carried.
        up, down: counted on the link.
        seconds: from start to end.
        finished: whether the sender ended, believing that all is there.
        right: whether it is, byte for byte.
        socket_drops: datagrams that a receiving socket had no room for.
        figures: more, by the peer.
    """

    payload_bytes: int
    up: DirectionCounts
    down: DirectionCounts
    nominal_loss: float
    seconds: float
    finished: bool
    right: bool
    socket_drops: int
    figures: dict[str, float]

    @property
    def loss(self) -> float:
        """What the link really took of the data packets."""
        return self.nominal_loss if self.up.loss is None else self.up.loss

    @property
    def total_bytes(self) -> int:
        """IP bytes both ways while the link was up."""
        return self.up.used.size_bytes + self.down.used.size_bytes

    @property
    def ratio(self) -> float:
        """IP bytes both ways, by the erasure limit at the loss that really was."""
        return self.total_bytes * (1 - self.loss) / self.payload_bytes

    @property
    def symbol_ratio(self) -> float | None:
        """Data packets that arrived, over source symbols: those sent over K / (1 - p), at the loss that really was."""
        num_symbols = self.figures.get("num_symbols")
        return self.up.large_passed.packets / num_symbols if num_symbols else None

    @property
    def nominal_ratio(self) -> float:
        """The same at the loss that was asked for."""
        return self.total_bytes * (1 - self.nominal_loss) / self.payload_bytes


def fly(peer: Peer, row: Row, *, time_limit_s: float) -> Outcome:
    """Fly once."""
    directory = Path(tempfile.mkdtemp(prefix="skyb-"))
    with Link(row.loss) as link:
        began_s = time.monotonic()
        peer.begin(link, directory)
        finished = _Course(peer, row, link).run(began_s + time_limit_s)
        seconds = time.monotonic() - began_s
        drops = link.sockets_dropped()
        up, down = link.counts()
        outcome = Outcome(
            payload_bytes=peer.payload_bytes,
            up=up,
            down=down,
            nominal_loss=row.loss.share,
            seconds=seconds,
            finished=finished,
            right=_arrived(peer, SETTLE_S_MAX if finished else 0.0),
            socket_drops=drops,
            figures=peer.figures(),
        )
    if peer.is_ours and not (outcome.finished and outcome.right):
        print(f"hint: logs are in {directory}", flush=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return outcome


def _arrived(peer: Peer, patience_s: float) -> bool:
    """Whether all is there; a receiver may still be moving its file into place."""
    deadline_s = time.monotonic() + patience_s
    while not (is_right := peer.is_right()) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return is_right


class _Course:
    """What happens when."""

    def __init__(self, peer: Peer, row: Row, link: Link) -> None:
        self._peer, self._row, self._link = peer, row, link
        self._half_bytes = peer.payload_bytes / (1 - row.loss.share) / 2
        self._trouble = row.trouble
        self._light_s: float | None = None

    def run(self, deadline_s: float) -> bool:
        """Returns whether the sender ended well."""
        resumes_left = RESUMES_MAX
        while (now := time.monotonic()) < deadline_s:
            self._meddle(now)
            status = self._peer.poll()
            if status == 0:
                return True
            if status is not None and self._light_s is None:
                if not resumes_left or not self._peer.resume():
                    return False
                resumes_left -= 1
            time.sleep(POLL_S)
        return False

    def _meddle(self, now: float) -> None:
        if self._trouble and self._link.bytes_up() >= self._half_bytes:
            if self._trouble == "kill":
                self._peer.kill_receiver()
            else:
                self._link.go_dark()
                self._light_s = now + GAP_S
            self._trouble = ""
        if self._light_s is not None and now >= self._light_s:
            self._link.light_up()
            self._light_s = None
