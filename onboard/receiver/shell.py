"""The receiver's shell: a socket, an inbox on the disk, a solver, and the core that says what they are to do.

Reads what has come, hundreds of datagrams per wakeup, has it sorted into authentic symbols (`intake`), feeds the core,
and appends what it accepts to the inbox. The disk is the keeper's business, blocks and objects are the workshop's.
Every station that is heard gets reports of its own, where its newest symbols came from; messages go to the one heard
last, with what the reports leave of the budget.

Hostile bytes are counted by cause, never raised. A nearly full disk still takes commands. With nobody on the link there
is no timer, and nothing wakes up.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onboard.errors import StoreError
from onboard.receiver.core import ReceiverCore
from onboard.receiver.events import FileVerdict, ObjectSink, ReceiverStatistics, StatusSource
from onboard.receiver.hellos import Hellos
from onboard.receiver.intake import Batch, Intake
from onboard.receiver.keeper import Keeper
from onboard.receiver.link_socket import LinkSocket
from onboard.receiver.many_datagrams import Datagram
from onboard.receiver.orders import BlockReady, CoreOptions, ObjectDropped, ObjectReady, ObjectSolved
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.solver import ProcessSolver, Solver
from onboard.receiver.station_contacts import StationContacts
from onboard.receiver.workshop import Workshop
from onboard.store.disk import Disk, RealDisk
from onboard.store.inbox import Inbox
from onboard.store.layout import StateLayout
from onboard.store.shape import ObjectShape
from protocol.exchange import Outbox
from protocol.frame import Frame, FrameCodec
from protocol.limits import MIB
from protocol.report import Reason

logger = logging.getLogger(__name__)

_DRAIN_FRAMES = 256  # per wakeup: the loop waits a few milliseconds at most, and what each wakeup costs is spread
_SILENCE_S = 3.0  # of a station: when it is heard again that is a new contact, and it waits for answers
_SEND_FRAMES = 64  # of the outbox in one go, so that bursts fit the socket's and the modem's queues
_SEND_AHEAD_S = 0.02  # of the budget, so that a fast link needs no timer for each frame


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverOptions:
    """How the receiver works; see [link] and [limits] of satellite.toml.

    Attributes:
        report_interval_s: between reports to a station while its frames arrive.
        report_bytes_per_s: budget of all that goes down.
        sync_interval_s: how much may be lost by a power cut while frames arrive, in seconds.
        is_silent: never transmit.
        inbox_bytes_max: of the disk, for objects being received or kept.
        open_objects_max: how many of them.
        trouble_retry_s: how long to wait before trying a disk again that took nothing.
    """

    report_interval_s: float = 0.1
    report_bytes_per_s: float = 20_000.0
    sync_interval_s: float = 1.0
    is_silent: bool = False
    inbox_bytes_max: int = 512 * MIB
    open_objects_max: int = 64
    trouble_retry_s: float = 1.0


class Receiver:
    """Receives frames, stores symbols, offers objects, reports.

    Args:
        listen: address and UDP port; port 0 takes any.
        layout: where the inbox lies; its directory must be there.
        up: codec of frames that come.
        down: codec of frames that go.
        sink: takes whole objects.
        status: knows what else a report says.
        outbox: its frames are sent, and what the ground reports complete is taken off. Call `report_soon` after
            putting something in.
        session: 6 random bytes, new at each start.
        options: see there.
        is_wanted: whether an object is waited for; such a one is not dropped for one that is not.
        update_of: see `core.ReceiverCore`.
        on_store_trouble: told when the disk takes nothing any more, and with NONE when it does again.
        on_poisoned: told the handle of an object that was thrown away because its bytes were not what it says.
        solver: another one than a process.
        disk: another one than the real one.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        layout: StateLayout,
        up: FrameCodec,
        down: FrameCodec,
        sink: ObjectSink,
        status: StatusSource,
        outbox: Outbox,
        session: bytes,
        options: ReceiverOptions | None = None,
        *,
        is_wanted: Callable[[bytes], bool] = lambda _: False,
        update_of: Callable[[bytes], bytes | None] | None = None,
        on_store_trouble: Callable[[Reason], None] = lambda _: None,
        on_poisoned: Callable[[bytes], None] = lambda _: None,
        solver: Solver | None = None,
        disk: Disk | None = None,
    ) -> None:
        options = options or ReceiverOptions()
        self._listen, self._down, self._status, self._outbox = listen, down, status, outbox
        self._to_files = down.outside_contacts()
        self._inbox = Inbox(layout.inbox, disk or RealDisk())
        self._intake = Intake(up)
        self._core = ReceiverCore(
            session=session,
            options=_core_options(options),
            is_complete=sink.is_complete,
            is_wanted=is_wanted,
            update_of=update_of,
        )
        self._keeper = Keeper(
            self._core,
            self._inbox,
            sync_interval_s=options.sync_interval_s,
            trouble_retry_s=options.trouble_retry_s,
            on_trouble=on_store_trouble,
            settle=self._settle,
        )
        self._contacts = StationContacts(layout, up, down, self._intake, self._keeper, disk or RealDisk())
        self._workshop = Workshop(
            self._core,
            self._inbox,
            self._keeper,
            solver or ProcessSolver(),
            sink,
            on_poisoned=on_poisoned,
            settle=self._settle,
        )
        self._socket: LinkSocket | None = None
        self._addresses: dict[int, Any] = {}  # where each station is
        self._addressed_at: dict[int, float] = {}  # when a frame came from there
        self._heard_at: dict[int, float] = {}
        self._hellos = Hellos()
        self._outgoing: deque[Frame] = deque()  # of messages
        self._timer: asyncio.TimerHandle | None = None
        self._num_sent = 0
        self._is_message_next = False
        self.started = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        assert self._socket is not None
        return self._socket.address

    def set_station_generation(self, station: int, generation: int) -> None:
        """Take and send frames of a station under the key of a generation alone: all before it are void."""
        self._contacts.set_generation(station, generation)
        self._addresses.pop(station, None)

    async def run(self, stop: asyncio.Event) -> None:
        """Receive until told to stop.

        Raises:
            ConfigError: the address cannot be listened on.
            BusyError: somebody else does.
            StoreError: the inbox cannot be read.
        """
        self._loop = asyncio.get_running_loop()
        self._socket = LinkSocket(self._listen)
        try:
            self._contacts.load()
            for found in await self._keeper.in_thread(self._inbox.load):
                self._intake.remember(found.shape.kind, found.shape.handle, found.shape.num_symbols)
                self._core.restore(found.shape, found.symbols, found.solved, is_whole=found.is_whole)
            self._loop.add_reader(self._socket.fileno(), self._on_readable)
            async with asyncio.TaskGroup() as group:
                loops = (
                    self._workshop.run_jobs,
                    self._workshop.run_offers,
                    self._keeper.run_drops,
                    self._keeper.run_syncs,
                    self._contacts.run,
                )
                tasks = [group.create_task(run()) for run in loops]
                self.started.set()
                self._settle()
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._close()

    def offer_again(self) -> None:
        """Offer what was KEPT once more: something has changed."""
        self._core.offer_again()
        self._settle()

    async def take_file(self, path: Path, handle: bytes, size: int) -> FileVerdict:
        """Take a file that holds a whole object: from here on as if its last frame had come.

        Args:
            path: durable, on the inbox's file system, `size` bytes whose digest starts with the handle. The inbox gives
                it a second name; the first one is the caller's, and safe to delete after any verdict but NO_ROOM and
                NOT_STORED.
            handle: of the object.
            size: of the object, bytes.
        """
        return await self._workshop.take_file(path, handle, size)

    def report_now(self) -> tuple[Frame, bytes]:
        """A report to the home ground, and its datagram, to be carried by other means than the link."""
        frame = self._core.report_frame(self._status.report_status())
        return frame, self._to_files.encode(frame)

    def report_soon(self) -> None:
        """There is news for the ground, in the status or in the outbox."""
        self._core.report_soon()
        self._settle()

    def statistics(self) -> ReceiverStatistics:
        """A snapshot of all counters."""
        return replace(
            self._core.statistics(), frames_sent=self._num_sent, solver_deaths=self._workshop.num_solver_deaths
        )

    # Frames

    def _on_readable(self) -> None:
        assert self._socket is not None
        now = self._loop.time()
        for datagrams in _by_sender(self._socket.read(_DRAIN_FRAMES)):
            self._take(self._intake.sort(datagrams, now), now)
        self._settle()

    def _take(self, batch: Batch, now: float) -> None:
        for cause, num in batch.rejected.items():
            self._core.reject_frame(cause, num)
        if batch.contacts:
            self._contacts.heard(batch.contacts)
        for station, (echo, address, num) in batch.heard.items():
            self._hear(station, address, now)
            self._core.station_heard(station, num, echo, now)
        for station in batch.contacts:
            self._move(station, batch.heard[station][1], now)
        for frame in batch.reports:
            if self._hellos.is_new(frame.station, frame.handle, frame.sequence):
                self._move(frame.station, batch.heard[frame.station][1], now)
            for handle in self._core.read_report(frame):
                self._outbox.acknowledge(handle)
        for run in batch.runs:
            accepted = self._core.receive_symbols(run)
            self._dispatch()  # first: an object dropped for this one may be this one, of an earlier life
            if accepted is not None:
                self._move(run.station, run.address, now)
                self._store(accepted.shape, run.block, accepted.esis, accepted.symbols)

    def _hear(self, station: int, address: Any, now: float) -> None:  # noqa: ANN401 - as the socket has it
        if now - self._heard_at.get(station, float("-inf")) > _SILENCE_S:
            self._outbox.hurry(now)
        self._heard_at[station] = self._keeper.last_frame_at = now
        # Whoever repeats a station's frames must not draw its reports to himself: new symbols, reports and contacts
        # move an address at once, anything else only when nothing comes from the old one any more.
        old = self._addresses.get(station)
        if old is None or address == old or now - self._addressed_at[station] > _SILENCE_S:
            self._move(station, address, now)

    def _move(self, station: int, address: Any, now: float) -> None:  # noqa: ANN401 - as the socket has it
        self._addresses[station], self._addressed_at[station] = address, now

    def _store(self, shape: ObjectShape, block: int, esis: list[int], symbols: list[bytes]) -> None:
        try:
            self._inbox.append_all(shape, block, esis, symbols)
        except StoreError as error:
            self._keeper.note_trouble(error)

    def _send(self) -> None:
        """The timer fired: send what is due."""
        self._timer = None
        now = self._loop.time()
        if self._core.is_heard(now):
            if self._is_message_next:
                self._send_messages(now, 1)
            reports = self._core.frames_to_send(self._status.report_status(), now)
            for frame in reports:
                self._send_frame(frame)
            self._is_message_next = bool(reports)  # on a thin way down reports alone would use it up
            self._send_messages(now, _SEND_FRAMES)
        else:
            self._outgoing.clear()
        self._settle()

    def _send_messages(self, now: float, num_max: int) -> None:
        if not self._outgoing:
            self._outgoing.extend(self._outbox.frames_to_send(now))
        for _ in range(num_max):
            due, station = self._core.message_due(now), self._core.message_station(now)
            if not self._outgoing or due is None or station is None or due > now + _SEND_AHEAD_S:
                return
            if not self._send_frame(replace(self._outgoing[0], station=station)):
                return
            self._core.message_sent(len(self._outgoing.popleft().payload) + self._down.overhead, now)

    def _send_frame(self, frame: Frame) -> bool:
        assert self._socket is not None
        is_sent = self._socket.send(self._down.encode(frame), self._addresses[frame.station])
        self._num_sent += is_sent
        return is_sent

    def _settle(self) -> None:
        """After anything happened: hand out the core's events, set the timer."""
        if not self.started.is_set():
            return
        self._dispatch()
        self._workshop.note_settled()
        self._keeper.wake()
        due = self._next_deadline()
        if self._timer is not None and (due is None or self._timer.when() > due):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer = self._loop.call_at(due, self._send)

    def _next_deadline(self) -> float | None:
        now = self._loop.time()
        if not self._core.is_heard(now):
            return None
        dues = [self._core.next_deadline()]
        if self._outgoing:
            dues.append(max(self._core.message_due(now) or now, now + _SEND_AHEAD_S))
        else:
            dues.append(self._outbox.next_deadline())
        return min((due for due in dues if due is not None), default=None)

    def _dispatch(self) -> None:
        while (event := self._core.next_event()) is not None:
            match event:
                case BlockReady() | ObjectSolved():
                    self._workshop.put_job(event)
                case ObjectReady():
                    self._workshop.put_offer(event.shape)
                case ObjectDropped():
                    self._workshop.forget(event.shape)
                    self._keeper.drop(event.shape)

    async def _close(self) -> None:
        assert self._socket is not None
        self.started.clear()
        self._loop.remove_reader(self._socket.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()
        await self._workshop.close()
        await self._contacts.close()
        await self._keeper.close()


def _by_sender(datagrams: list[Datagram]) -> list[list[Datagram]]:
    """Cut where the sender changes, so that nobody's new frames pass for those of whoever repeats them next to them."""
    if all(address is datagrams[0][1] for _, address in datagrams):  # as the socket gives them, if there is but one
        return [datagrams] if datagrams else []
    return [list(stretch) for _, stretch in itertools.groupby(datagrams, key=lambda datagram: datagram[1])]


def _core_options(options: ReceiverOptions) -> CoreOptions:
    report = ReportOptions(
        interval_s=options.report_interval_s,
        bytes_per_s=options.report_bytes_per_s,
        is_silent=options.is_silent,
    )
    return CoreOptions(
        inbox_bytes_max=options.inbox_bytes_max, open_objects_max=options.open_objects_max, report=report
    )
