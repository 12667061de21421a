"""A ground station of a simulation: the real uplink core, codec, downlink and pacer in front of an emulated channel.

What a real station keeps in the depot it keeps here, and no more: a kill throws everything else away. It sends as the
uplink's shell does, inside contacts only, paced, with a word of its own now and then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from groundsegment.downlink import Downlink, ReportReceived
from groundsegment.emulator.channel import Channel
from groundsegment.emulator.conditions import Direction
from groundsegment.simulation.payload import PayloadStore, SimulatedUpdate
from groundsegment.uplink.rate.pace import Pacer
from groundsegment.uplink.rate.rate_search import RateSearch
from groundsegment.uplink.sender.cargo import Progress
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from groundsegment.uplink.sender.events import ReceiverRestarted
from groundsegment.uplink.sender.headers import Headers
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.learning import DECIDED
from groundsegment.uplink.sender.loss import LossEstimate
from groundsegment.uplink.sender.patience import Patience
from groundsegment.uplink.sender.schedule import SymbolRun
from protocol.fec import best_kind
from protocol.frame import Frame
from protocol.link_keys import derive_contact_key, derive_station_key

FRAMES_PER_TURN = 256
PACE_SHARE = 0.99
HELLO_PERIOD_S, HELLO_PERIOD_S_UNHEARD = 1.0, 0.25
_IDENTITY = bytes(32)  # simulated satellites send no messages


@dataclass(slots=True)
class Sent:
    """Counters of what one station has sent since the start."""

    frames: int = 0
    size_bytes: int = 0
    symbols: int = 0
    repeated: int = 0


class GroundStation:
    """One station and its link.

    Attributes:
        number: of the station, and its lane.
        name: for people.
        channel: its link.
        sent: counters.
        is_up: whether a contact is on.
        was_heard: whether a report came in this contact.
    """

    def __init__(
        self,
        number: int,
        name: str,
        channel: Channel,
        *,
        lanes: int,
        link_key: bytes,
        store: PayloadStore,
        is_one_way: bool,
        loss: LossEstimate,
    ) -> None:
        self.number, self.name, self.channel = number, name, channel
        self._lanes, self._link_key, self._store = lanes, link_key, store
        self._silence_s = 0.0 if is_one_way else 2.0
        self.sent = Sent()
        self.is_up = self.was_heard = False
        self._updates: dict[bytes, SimulatedUpdate] = {}
        self._saved: list[Progress] = []
        self._decided: set[bytes] = set()
        self._loss, self._loss_down = loss, LossEstimate()
        self._sessions: dict[bytes, int] = {}
        self._used: dict[tuple[bytes, int], int] = {}
        self._generation = 0
        self._boot()

    def _boot(self) -> None:
        self._generation += 1
        session = self._generation.to_bytes(4, "big") + self.number.to_bytes(2, "big")
        self._downlink = Downlink(
            contact_key=derive_contact_key(derive_station_key(self._link_key, self.number), 0),
            station=self.number,
            satellite="SIM",
            identity_public=_IDENTITY,
            session=session,
            known_sessions=self._sessions,
        )
        self._core = Uplink(
            UplinkOptions(
                kind=best_kind(),
                silence_s=self._silence_s,
                loss=self._loss.as_prior(),
                loss_down=self._loss_down.as_prior(),
            )
        )
        for update in self._updates.values():
            if update.handle not in self._decided:
                self._add(update, 0.0)
        self._search = RateSearch(self._loss.mean)
        self._headers, self._patience = Headers(), Patience()

    # Inputs

    def stage(self, update: SimulatedUpdate, now: float) -> None:
        """An update is there to be sent."""
        self._updates[update.handle] = update
        self._add(update, now)

    def begin_contact(self, now: float, end_s: float, rate_bps: float) -> None:
        """The link is there, for sending until a time."""
        self.is_up, self.was_heard = True, False
        self._end_s, self._rate_bps = end_s, rate_bps
        self._pacer = Pacer(rate_bps / 8 * PACE_SHARE, self._search, now)
        self._hello_due_s, self._is_holding = now, False
        self._headers.start_over()
        self._patience.begin_contact()
        self._downlink.begin_contact()
        self._core.begin_contact(now, end_s)
        self._statistics = self._core.statistics(now)  # a pacer whose rate is known asks nothing of it

    def end_contact(self) -> None:
        """The link is gone."""
        self.is_up = False
        self._core.end_contact()
        self._save(exact=True)

    def kill(self, now: float) -> None:
        """The process dies; another one goes on from what was saved."""
        self._boot()
        if self.is_up:
            self.begin_contact(now, self._end_s, self._rate_bps)

    def hear(self, data: bytes, now: float) -> None:
        """A datagram came down."""
        self._downlink.receive(data)
        while (event := self._downlink.next_event()) is not None:
            if not isinstance(event, ReportReceived):
                continue
            self._sessions.pop(event.session, None)
            self._sessions[event.session] = event.sequence
            self.was_heard = True
            self._patience.heard(now)
            self._headers.heard(now)
            self._core.receive_report(event.report, session=event.session, sequence=event.sequence, now=now)
            while (happened := self._core.next_event()) is not None:
                if isinstance(happened, ReceiverRestarted):
                    self._headers.start_over()

    def turn(self, now: float) -> None:
        """Send what may leave now."""
        self._drop_decided()
        if now >= self._hello_due_s:
            self._hello_due_s = now + (
                HELLO_PERIOD_S if self.was_heard and not self._is_holding else HELLO_PERIOD_S_UNHEARD
            )
            self._send(self._downlink.hello(now), now)
            self._core.other_frames_sent(1, now)
        if not self._core.updates or self._holds_back(now):
            return
        frame_size = self._symbol_size + self._downlink.overhead
        budget = min(FRAMES_PER_TURN, self._pacer.budget(frame_size, self._statistics, now))
        if budget <= 0:
            return
        runs = self._core.frames_to_send(now, budget)
        if self._core.has_unsaved_progress:
            self._save()
        for run in runs:
            self._send_run(run, now)

    # Queries

    @property
    def decided(self) -> set[bytes]:
        """Updates that this station knows to be decided."""
        return self._decided

    @property
    def loss(self) -> LossEstimate:
        """What is believed of the link."""
        return self._core.loss

    # Private

    def _add(self, update: SimulatedUpdate, now: float) -> None:
        self._core.add_update(
            update.objects,
            [entry for entry in self._saved if entry.handle in update.digests],
            priority=update.priority,
            weight=update.weight,
            lane=Lane(index=self.number, count=self._lanes),
            now=now,
        )
        self._symbol_size = update.objects[0].symbol_size

    def _holds_back(self, now: float) -> bool:
        held, self._is_holding = self._is_holding, self._patience.holds(now)
        if self._is_holding and not held:
            self._hello_due_s = now
        return self._is_holding

    def _drop_decided(self) -> None:
        for handle in self._core.updates:
            if self._core.state(handle) in DECIDED:
                self._decided.add(handle)
                self._core.remove_update(handle)

    def _save(self, *, exact: bool = False) -> None:
        self._saved = self._core.progress(exact=exact)
        self._loss, self._loss_down = self._core.loss, self._core.loss_down

    def _send_run(self, run: SymbolRun, now: float) -> None:
        item = self._store.item(run.handle)
        self.sent.symbols += run.count
        if item.bundle is not None:
            self._note_used(run, item.layout.symbols_of(run.block))  # metadata is so small that it goes round
        first = Frame(
            kind=best_kind(),
            handle=run.handle,
            num_symbols=item.num_symbols,
            block=run.block,
            esi=run.first_esi,
            payload=b"",
        )
        is_short = self._headers.take(run.handle, run.count, now)
        for data in self._downlink.encode_run(first, self._store.symbols(run), is_short):
            self._send(data, now)
            self._pacer.spend(len(data))

    def _note_used(self, run: SymbolRun, num_source: int) -> None:
        """ESIs of a station only rise: one that is lower than an earlier one was used before.

        Unless all of the lane was: whom nobody answers for contacts on end starts over, the receiver lacking it or not.
        """
        lane = Lane(index=self.number, count=self._lanes)
        key = run.handle, run.block
        used = self._used.get(key, 0)
        if lane.at_or_after(used) >= lane.end_esi(num_source):
            used = self._used[key] = 0
        if run.first_esi < used:
            self.sent.repeated += min(used, run.first_esi + run.count) - run.first_esi
        self._used[key] = max(used, run.first_esi + run.count)

    def _send(self, data: bytes, now: float) -> None:
        self.sent.frames += 1
        self.sent.size_bytes += len(data)
        self.channel.send(Direction.UP, data, now)


def all_decided(stations: Sequence[GroundStation], updates: Sequence[SimulatedUpdate]) -> bool:
    """Whether, between them, the stations know that every update is decided."""
    known = set().union(*(station.decided for station in stations))
    return all(update.handle in known for update in updates)
