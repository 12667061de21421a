"""Reports without receiving: answers whoever is heard on the link, and takes nothing.

For a satellite whose medium is read-only (`onboard.serve_only`). Symbols, reports and commands of the ground are
counted and dropped: no report echoes, lists or completes anything that was not durable before. Reports say that
something may have been left out, so that nobody takes what they do not list for lost.

Driven by its socket and a timer; with nobody on the link nothing wakes up. Contacts are heard, and not written down.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from onboard.receiver.hellos import Hellos
from onboard.receiver.intake import Batch, Intake
from onboard.receiver.link_socket import LinkSocket
from onboard.receiver.many_datagrams import Datagram
from onboard.receiver.peers import Peer, Peers
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.status import ReportStatus
from protocol.frame import SEQUENCE_MAX, Frame, FrameCodec, FrameKind
from protocol.report import Report

_DRAIN_FRAMES = 256
_SILENCE_S = 3.0  # as in `shell`: who repeats a station's frames must not draw its reports to himself


class Beacon:
    """See the module.

    Args:
        listen: address and UDP port.
        up: codec of frames that come, in the generations and contacts of the last life.
        down: codec of frames that go, likewise.
        status: what reports say beyond frames.
        session: random, new at each start.
        options: how much is told.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        up: FrameCodec,
        down: FrameCodec,
        status: Callable[[], ReportStatus],
        session: bytes,
        options: ReportOptions,
    ) -> None:
        self._listen, self._down, self._status, self._session = listen, down, status, session
        self._intake, self._peers, self._hellos = Intake(up), Peers(options), Hellos()
        self._addresses: dict[int, tuple[Any, float]] = {}  # where each station is, and when it was heard there
        self._timer: asyncio.TimerHandle | None = None
        self._socket: LinkSocket | None = None
        self.num_rejected = 0

    @property
    def num_frames(self) -> int:
        """Authentic ones."""
        return self._peers.num_frames

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, while it runs."""
        assert self._socket is not None
        return self._socket.address

    async def run(self) -> None:
        """Answer, for ever.

        Raises:
            ConfigError: the address cannot be listened on.
            BusyError: somebody else does.
        """
        self._loop = asyncio.get_running_loop()
        self._socket = LinkSocket(self._listen)
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        try:
            await asyncio.Event().wait()
        finally:
            self._loop.remove_reader(self._socket.fileno())
            if self._timer is not None:
                self._timer.cancel()
            self._socket.close()

    def hear(self, datagrams: list[Datagram], now: float) -> None:
        """Count what came, and note who is there, and where."""
        batch = self._intake.sort(datagrams, now)
        self.num_rejected += sum(batch.rejected.values())
        for station, contact in batch.contacts.items():
            self._down.set_contact(station, contact)
        certain = self._certain(batch)
        for station, (_, address, num) in batch.heard.items():
            self._peers.peer(station).heard(num, None, now)
            old, heard_at = self._addresses.get(station, (address, now))
            if station in certain or address == old or now - heard_at > _SILENCE_S:
                self._addresses[station] = address, now

    def reports(self, now: float) -> list[tuple[Frame, Any]]:
        """The reports that are due, each with where it goes."""
        frames = []
        while (peer := self._peers.next_due(now)) is not None:
            frame = self._report(peer)
            peer.timer.report_sent(len(frame.payload) + self._down.overhead, now)
            frames.append((frame, self._addresses[peer.station][0]))
        return frames

    def _certain(self, batch: Batch) -> set[int]:
        """Stations whose frames are certainly no repetition."""
        new = (each for each in batch.reports if self._hellos.is_new(each.station, each.handle, each.sequence))
        return {*batch.contacts, *(each.station for each in new)}

    def _report(self, peer: Peer) -> Frame:
        status = self._status()
        report = Report(
            frames_received=peer.num_frames,
            frames_rejected=self.num_rejected,
            serving=status.serving,
            accepted=status.accepted,
            root_version=status.root_version,
            epoch=status.epoch,
            commands=status.commands,
            boot_count=status.boot_count,
            free_mib=status.free_mib,
            updates=status.updates,
            is_full=True,
        )
        peer.next_sequence += 1
        return Frame(
            kind=FrameKind.REPORT,
            handle=self._session,
            sequence=(peer.next_sequence - 1) & SEQUENCE_MAX,
            payload=report.encode(),
            station=peer.station,
        )

    def _on_readable(self) -> None:
        assert self._socket is not None
        self.hear(self._socket.read(_DRAIN_FRAMES), self._loop.time())
        self._set_timer()

    def _send(self) -> None:
        assert self._socket is not None
        self._timer = None
        for frame, address in self.reports(self._loop.time()):
            self._socket.send(self._down.encode(frame), address)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._peers.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._send)
