"""Ground stations and one satellite in simulated time, without bytes: real uplink cores, the real receiver core.

Stations do not talk to each other: each has a core of its own, a lane of its own, contacts of its own, and hears of the
others through reports alone. Symbols are numbers here: nothing is encoded, encrypted or written, so 50 MB fly in half
a second. What the satellite had not synced is lost when it is killed; what a ground had not saved, when that is.
"""

import heapq
import itertools
import random

from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from groundsegment.uplink.sender.feedback import LOSS_DOWN
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.loss import LossEstimate
from onboard.receiver.core import BlockReady, CoreOptions, ObjectDropped, ObjectReady, ObjectSolved, ReceiverCore
from onboard.receiver.intake import SymbolRun
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.status import ReportStatus, Verdict
from onboard.store.shape import ObjectShape, SymbolSet
from protocol.frame import HANDLE_SIZE, Frame, FrameKind
from protocol.objects import ObjectKind
from protocol.report import Report, UpdateState, UpdateStatus

T = 8  # bytes of a symbol that nobody looks at
PAYLOAD = bytes(T)
FIFTY_MB = (15_000, 15_000, 8_000)  # symbols of three bundles: 49 MB at T = 1280, in blocks of 7500 and 8000


def objects_of(bundle_symbols, *, seed=0, metadata_symbols=3):
    """An update's objects: handles and sizes."""
    rng = random.Random(f"objects {seed}")
    sizes = [(metadata_symbols, None), *((size, number) for number, size in enumerate(bundle_symbols))]
    return [
        OutgoingObject(handle=rng.randbytes(HANDLE_SIZE), num_symbols=size, symbol_size=T, bundle=bundle)
        for size, bundle in sizes
    ]


class Losses:
    """Which frames are lost: independent ones, or in bursts (Gilbert-Elliott; all frames of a burst are)."""

    def __init__(self, rng, mean, burst=1):
        self.random, self.mean = rng.random, mean
        self.ends = 1 / burst
        self.begins = self.ends * mean / (1 - mean) if burst > 1 else None
        self.is_bad = False
        self.num_offered = self.num_lost = 0

    def takes(self):
        self.num_offered += 1
        if self.begins is None:
            lost = self.random() < self.mean
        else:
            if self.random() < (self.ends if self.is_bad else self.begins):
                self.is_bad = not self.is_bad
            lost = self.is_bad
        self.num_lost += lost
        return lost


