"""The logbook of a mission: what each contact was, and all of them together, from counters on both sides. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from groundsegment.simulation.payload import SimulatedUpdate
from groundsegment.simulation.records import ContactRow, LinkTotals, UpdateResult
from groundsegment.simulation.satellite import SatelliteView
from groundsegment.simulation.station import GroundStation
from groundsegment.uplink.sender.loss import LossEstimate


@dataclass(slots=True)
class _Mark:
    """Counters when a contact began."""

    start_s: float
    frames: int
    size_bytes: int
    symbols: int
    lost: int
    offered: int
    useful: int
    received: int


class Logbook:
    """See the module.

    Attributes:
        rows: contacts that are over.
        num_kills: of either side.
    """

    def __init__(self, stations: Sequence[GroundStation], needed: int) -> None:
        """`needed`: source symbols of all objects."""
        self._stations, self._needed = stations, needed
        self._marks: dict[int, _Mark] = {}
        self.rows: list[ContactRow] = []
        self.num_kills = 0

    def begin_contact(self, station: GroundStation, view: SatelliteView, start_s: float) -> None:
        """A contact begins."""
        up = station.channel.statistics().up
        self._marks[station.number] = _Mark(
            start_s=start_s,
            frames=station.sent.frames,
            size_bytes=station.sent.size_bytes,
            symbols=station.sent.symbols,
            lost=up.lost + up.corrupted,
            offered=up.offered,
            useful=view.symbols_useful.get(station.number, 0),
            received=view.symbols_received.get(station.number, 0),
        )

    def end_contact(self, station: GroundStation, view: SatelliteView, loss: LossEstimate, now: float) -> ContactRow:
        """It is over; `loss` is what the station believed at its end."""
        mark, up = self._marks.pop(station.number), station.channel.statistics().up
        symbols = station.sent.symbols - mark.symbols
        useful = view.symbols_useful.get(station.number, 0) - mark.useful
        received = view.symbols_received.get(station.number, 0) - mark.received
        offered, lost = up.offered - mark.offered, up.lost + up.corrupted - mark.lost
        row = ContactRow(
            number=len(self.rows) + 1,
            station=station.name,
            start_s=mark.start_s,
            duration_s=now - mark.start_s,
            frames_sent=station.sent.frames - mark.frames,
            frames_lost=lost,
            bytes_sent=station.sent.size_bytes - mark.size_bytes,
            symbols_sent=symbols,
            symbols_useful=useful,
            symbols_surplus=received - useful,
            symbols_lost=max(0, symbols - received),
            share_done=view.symbols_held / self._needed,
            loss_true=lost / offered if offered else None,
            loss_estimated=loss.mean,
            loss_deviation=loss.deviation,
            was_heard=station.was_heard,
        )
        self.rows.append(row)
        return row

    def totals(self, view: SatelliteView) -> LinkTotals:
        """All stations together, so far."""
        symbols = size = 0.0
        for station in self._stations:
            up = station.channel.statistics().up
            sent_well = up.offered - up.lost_gap
            taken = up.lost_random + up.lost_burst + up.corrupted
            share = 1 - taken / sent_well if sent_well else 1.0
            symbols += station.sent.symbols * share
            size += station.sent.size_bytes * share
        return LinkTotals(
            frames_sent=sum(station.sent.frames for station in self._stations),
            bytes_sent=sum(station.sent.size_bytes for station in self._stations),
            symbols_sent=sum(station.sent.symbols for station in self._stations),
            symbols_arrived=symbols,
            bytes_arrived=size,
            symbols_needed=self._needed,
            symbols_cut=view.symbols_cut,
            symbols_repeated=sum(station.sent.repeated for station in self._stations),
            num_kills=self.num_kills,
        )


def judge(update: SimulatedUpdate, view: SatelliteView, known: set[bytes]) -> UpdateResult:
    """What became of an update, by the bytes that were delivered and by what the ground knows."""
    arrived = [view.arrived_s.get(item.handle) for item in update.objects]
    wrong = sum(
        handle in view.arrivals and view.arrivals[handle] != digest for handle, digest in update.digests.items()
    )
    return UpdateResult(
        name=update.name,
        payload_bytes=update.payload_bytes,
        staged_s=update.staged_s,
        on_board_s=None if None in arrived else max(time_s or 0.0 for time_s in arrived),
        is_confirmed=update.handle in view.confirmed,
        is_known=update.handle in known,
        wrong_bytes=wrong,
    )
