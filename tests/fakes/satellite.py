"""A model receiver made of protocol pieces: it answers reports as `protocol.report` says. In process, no files.

It keeps counts, not symbols (with `keep_symbols` it keeps and solves them too). What is not synced is lost when it is
killed. Time is an argument. It speaks frames: bytes in, bytes out, through the real codec.
"""

from dataclasses import dataclass, field, replace

from protocol.blocks import BlockLayout, block_layout
from protocol.errors import ProtocolError
from protocol.exchange import Outbox
from protocol.fec import solve
from protocol.frame import HANDLE_SIZE, Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.message import Message, MessageKind
from protocol.objects import ObjectKind, strip_padding
from protocol.report import NO_HANDLE, SOLVED, OpenBlock, Reason, Report, UpdateState, UpdateStatus
from tests.fakes.contacts import decode_following


@dataclass
class _Block:
    num_source: int
    durable: dict[int, bytes] = field(default_factory=dict)
    fresh: dict[int, bytes] = field(default_factory=dict)
    is_solved: bool = False

    def has(self, esi: int) -> bool:
        return esi in self.durable or esi in self.fresh


@dataclass
class _Object:
    layout: BlockLayout
    kind: FrameKind
    blocks: dict[int, _Block] = field(default_factory=dict)

    @property
    def is_solved(self) -> bool:
        return all(number in self.blocks and self.blocks[number].is_solved for number in range(self.layout.num_blocks))