class Satellite:
    """The receiver's core and what a disk would remember.

    Args:
        updates: lists of objects, most urgent first.
        rng: for the solver, which fails one time in a hundred.
        sync_s: between two syncs.
        sync_takes_s: how long each takes.
        solve_s: how long a block takes.
        report_s: between two reports.
        report_bytes_per_s: that they may take.
        is_silent: it never says anything.
    """

    def __init__(
        self,
        updates,
        rng,
        *,
        sync_s=1.0,
        sync_takes_s=0.05,
        solve_s=0.2,
        report_s=0.25,
        report_bytes_per_s=1e9,
        is_silent=False,
    ):
        self.updates, self.rng = updates, rng
        self.sync_s, self.sync_takes_s, self.solve_s = sync_s, sync_takes_s, solve_s
        self.report = ReportOptions(interval_s=report_s, bytes_per_s=report_bytes_per_s, is_silent=is_silent)
        self.durable = {}  # shape by handle, then ESIs by block
        self.solved = {}
        self.consumed = set()
        self.num_cut = self.boot_count = 0
        self.done_s = None
        self._boot()

    def _boot(self):
        self.boot_count += 1
        self.core = ReceiverCore(
            session=self.boot_count.to_bytes(HANDLE_SIZE, "big"),
            options=CoreOptions(report=self.report),
            is_complete=self.consumed.__contains__,
        )
        for handle, (shape, blocks) in self.durable.items():
            solved = self.solved.get(handle, set())
            symbols = {number: SymbolSet(esis) for number, esis in blocks.items() if number not in solved}
            self.core.restore(shape, symbols, solved, is_whole=False)
        self.fresh, self.syncing = [], []
        self.sync_begins_s = self.sync_ends_s = None
        self.jobs = []

    def kill(self):
        """A power cut and a restart."""
        self.num_cut += sum(len(esis) for _, _, esis in self.fresh + self.syncing)
        self._boot()

    def receive(self, station, frames, now):
        """Take what came together from a station: (item, block, esi), or None for a word of the ground."""
        symbols = [frame for frame in frames if frame is not None]
        for _ in range(len(frames) - len(symbols)):
            self.poke(station, now)
        if not symbols:
            return
        item, block, esi = symbols[-1]
        self.core.station_heard(station, len(symbols), (item.handle, block, esi), now)
        groups = {}
        for item, block, esi in symbols:
            groups.setdefault((item.handle, block), (item, []))[1].append(esi)
        for (handle, block), (item, esis) in groups.items():
            run = SymbolRun(
                station=station, handle=handle, kind=FrameKind.RAPTORQ, num_symbols=item.num_symbols,
                symbol_size=T, block=block, esis=esis, symbols=[PAYLOAD] * len(esis),
            )  # fmt: skip
            accepted = self.core.receive_symbols(run)
            if accepted is not None:
                self.fresh.append((item, block, accepted.esis))

    def poke(self, station, now):
        """A report of the ground came: a word now and then, so that the satellite knows that somebody is there."""
        payload = Report().encode()
        frame = Frame(kind=FrameKind.REPORT, handle=bytes(HANDLE_SIZE), sequence=0, station=station, payload=payload)
        self.core.receive_report(frame, now)

    def advance(self, now):
        """Sync, solve, and report if it is time; returns the frames."""
        self._sync(now)
        self._work(now)
        return self.core.frames_to_send(self._status(), now)

    def _sync(self, now):
        if self.sync_ends_s is not None and now >= self.sync_ends_s:
            self.sync_ends_s = None
            for item, block, esis in self.syncing:
                if item.handle not in self.consumed:
                    self._blocks(item).setdefault(block, set()).update(esis)
            self.core.symbols_stored()
            self.syncing = []
        if self.sync_ends_s is None and self.sync_begins_s is None and self.core.is_dirty:
            self.sync_begins_s = now + self.sync_s
        if self.sync_begins_s is not None and now >= self.sync_begins_s:
            self.core.begin_sync()
            self.sync_begins_s, self.sync_ends_s = None, now + self.sync_takes_s
            self.syncing, self.fresh = self.fresh, []

    def _blocks(self, item):
        if item.handle not in self.durable:
            shape = ObjectShape(handle=item.handle, kind=FrameKind.RAPTORQ, num_symbols=item.num_symbols, symbol_size=T)
            self.durable[item.handle] = shape, {}
        return self.durable[item.handle][1]

    def _work(self, now):
        while (event := self.core.next_event()) is not None:
            heapq.heappush(self.jobs, (now + self.solve_s, len(self.jobs) + self.rng.random(), event))
        while self.jobs and self.jobs[0][0] <= now:
            self._do(heapq.heappop(self.jobs)[2], now)

    def _do(self, event, now):
        core = self.core
        match event:
            case BlockReady(shape=shape, block=block, num_symbols=num):
                short = num - shape.layout.symbols_of(block)
                if self.rng.random() < 0.01 ** (short + 1):
                    core.block_short(shape, block)
                    return
                core.block_rebuilt(shape, block)
                core.block_solved(shape, block)
                self.durable.setdefault(shape.handle, (shape, {}))
                self.solved.setdefault(shape.handle, set()).add(block)
            case ObjectSolved(shape=shape):
                core.object_checked(shape, shape.num_symbols * T)
            case ObjectReady(shape=shape):
                self.consumed.add(shape.handle)
                self.durable.pop(shape.handle, None)
                core.object_judged(shape, Verdict.CONSUMED, ObjectKind.BUNDLE)
                if all(item.handle in self.consumed for update in self.updates for item in update):
                    self.done_s = now
            case ObjectDropped(shape=shape):
                self.durable.pop(shape.handle, None)
                self.solved.pop(shape.handle, None)

    def _status(self):
        known = [update for update in self.updates if update[0].handle in self.consumed]
        return ReportStatus(updates=tuple(map(self._status_of, known)))

    def _status_of(self, update):
        there = [item.bundle for item in update[1:] if item.handle in self.consumed]
        groups = itertools.groupby(enumerate(there), key=lambda pair: pair[1] - pair[0])
        ranges = [[number for _, number in group] for _, group in groups]
        state = UpdateState.VERIFIED if len(there) == len(update) - 1 else UpdateState.RECEIVING
        return UpdateStatus(
            handle=update[0].handle, state=state, bundle_ranges=tuple((some[0], some[-1]) for some in ranges)
        )


