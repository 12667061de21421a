"""A whole flight in one process and in simulated time: uplink core, emulated channel, model satellite.

The ground can be killed: the next core gets what the last `progress` said, as the shell would have saved it.
"""

import random

from groundsegment.emulator.channel import Channel
from groundsegment.emulator.conditions import Direction, DirectionProfile, LinkProfile
from groundsegment.uplink.rate.pace import Pacer
from groundsegment.uplink.rate.rate_search import RateSearch
from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from protocol.blocks import symbols_needed
from protocol.frame import HANDLE_SIZE, Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction as LinkDirection
from protocol.report import Report
from tests.fakes.satellite import FakeSatellite

LINK_KEY = bytes(range(32))


def object_of(size_bytes, symbol_size, bundle, seed=0):
    """An object that has a handle and a size, but no bytes."""
    handle = random.Random(f"{seed}/{bundle}/{size_bytes}").randbytes(HANDLE_SIZE)
    return OutgoingObject(
        handle=handle, num_symbols=symbols_needed(size_bytes, symbol_size), symbol_size=symbol_size, bundle=bundle
    )


class Flight:
    """One update over one link.

    Args:
        bundle_symbols: source symbols of each bundle.
        profile: of the link.
        seed: of everything random.
        rate_fps: frames a second the ground sends; None: it has to find out.
        make_symbol: (handle, block, esi) -> bytes; zeros without it.
        search: of the rate, where it has to be found.
    """

    def __init__(
        self,
        bundle_symbols,
        profile,
        *,
        seed=1,
        symbol_size=8,
        rate_fps=1000,
        options=None,
        make_symbol=None,
        search=None,
        **satellite,
    ):
        self.objects = [object_of(2 * symbol_size, symbol_size, None, seed)]
        self.objects += [object_of(n * symbol_size, symbol_size, i, seed) for i, n in enumerate(bundle_symbols)]
        self.by_handle = {item.handle: item for item in self.objects}
        self.profile, self.rate_fps, self.symbol_size = profile, rate_fps, symbol_size
        self.channel = Channel(profile, random.Random(seed))
        self.satellite = FakeSatellite(
            LINK_KEY, self.objects[0].handle, [item.handle for item in self.objects[1:]], **satellite
        )
        self.options = options or UplinkOptions()
        self.make_symbol = make_symbol or (lambda handle, block, esi: bytes(symbol_size))
        self.up, self.down = FrameCodec(LinkDirection.UP, LINK_KEY), FrameCodec(LinkDirection.DOWN, LINK_KEY)
        self.saved = []
        self.now = 0.0
        self.symbols_sent = self.bytes_sent = 0
        self.search = RateSearch() if search is None else search
        self.esis_sent = {}
        self.num_repeated = 0
        self.events = []
        self.hello_due = 0.0
        self._start_ground(was_up=False)

    def _start_ground(self, *, was_up):
        self.core = Uplink(self.options)
        self.core.add_update(self.objects, self.saved)
        self.is_up = False
        self.heard_sequence = {}
        self.tokens = 0.0

    def kill_ground(self):
        """The uplink process dies; another one goes on from what was saved."""
        self._start_ground(was_up=self.is_up)

    def run(self, until_s, *, step_s=0.02):
        """Fly until decided or until a time; returns whether it was decided."""
        while self.now < until_s and not self.core.is_decided:
            self.step(step_s)
        return self.core.is_decided

    def step(self, step_s):
        self.now += step_s
        is_up, until_s = self.profile.contact_at(self.now)
        # As the shell does: what would arrive after the end of the contact is not sent.
        is_up = is_up and self.now + step_s < until_s - self.profile.up.delay_s - self.profile.up.jitter_s
        if is_up and not self.is_up:
            self.core.begin_contact(self.now, until_s - self.profile.up.delay_s - self.profile.up.jitter_s)
            self.search.begin_contact()
            self.pacer = Pacer(None, self.search, self.now)
            self.hello_due = self.now
        elif not is_up and self.is_up:
            self.core.end_contact()
            self.saved = self.core.progress()
        self.is_up = is_up
        if is_up:
            self._send(step_s)
        self._move()

    def _send(self, step_s):
        if self.now >= self.hello_due:
            self.hello_due = self.now + 0.5
            self.core.other_frames_sent(1, self.now)
            sequence = int(self.now * 1000) & 0xFFFFFFFF
            payload = Report().encode()
            self._send_frame(Frame(kind=FrameKind.REPORT, handle=b"ground", sequence=sequence, payload=payload))
        runs = self.core.frames_to_send(self.now, self._budget(step_s))
        if self.core.has_unsaved_progress:
            self.saved = self.core.progress()
        for run in runs:
            self.tokens -= run.count
            self.pacer.spend(run.count * self.frame_size)
            self._send_run(run)

    def _budget(self, step_s):
        if self.rate_fps is None:
            return max(0, self.pacer.budget(self.frame_size, self.core.statistics(self.now), self.now))
        self.tokens = min(self.tokens + step_s * self.rate_fps, self.rate_fps)
        return int(self.tokens)

    @property
    def frame_size(self):
        """Bytes of a frame on the link."""
        return self.symbol_size + self.up.overhead

    def _send_run(self, run):
        item = self.by_handle[run.handle]
        for esi in range(run.first_esi, run.first_esi + run.count):
            sent = self.esis_sent.setdefault((run.handle, run.block), set())
            self.num_repeated += esi in sent
            sent.add(esi)
            if item.bundle is not None:
                self.symbols_sent += 1
            payload = self.make_symbol(run.handle, run.block, esi)
            self._send_frame(Frame(
                kind=FrameKind.RAPTORQ, handle=run.handle, num_symbols=item.num_symbols,
                block=run.block, esi=esi, payload=payload,
            ))  # fmt: skip

    def _send_frame(self, frame):
        data = self.up.encode(frame)
        self.bytes_sent += len(data)
        self.search.sent(1, len(data), self.now)
        self.channel.send(Direction.UP, data, self.now)

    def _move(self):
        for direction, data in self.channel.deliver(self.now):
            if direction is Direction.UP:
                self.satellite.receive(data, self.now)
            else:
                self._hear(data)
        for data in self.satellite.advance(self.now):
            self.channel.send(Direction.DOWN, data, self.now)
        while (event := self.core.next_event()) is not None:
            self.events.append(event)

    def _hear(self, data):
        frame = self.down.decode(data)
        if frame.kind is not FrameKind.REPORT or frame.sequence <= self.heard_sequence.get(frame.handle, 0):
            return
        self.heard_sequence = {frame.handle: frame.sequence}
        report = Report.decode(frame.payload)
        self.search.heard(report.frames_received, session=frame.handle, now=self.now)
        self.core.receive_report(report, session=frame.handle, sequence=frame.sequence, now=self.now)

    @property
    def num_source(self):
        """Source symbols of all bundles."""
        return sum(item.num_symbols for item in self.objects[1:])

    @property
    def symbol_ratio(self):
        """Symbols sent over the limit K / (1 - p), with the loss that really happened."""
        up = self.channel.statistics().up
        loss = (up.lost_random + up.lost_burst) / max(1, up.offered - up.lost_gap)
        return self.symbols_sent * (1 - loss) / self.num_source


def lossy(loss, *, contacts=(), delay_s=0.02, down_loss=None, one_way=False):
    """A link with independent loss."""
    return LinkProfile(
        up=DirectionProfile(loss=loss, delay_s=delay_s),
        down=None if one_way else DirectionProfile(loss=loss if down_loss is None else down_loss, delay_s=delay_s),
        contacts=contacts,
    )