class FakeSatellite:
    """One satellite.

    Args:
        link_key: of the link.
        metadata: handle of the metadata object of the update it waits for.
        bundles: handles of its bundles, in order.
        sync_interval_s: how often symbols become durable.
        report_interval_s: how often it reports.
        is_silent: it never sends anything.
        install_s: from the last bundle to CONFIRMED.
        verdict: how the update ends.
        keep_symbols: keep, and solve at the end of each block.
        identity: (public key, sign) for messages, if any.
    """

    def __init__(
        self,
        link_key,
        metadata=NO_HANDLE,
        bundles=(),
        *,
        name="SAT-1",
        sync_interval_s=0.2,
        report_interval_s=0.1,
        is_silent=False,
        install_s=0.5,
        verdict=UpdateState.CONFIRMED,
        keep_symbols=False,
        identity=None,
        station=0,
    ):
        self.station = station  # whom it answers
        self.up = FrameCodec(Direction.UP, link_key)
        self.down = FrameCodec(Direction.DOWN, link_key)
        self.name, self.metadata, self.bundles = name, metadata, list(bundles)
        self.sync_interval_s, self.report_interval_s, self.is_silent = sync_interval_s, report_interval_s, is_silent
        self.install_s, self.verdict, self.keep_symbols, self.identity = install_s, verdict, keep_symbols, identity
        self.objects: dict[bytes, _Object] = {}
        self.complete: dict[bytes, None] = {}
        self.solved: dict[tuple[bytes, int], bytes] = {}
        self.all_there_since = None
        self.sequence_of_message = 0
        self.boot_count = 0
        self.num_symbols_surplus = 0
        self.num_symbols_cut = 0
        self.ground_sessions: set[bytes] = set()
        self.sent_receipt = False
        self._boot()

    def _boot(self):
        self.boot_count += 1
        self.session = self.boot_count.to_bytes(HANDLE_SIZE, "big")
        self.sequence = self.received = self.rejected = 0
        self.echo = self.durable_echo = (NO_HANDLE, 0, 0)
        self.next_sync = self.next_report = None
        self.outbox = Outbox(retry_s=1.0)

    def kill(self):
        """A power cut and a restart: what was not synced is lost."""
        for entry in self.objects.values():
            for block in entry.blocks.values():
                self.num_symbols_cut += len(block.fresh)
                block.fresh.clear()
        self._boot()

    def forget(self, handle):
        """Lose an object for good, as after REFUSED."""
        self.objects.pop(handle, None)
        self.complete.pop(handle, None)

    def receive(self, data, now):
        """One datagram from the link."""
        try:
            frame = decode_following(self.up, data, self.down)
        except ProtocolError:
            self.rejected += 1
            return
        self.received += 1
        if self.next_report is None:
            self.next_report = now
        if frame.kind is FrameKind.REPORT:
            self.ground_sessions.add(frame.handle)
            for handle in Report.decode(frame.payload).complete:
                self.outbox.acknowledge(handle)
            return
        self.echo = (frame.handle, frame.block, frame.esi)
        if self.next_sync is None:
            self.next_sync = now + self.sync_interval_s
        self._store(frame)

    def _store(self, frame):
        if frame.handle in self.complete:
            self.num_symbols_surplus += 1
            return
        entry = self.objects.get(frame.handle)
        if entry is None:
            layout = block_layout(frame.num_symbols, len(frame.payload))
            entry = self.objects[frame.handle] = _Object(layout, frame.kind)
        block = entry.blocks.setdefault(frame.block, _Block(entry.layout.symbols_of(frame.block)))
        if block.is_solved or block.has(frame.esi):
            self.num_symbols_surplus += 1
            return
        block.fresh[frame.esi] = frame.payload if self.keep_symbols else b""

    def advance(self, now):
        """Sync and report if it is time; returns datagrams for the ground."""
        if self.next_sync is not None and now >= self.next_sync:
            self._sync(now)
        if self.all_there_since is None and all(handle in self.complete for handle in (self.metadata, *self.bundles)):
            self.all_there_since = now
        if self.next_report is None or now < self.next_report:
            return []
        self.next_report = now + self.report_interval_s
        return [] if self.is_silent else [self._report(now), *map(self._encode, self._messages(now))]

    def _sync(self, now):
        self.next_sync = None
        self.durable_echo = self.echo
        for handle, entry in list(self.objects.items()):
            for number, block in entry.blocks.items():
                block.durable.update(block.fresh)
                block.fresh.clear()
                if not block.is_solved and len(block.durable) >= block.num_source:
                    self._solve(handle, entry, number, block)
            if entry.is_solved:
                del self.objects[handle]
                self.complete[handle] = None

    def take_commands(self):
        """Whole command objects that came since the last call (they need `keep_symbols`)."""
        commands = []
        for handle in list(self.complete):
            padded = self.solved.get((handle, 0))
            if padded is not None and padded.startswith(ObjectKind.COMMAND.value):
                del self.solved[handle, 0]
                commands.append((handle, strip_padding(padded, handle)[1]))
        return commands

    def _solve(self, handle, entry, number, block):
        if self.keep_symbols:
            data = solve(entry.kind, block.num_source, entry.layout.symbol_size, block.durable)
            if data is None:
                return
            self.solved[handle, number] = data
        block.is_solved = True
        block.durable.clear()

    def state(self, now):
        """Where the update stands."""
        if self.metadata not in self.complete:
            return UpdateState.NONE
        if self.all_there_since is None:
            return UpdateState.RECEIVING
        return self.verdict if now - self.all_there_since >= self.install_s else UpdateState.TRIAL

    def object_bytes(self, handle, size):
        """The bytes of a solved object."""
        numbers = sorted(number for key, number in self.solved if key == handle)
        return b"".join(self.solved[handle, number] for number in numbers)[:size]

    def report(self, now):
        """What it would report."""
        state = self.state(now)
        echo = self.echo if self.next_sync is None else self.durable_echo
        done = [number for number, handle in enumerate(self.bundles) if handle in self.complete]
        open_blocks = [
            OpenBlock(handle=handle, block=number, have=SOLVED if block.is_solved else len(block.durable))
            for handle, entry in self.objects.items()
            for number, block in entry.blocks.items()
            if block.is_solved or block.durable
        ]
        return Report(
            echo_handle=echo[0],
            echo_block=echo[1],
            echo_esi=echo[2],
            frames_received=self.received,
            frames_rejected=self.rejected,
            updates=self._updates(state, _ranges(done)),
            boot_count=self.boot_count,
            complete=tuple(reversed(self.complete))[:16],
            open_blocks=tuple(open_blocks),
        )

    def _updates(self, state, ranges):
        if state is UpdateState.NONE:
            return ()
        reasons = {UpdateState.REJECTED: Reason.CANARY_FAILED, UpdateState.VERIFIED: Reason.HELD}
        reason = reasons.get(state, Reason.NONE)
        return (UpdateStatus(handle=self.metadata, state=state, reason=reason, bundle_ranges=ranges),)

    def _report(self, now):
        self.sequence += 1
        payload = self.report(now).encode()
        return self._encode(
            Frame(
                kind=FrameKind.REPORT,
                handle=self.session,
                sequence=self.sequence,
                payload=payload,
            )
        )

    def _encode(self, frame):
        return self.down.encode(replace(frame, station=self.station))

    def _messages(self, now):
        state = self.state(now)
        if self.identity and not self.sent_receipt and state in (UpdateState.CONFIRMED, UpdateState.REJECTED):
            self.sent_receipt = True
            body = {
                "state": state.name,
                "reason": "NONE",
                "release": bytes(32),
                "sequence": 1,
                "canary": {},
                "text": "",
            }
            self.say(MessageKind.RECEIPT, self.metadata, body, now)
        return self.outbox.frames_to_send(now)

    def say(self, kind, re, body, now):
        """Queue a message for the ground."""
        public, sign = self.identity
        self.sequence_of_message += 1
        message = Message(satellite=self.name, counter=self.sequence_of_message, kind=kind, re=re, body=body)
        return self.outbox.put(message.seal(public_key=public, sign=sign), now)


def _ranges(numbers):
    ranges = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return tuple(ranges)