class Station:
    """One ground station.

    Args:
        updates: lists of objects.
        number: its lane.
        lanes: of all stations.
        losses: of the way up.
        loss_down: share of reports lost.
        rng: for that.
        delay_s: one way.
        rate_fps: frames a second.
        contacts: (start, end) in seconds.
        options: of the core.
        priorities: of the updates.
    """

    def __init__(
        self,
        updates,
        losses,
        rng,
        *,
        number=0,
        lanes=1,
        loss_down=0.0,
        delay_s=0.02,
        rate_fps=1000,
        contacts=((0.0, 1e9),),
        options=None,
        terms=None,
        hello_s=1.0,
        keep_used=False,
    ):
        self.updates, self.losses, self.rng = updates, losses, rng
        self.number, self.lanes, self.loss_down, self.delay_s = number, lanes, loss_down, delay_s
        self.rate_fps, self.contacts, self.options, self.hello_s = rate_fps, contacts, options, hello_s
        self.terms = terms or [{}] * len(updates)  # priority and weight of each
        self.by_handle = {item.handle: item for update in updates for item in update}
        self.bundles = {item.handle for update in updates for item in update if item.bundle is not None}
        self.saved = []
        self.num_symbols = self.num_repeated = 0
        self.num_sent = dict.fromkeys(self.by_handle, 0)
        self.used = set()
        self.keep_used = keep_used
        self.events = []
        self.clock_s = 0.0
        self.loss, self.loss_down_kept = LossEstimate(), LOSS_DOWN
        self.start()

    def start(self):
        """A process begins, with what the last one wrote down."""
        self.core = Uplink(self.options or UplinkOptions(loss=self.loss, loss_down=self.loss_down_kept))
        lane = Lane(index=self.number, count=self.lanes)
        for update, terms in zip(self.updates, self.terms, strict=True):
            handles = {item.handle for item in update}
            kept = [entry for entry in self.saved if entry.handle in handles]
            self.core.add_update(update, kept, lane=lane, **terms)
        self.is_up, self.tokens, self.hello_due_s = False, 0.0, 0.0
        self.newest = None

    def kill(self, clock_s=0.0):
        """The process dies; another goes on from what was written down, by another clock."""
        self.clock_s = clock_s
        self.start()

    def turn(self, now, step_s):
        """Begin, send, end; yields (item, block, esi) or None for a word of the ground, of frames that are not lost."""
        is_up = any(start <= now and now + step_s + self.delay_s < end for start, end in self.contacts)
        if is_up and not self.is_up:
            end_s = next(end for start, end in self.contacts if start <= now < end) - self.delay_s
            self.core.begin_contact(now + self.clock_s, end_s + self.clock_s)
            self.newest = None
        elif self.is_up and not is_up:
            self.core.end_contact()
            self.saved = self.core.progress(exact=True)
            self.loss, self.loss_down_kept = self.core.loss.as_prior(), self.core.loss_down.as_prior()
        self.is_up = is_up
        if not is_up:
            return
        if now >= self.hello_due_s:
            self.hello_due_s = now + self.hello_s
            self.core.other_frames_sent(1, now + self.clock_s)
            if not self.losses.takes():
                yield None
        self.tokens = min(self.tokens + step_s * self.rate_fps, max(1.0, self.rate_fps * 0.2))
        runs = self.core.frames_to_send(now + self.clock_s, int(self.tokens))
        if self.core.has_unsaved_progress:
            self.saved = self.core.progress()
        takes = self.losses.takes
        for run in runs:
            self.tokens -= run.count
            self.num_sent[run.handle] += run.count
            self.num_symbols += run.count if run.handle in self.bundles else 0
            item = self.by_handle[run.handle]
            for esi in range(run.first_esi, run.first_esi + run.count):
                if self.keep_used:
                    key = run.handle, run.block, esi
                    self.num_repeated += key in self.used
                    self.used.add(key)
                if not takes():
                    yield item, run.block, esi

    def hear(self, session, sequence, report, now):
        self.core.receive_report(report, session=session, sequence=sequence, now=now + self.clock_s)
        while (event := self.core.next_event()) is not None:
            self.events.append(event)


