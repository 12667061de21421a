"""A model satellite with several pending updates, that several stations fly at once: each hears of its own frames.

`BusyOnUdp` puts it on a socket and answers each station where that was heard last.
"""

from dataclasses import dataclass, replace

from protocol.errors import ProtocolError
from protocol.frame import Frame, FrameKind
from protocol.message import MessageKind
from protocol.report import NO_HANDLE, Reason, Report, UpdateState, UpdateStatus
from tests.fakes.contacts import decode_following
from tests.fakes.satellite import FakeSatellite, _ranges
from tests.fakes.satellite_process import SatelliteOnUdp


@dataclass
class _Ear:
    """One station, as heard on board."""

    received: int = 0
    sequence: int = 0
    echo: tuple = (NO_HANDLE, 0, 0)
    durable_echo: tuple = (NO_HANDLE, 0, 0)


@dataclass
class _Pending:
    """One update."""

    sequence: int
    bundles: list
    beside: bool
    all_there_since: float | None = None
    state: UpdateState = UpdateState.NONE
    said: bool = False


class BusySatellite(FakeSatellite):
    """One satellite; `expect` tells it of updates before their metadata comes.

    Attributes:
        confirmed: handles of updates in the order in which they were confirmed.
        accepted: the highest sequence accepted.
        num_repeated: symbols that came twice from one station.
    """

    def __init__(self, link_key, **options):
        self.pending, self.confirmed, self.accepted = {}, [], 0
        self.seen, self.num_repeated = set(), 0
        super().__init__(link_key, **options)

    def _boot(self):
        super()._boot()
        self.ears = {}

    def expect(self, *staged):
        """Know the bundles of updates, as their manifests would say."""
        for entry in staged:
            update = entry.update
            self.pending[update.handle] = _Pending(update.sequence, entry.bundle_handles, update.beside)
        return self

    def cancel(self, handle):
        """Drop an update, as told by command."""
        self.pending[handle].state = UpdateState.CANCELLED

    def receive(self, data, now):
        try:
            frame = decode_following(self.up, data, self.down)
        except ProtocolError:
            self.rejected += 1
            return
        self.received += 1
        ear = self.ears.setdefault(frame.station, _Ear())
        ear.received += 1
        self.next_report = now if self.next_report is None else self.next_report
        if frame.kind is FrameKind.REPORT:
            for handle in Report.decode(frame.payload).complete:
                self.outbox.acknowledge(handle)
            return
        ear.echo = (frame.handle, frame.block, frame.esi)
        symbol = (frame.station, *ear.echo)
        self.num_repeated += symbol in self.seen
        self.seen.add(symbol)
        self.next_sync = now + self.sync_interval_s if self.next_sync is None else self.next_sync
        self._store(frame)

    def _sync(self, now):
        super()._sync(now)
        for ear in self.ears.values():
            ear.durable_echo = ear.echo

    def advance(self, now):
        if self.next_sync is not None and now >= self.next_sync:
            self._sync(now)
        self._install(now)
        if self.next_report is None or now < self.next_report:
            return []
        self.next_report = now + self.report_interval_s
        if self.is_silent:
            return []
        messages = self.outbox.frames_to_send(now)
        datagrams = []
        for station in self.ears:
            datagrams.append(self._report_to(station, now))
            datagrams += [self.down.encode(replace(frame, station=station)) for frame in messages]
        return datagrams

    def _install(self, now):
        for handle, update in self.pending.items():
            if handle not in self.complete:
                continue
            if update.state is UpdateState.NONE:
                self._accept(update)
            if update.state is UpdateState.RECEIVING and all(bundle in self.complete for bundle in update.bundles):
                update.all_there_since, update.state = now, UpdateState.TRIAL
            elif update.state is UpdateState.TRIAL and now - update.all_there_since >= self.install_s:
                update.state = self.verdict
                self.confirmed.append(handle)
                self._say_receipt(handle, now)

    def _accept(self, update):
        update.state = UpdateState.RECEIVING
        self.accepted = max(self.accepted, update.sequence)
        for other in self.pending.values():
            if not update.beside and other.sequence < update.sequence and other.state is UpdateState.RECEIVING:
                other.state = UpdateState.CANCELLED

    def _say_receipt(self, handle, now):
        if self.identity:
            body = {"state": self.verdict.name, "reason": "NONE", "release": bytes(32), "sequence": 1, "text": ""}
            self.say(MessageKind.RECEIPT, handle, {**body, "canary": {}}, now)

    def _report_to(self, station, now):
        ear = self.ears[station]
        ear.sequence += 1
        echo = ear.echo if self.next_sync is None else ear.durable_echo
        report = replace(
            self.report(now),
            echo_handle=echo[0],
            echo_block=echo[1],
            echo_esi=echo[2],
            frames_received=ear.received,
            accepted=self.accepted,
            updates=tuple(self._status(handle, update) for handle, update in self._known())[:4],
        )
        frame = Frame(
            kind=FrameKind.REPORT, handle=self.session, sequence=ear.sequence, station=station, payload=report.encode()
        )
        return self.down.encode(frame)

    def _known(self):
        known = [(handle, update) for handle, update in self.pending.items() if update.state is not UpdateState.NONE]
        return sorted(known, key=lambda item: (item[1].state in _DECIDED, -item[1].sequence))

    def _status(self, handle, update):
        done = [number for number, bundle in enumerate(update.bundles) if bundle in self.complete]
        reason = Reason.COMMANDED if update.state is UpdateState.CANCELLED else Reason.NONE
        return UpdateStatus(handle=handle, state=update.state, reason=reason, bundle_ranges=_ranges(done))


_DECIDED = {UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED}


class BusyOnUdp(SatelliteOnUdp):
    """The same on a UDP socket; each station is answered where it was heard last."""

    def __init__(self, satellite, **options):
        super().__init__(satellite, **options)
        self.peers = {}

    def _turn(self, now):
        for _ in range(256):
            try:
                data, peer = self.socket.recvfrom(65535)
            except OSError:
                break
            self.peers[data[0] & 0x0F] = peer
            self.num_up += 1
            self.bytes_up += len(data)
            if self.rng.random() >= self.loss:
                self.satellite.receive(data, now)
        for data in self.satellite.advance(now):
            peer = self.peers.get(data[0] & 0x0F)
            if peer is not None:
                self.socket.sendto(data, peer)
        if self.on_command is not None:
            for handle, data in self.satellite.take_commands():
                self.on_command(self.satellite, handle, data, now)