class Sky:
    """Stations, a satellite, and the time between them."""

    def __init__(self, satellite, stations):
        self.satellite, self.stations, self.now = satellite, stations, 0.0
        self._up, self._down, self._number = [], [], itertools.count()

    def run(self, until_s, step_s=0.02, *, until=None):
        """Fly until all stations that listen know that all is there, or as told, or until a time; whether it was so."""
        until = until or self.is_known_done
        while self.now < until_s:
            self.step(step_s)
            if until():
                return True
        return False

    def skip(self, until_s):
        """Nothing happens until then; whoever has a contact sends nothing."""
        assert not any(station.is_up for station in self.stations)
        self.now = max(self.now, until_s)

    def is_known_done(self):
        listening = [station for station in self.stations if station.is_up]
        knows = [all(map(station.core.is_complete, station.core.updates)) for station in listening]
        return bool(knows) and all(knows)

    def is_done(self):
        return self.satellite.done_s is not None

    def step(self, step_s):
        self.now += step_s
        now = self.now
        for station in self.stations:
            frames = list(station.turn(now, step_s))
            if frames:
                heapq.heappush(self._up, (now + station.delay_s, next(self._number), station.number, frames))
        while self._up and self._up[0][0] <= now:
            _, _, number, frames = heapq.heappop(self._up)
            self.satellite.receive(number, frames, now)
        self._report(self.satellite.advance(now), now)

    def _report(self, frames, now):
        session = self.satellite.boot_count
        by_number = {station.number: station for station in self.stations}
        for frame in frames:
            station = by_number[frame.station]
            if station.rng.random() >= station.loss_down:
                due = now + station.delay_s
                heapq.heappush(self._down, (due, next(self._number), station, session, frame))
        while self._down and self._down[0][0] <= now:
            _, _, station, session, frame = heapq.heappop(self._down)
            is_stale = station.newest is not None and (session, frame.sequence) <= station.newest
            if station.is_up and not is_stale:
                station.newest = session, frame.sequence
                report = Report.decode(frame.payload)
                station.hear(session.to_bytes(HANDLE_SIZE, "big"), frame.sequence, report, now)

    @property
    def num_source(self):
        """Source symbols of all bundles."""
        return sum(item.num_symbols for update in self.satellite.updates for item in update[1:])

    @property
    def num_symbols(self):
        """Symbols of bundles that were sent."""
        return sum(station.num_symbols for station in self.stations)

    @property
    def ratio(self):
        """Symbols sent over the limit, with the losses that really happened: what arrived over what was needed."""
        arrived = 0.0
        for station in self.stations:
            losses = station.losses
            share = losses.num_lost / max(1, losses.num_offered)
            arrived += station.num_symbols * (1 - share)
        return arrived / self.num_source

    @property
    def nominal_ratio(self):
        """The same with the losses that were to be expected."""
        arrived = sum(station.num_symbols * (1 - station.losses.mean) for station in self.stations)
        return arrived / self.num_source


def one_station(mean, *, burst=1, seed=1, bundles=FIFTY_MB, satellite=None, **station):
    """A sky with one station."""
    rng = random.Random(f"sky {seed} {mean} {burst}")
    update = objects_of(bundles, seed=seed)
    losses = Losses(rng, mean, burst)
    return Sky(
        Satellite([update], rng, **(satellite or {})),
        [Station([update], losses, rng, **station)],
    )


def several_stations(specs, *, seed=1, bundles=FIFTY_MB, satellite=None):
    """A sky with as many stations as there are specifications: those of `Station`, and `mean`, `burst` of its loss."""
    rng = random.Random(f"sky {seed}")
    update = objects_of(bundles, seed=seed)
    stations = []
    for number, spec in enumerate(specs):
        rest = {"number": number, "lanes": len(specs), **spec}
        losses = Losses(rng, rest.pop("mean"), rest.pop("burst", 1))
        stations.append(Station([update], losses, rng, **rest))
    return Sky(Satellite([update], rng, **(satellite or {})), stations)
