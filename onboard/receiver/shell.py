"""The receiver's shell: a socket, an inbox on the disk, a solver, and the core that says what they are to do.

Reads up to 64 datagrams per wakeup, feeds the core, appends what it accepts to the inbox. Syncs run in a thread of
their own, at most once per `sync_interval_s` while frames arrive and at once when the link falls silent; only then
may a report count the symbols. Blocks are solved one at a time in the solver's process, whole objects offered one at
a time to the sink. Reports and the outbox's frames go to where the newest authentic frame came from.

Trouble of the disk stops storing, not receiving: symbols are counted as refused, the owner is told, and the shell
tries again now and then; what was durable stays. A nearly full disk still takes commands. Hostile bytes are counted
by cause, never raised.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from onboard.errors import BusyError, ConfigError, StoreError, StoreFailedError, StoreFullError
from onboard.receiver.core import BlockReady, CoreOptions, ObjectDropped, ObjectReady, ObjectSolved, ReceiverCore
from onboard.receiver.events import FileVerdict, ObjectSink, ReceiverStatistics, StatusSource, Verdict
from onboard.receiver.rebuild import JobResult, Outcome
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.solver import ProcessSolver, Solver
from onboard.store.disk import Disk, RealDisk
from onboard.store.inbox import OBJECT_NAME, Inbox
from onboard.store.layout import StateLayout
from onboard.store.shape import ObjectShape, SymbolSet, shape_of_file
from protocol.errors import ChecksumError, DecodeError, TruncatedError, UnsupportedVersionError
from protocol.exchange import Outbox
from protocol.frame import FRAME_SIZE_MAX, Frame, FrameCodec, FrameKind
from protocol.limits import MIB
from protocol.report import Reason

logger = logging.getLogger(__name__)

_DRAIN_FRAMES = 64  # per wakeup: the loop's other work waits a few milliseconds at most
_RECEIVE_BUFFER_BYTES = 32 * MIB  # a second of a fast link, should the loop be held up
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; needs CAP_NET_ADMIN, passes over the system's limit
_IDLE_S = 0.05  # silence after which a sync costs no throughput
_SILENCE_S = 3.0  # without a frame: whoever comes next is a new contact, and waits for answers
_SEND_FRAMES = 64  # of the outbox in one go, so that bursts fit the socket's and the modem's queues
_SEND_PAUSE_S = 0.02
_FLOOR_BYTES = 8 * MIB  # free at least, else only small objects are stored: a command may have to make room
_ROOM_BYTES = 2 * _FLOOR_BYTES  # free again before everything is stored, or room for the block that found none
_CHECK_TRIES = 3  # workers that checking an object may cost
_T = TypeVar("_T")
_FILE_VERDICTS = {
    Verdict.CONSUMED: FileVerdict.USED,
    Verdict.KEPT: FileVerdict.KEPT,
    Verdict.REFUSED: FileVerdict.REFUSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverOptions:
    """How the receiver works; see [link] and [limits] of satellite.toml.

    Attributes:
        report_interval_s: between reports while frames arrive.
        report_bytes_per_s: budget of reports.
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
        session: 8 random bytes, new at each start.
        options: see there.
        is_wanted: whether an object is waited for; such a one is not dropped for one that is not.
        on_store_trouble: told when the disk takes nothing any more, and with NONE when it does again.
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
        on_store_trouble: Callable[[Reason], None] = lambda _: None,
        solver: Solver | None = None,
        disk: Disk | None = None,
    ) -> None:
        self._options = options = options or ReceiverOptions()
        self._listen, self._up, self._down = listen, up, down
        self._sink, self._status, self._outbox = sink, status, outbox
        self._on_store_trouble = on_store_trouble
        self._solver: Solver = solver or ProcessSolver()
        self._inbox = Inbox(layout.inbox, disk or RealDisk())
        report = ReportOptions(
            interval_s=options.report_interval_s,
            bytes_per_s=options.report_bytes_per_s,
            is_silent=options.is_silent,
        )
        self._core = ReceiverCore(
            session=session,
            options=CoreOptions(
                inbox_bytes_max=options.inbox_bytes_max, open_objects_max=options.open_objects_max, report=report
            ),
            is_complete=sink.is_complete,
            is_wanted=is_wanted,
        )
        self._socket: socket.socket | None = None
        self._ground: Any = None  # where the newest authentic frame came from
        self._buffer = bytearray(FRAME_SIZE_MAX + 1)  # one more: a longer datagram must not look whole
        self._view = memoryview(self._buffer)
        self._jobs: asyncio.Queue[BlockReady | ObjectSolved] = asyncio.Queue()
        self._offers: asyncio.Queue[ObjectShape] = asyncio.Queue()
        self._drops: asyncio.Queue[Any] = asyncio.Queue()
        self._whole: dict[bytes, JobResult] = {}
        self._judged: dict[bytes, asyncio.Future[FileVerdict]] = {}  # of objects that came as files
        self._settling: list[asyncio.Future[None]] = []  # to be told when anything has happened
        self._outgoing: deque[bytes] = deque()
        self._must_recover = False
        self._room_bytes = _ROOM_BYTES
        self._has_work = asyncio.Event()  # of the sync loop
        self._timer: asyncio.TimerHandle | None = None
        self._last_frame_at = 0.0
        self._num_sent = self._num_solver_deaths = 0
        self.started = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once started."""
        assert self._socket is not None
        name = self._socket.getsockname()
        return name[0], name[1]

    async def run(self, stop: asyncio.Event) -> None:
        """Receive until told to stop.

        Raises:
            ConfigError: the address cannot be listened on.
            BusyError: somebody else does.
            StoreError: the inbox cannot be read.
        """
        self._loop = asyncio.get_running_loop()
        self._socket = _bind(self._listen)
        self._disk_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="receiver-disk")
        try:
            for found in await self._in_disk_thread(self._inbox.load):
                self._core.restore(found.shape, found.symbols, found.solved, is_whole=found.is_whole)
                self._up.remember(found.shape.kind, found.shape.handle, found.shape.num_symbols)
            self._loop.add_reader(self._socket, self._on_readable)
            async with asyncio.TaskGroup() as group:
                loops = (self._run_jobs, self._run_offers, self._run_drops, self._run_syncs)
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
        while (begun := self._core.begin_file(shape_of_file(handle, size))) is FileVerdict.BUSY:
            settled: asyncio.Future[None] = self._loop.create_future()
            self._settling.append(settled)
            await settled
        self._settle()  # first: an object that gave way may be this one, of an earlier life
        if isinstance(begun, FileVerdict):
            return begun
        try:
            await self._in_disk_thread(self._inbox.place, begun, path)
        except (StoreError, FileNotFoundError) as error:
            logger.warning("cannot place path=%s error=%s", path, error)
            self._core.file_failed(begun)
            self._settle()
            return FileVerdict.NOT_STORED
        for block in range(begun.layout.num_blocks):
            self._inbox.close_log(begun, block)
        judged: asyncio.Future[FileVerdict] = self._loop.create_future()
        self._judged[handle] = judged
        self._core.file_placed(begun)
        self._settle()
        return await judged

    def report_now(self) -> tuple[Frame, bytes]:
        """A report to the home ground, and its datagram, to be carried by other means than the link."""
        frame = self._core.report_frame(self._status.report_status())
        return frame, self._down.encode(frame)

    def report_soon(self) -> None:
        """There is news for the ground, in the status or in the outbox."""
        self._core.report_soon()
        self._settle()

    def statistics(self) -> ReceiverStatistics:
        """A snapshot of all counters."""
        return replace(self._core.statistics(), frames_sent=self._num_sent, solver_deaths=self._num_solver_deaths)

    # Frames

    def _on_readable(self) -> None:
        assert self._socket is not None
        now = self._loop.time()
        for _ in range(_DRAIN_FRAMES):
            try:
                size, address = self._socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP answer to something we sent
                logger.debug("receive failed error=%s", error)
                continue
            self._receive(bytes(self._view[:size]), address, now)
        self._settle()

    def _receive(self, data: bytes, address: Any, now: float) -> None:  # noqa: ANN401 - as the socket has it
        try:
            frame = self._up.decode(data)
        except DecodeError as error:
            self._core.reject_frame(_cause(error))
            return
        if now - self._last_frame_at > _SILENCE_S:
            self._outbox.hurry(now)
        self._ground, self._last_frame_at = address, now
        if frame.kind is FrameKind.REPORT:
            for handle in self._core.receive_report(frame, now):
                self._outbox.acknowledge(handle)
            return
        shape = self._core.receive_symbol(frame, now)
        self._dispatch()  # first: an object dropped for this one may be this one, of an earlier life
        if shape is None:
            return
        try:
            self._inbox.append(shape, frame.block, frame.esi, frame.payload)
        except StoreError as error:
            self._note_trouble(error)

    def _send(self) -> None:
        """The timer fired: send what is due."""
        self._timer = None
        now = self._loop.time()
        if self._ground is not None and self._core.is_heard(now):
            frames = self._core.frames_to_send(self._status.report_status(), now)
            if not self._outgoing:
                frames += self._outbox.frames_to_send(now)
            self._outgoing.extend(self._down.encode(frame) for frame in frames)
            for _ in range(min(len(self._outgoing), _SEND_FRAMES)):
                if not self._send_one(self._outgoing.popleft()):
                    break
        else:
            self._outgoing.clear()
        self._settle()

    def _send_one(self, data: bytes) -> bool:
        assert self._socket is not None
        try:
            self._socket.sendto(data, self._ground)
        except BlockingIOError:
            self._outgoing.appendleft(data)
            return False
        except OSError as error:
            logger.debug("send failed error=%s", error)
        self._num_sent += 1
        return True

    def _settle(self) -> None:
        """After anything happened: hand out the core's events, set the timer."""
        if not self.started.is_set():
            return
        self._dispatch()
        while self._settling:
            _tell(self._settling.pop(), None)
        if self._core.is_dirty:
            self._has_work.set()
        due = self._next_deadline()
        if self._timer is not None and (due is None or self._timer.when() > due):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer = self._loop.call_at(due, self._send)

    def _next_deadline(self) -> float | None:
        now = self._loop.time()
        if self._ground is None or not self._core.is_heard(now):
            return None
        if self._outgoing:
            return now + _SEND_PAUSE_S
        dues = (self._core.next_deadline(), self._outbox.next_deadline())
        return min((due for due in dues if due is not None), default=None)

    def _dispatch(self) -> None:
        while (event := self._core.next_event()) is not None:
            match event:
                case BlockReady() | ObjectSolved():
                    self._jobs.put_nowait(event)
                case ObjectReady():
                    self._offers.put_nowait(event.shape)
                case ObjectDropped():
                    self._drop(event.shape)

    def _drop(self, shape: ObjectShape) -> None:
        self._whole.pop(shape.handle, None)
        _tell(self._judged.pop(shape.handle, None), FileVerdict.DAMAGED)
        try:
            aside = self._inbox.drop(shape)
        except StoreError as error:
            self._note_trouble(error)
            return
        if aside is not None:
            self._drops.put_nowait(aside)

    # Blocks and objects

    async def _run_jobs(self) -> None:
        while True:
            event = await self._jobs.get()
            if isinstance(event, BlockReady):
                await self._solve(event)
            else:
                await self._check(event.shape)
            self._settle()

    async def _solve(self, event: BlockReady) -> None:
        shape, block = event.shape, event.block
        try:
            self._inbox.flush(shape, block)
        except StoreError as error:
            self._note_trouble(error)
            self._core.block_postponed(shape, block)
            return
        result = await self._solver.solve(self._inbox.directory(shape), block)
        match result.outcome:
            case Outcome.SOLVED:
                await self._mark_solved(shape, block)
            case Outcome.SHORT:
                if result.num_symbols < event.num_symbols:
                    self._reload(shape, block)
                self._core.block_short(shape, block)
            case Outcome.DIED:
                self._num_solver_deaths += 1
                self._core.block_short(shape, block, has_died=True)
            case Outcome.FULL | Outcome.FAILED:
                self._room_bytes = max(self._room_bytes, _FLOOR_BYTES + shape.layout.size_of(block))
                self._note_trouble(_error_of(result))
                self._core.block_postponed(shape, block)
            case _:
                logger.warning("object thrown away handle=%s cause=%s", shape.handle.hex(), result.text)
                self._core.block_refused(shape, block)

    async def _mark_solved(self, shape: ObjectShape, block: int) -> None:
        self._core.block_rebuilt(shape, block)
        self._inbox.close_log(shape, block)
        try:
            await self._in_disk_thread(self._inbox.mark_solved, shape, block)
        except (StoreError, FileNotFoundError) as error:
            self._note_trouble(error)
            self._reload(shape, block)
            self._core.block_postponed(shape, block)
        else:
            self._core.block_solved(shape, block)

    def _reload(self, shape: ObjectShape, block: int) -> None:
        try:
            symbols = self._inbox.reload_block(shape, block)
        except StoreError as error:
            self._note_trouble(error)
            symbols = SymbolSet()
        self._core.block_reloaded(shape, block, symbols)

    async def _check(self, shape: ObjectShape) -> None:
        for _ in range(_CHECK_TRIES):
            result = await self._solver.check(self._inbox.directory(shape))
            if result.outcome is not Outcome.DIED:
                break
            self._num_solver_deaths += 1
        if result.outcome in {Outcome.FULL, Outcome.FAILED}:
            self._note_trouble(_error_of(result))
            self._core.object_postponed(shape)
        elif result.outcome is not Outcome.WHOLE:
            logger.warning("object thrown away handle=%s cause=%s", shape.handle.hex(), result.text)
            self._core.object_poisoned(shape)
        else:
            await self._seal(shape, result)

    async def _seal(self, shape: ObjectShape, result: JobResult) -> None:
        try:
            await self._in_disk_thread(self._inbox.seal, shape)
        except (StoreError, FileNotFoundError) as error:
            self._note_trouble(error)
            self._core.object_postponed(shape)
            return
        self._whole[shape.handle] = result
        self._core.object_checked(shape, result.size)

    async def _run_offers(self) -> None:
        while True:
            shape = await self._offers.get()
            whole = self._whole[shape.handle]
            assert whole.kind is not None
            path = self._inbox.directory(shape) / OBJECT_NAME
            try:
                verdict = await self._sink.object_ready(shape.handle, whole.kind, path, whole.size, whole.sha256)
            except Exception:
                logger.exception("the sink failed handle=%s", shape.handle.hex())
                verdict = Verdict.KEPT
            self._core.object_judged(shape, verdict, whole.kind)
            _tell(self._judged.pop(shape.handle, None), _FILE_VERDICTS[verdict])
            self._settle()

    async def _run_drops(self) -> None:
        while True:
            aside = await self._drops.get()
            try:
                await self._in_disk_thread(self._inbox.remove, aside)
            except StoreError as error:  # what is left is deleted at the next start
                logger.warning("cannot delete path=%s error=%s", aside, error)

    # The disk

    async def _run_syncs(self) -> None:
        while True:
            if self._core.trouble is not Reason.NONE:
                await asyncio.sleep(self._options.trouble_retry_s)
                await self._try_again()
            else:
                await self._has_work.wait()
                self._has_work.clear()
                await self._wait_until_due()
                await self._sync()
            self._settle()

    async def _wait_until_due(self) -> None:
        """Wait for silence, or until the oldest symbol has waited long enough."""
        latest = self._loop.time() + self._options.sync_interval_s
        while (now := self._loop.time()) < (due := min(latest, self._last_frame_at + _IDLE_S)):
            await asyncio.sleep(due - now)

    async def _sync(self) -> bool:
        """Make durable what is not; whether it is."""
        try:
            batch = self._inbox.begin_sync()
        except StoreError as error:
            self._note_trouble(error)
            return False
        self._core.begin_sync()
        try:
            await self._in_disk_thread(batch.run)
        except StoreError as error:
            self._note_trouble(error)
            self._core.sync_failed()
            return False
        self._inbox.finish_sync(batch)
        self._core.symbols_stored()
        self._watch_floor()
        return True

    def _watch_floor(self) -> None:
        try:
            free_bytes = self._inbox.free_bytes()
        except StoreError as error:
            self._note_trouble(error)
            return
        if free_bytes < _FLOOR_BYTES and self._core.trouble is Reason.NONE:
            self._note_trouble(StoreFullError(f"{free_bytes} bytes free, at least {_FLOOR_BYTES} must stay"))

    async def _try_again(self) -> None:
        """After trouble: throw away what may be half written, see whether the disk works again."""
        try:
            if self._must_recover:
                for shape, block, symbols in self._inbox.recover():
                    self._core.block_reloaded(shape, block, symbols)
                self._must_recover = False
            has_room = self._inbox.free_bytes() >= self._room_bytes
        except StoreError as error:
            self._note_trouble(error)
            return
        if await self._sync() and has_room:
            logger.info("storing again")
            self._room_bytes = _ROOM_BYTES
            self._core.resume_storing()
            self._on_store_trouble(Reason.NONE)

    def _note_trouble(self, error: Exception) -> None:
        reason = Reason.DISK_FULL if isinstance(error, StoreFullError) else Reason.DISK_FAILED
        self._must_recover = self._must_recover or reason is Reason.DISK_FAILED
        if self._core.trouble is not reason:
            logger.error("not storing reason=%s error=%s", reason.name, error)
            self._core.pause_storing(reason)
            self._on_store_trouble(reason)
        self._has_work.set()

    async def _in_disk_thread(self, call: Callable[..., _T], *args: object) -> _T:
        return await self._loop.run_in_executor(self._disk_thread, call, *args)

    async def _close(self) -> None:
        assert self._socket is not None
        self.started.clear()
        self._loop.remove_reader(self._socket)
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()
        for judged in self._judged.values():
            judged.cancel()
        for settled in self._settling:
            settled.cancel()
        await self._solver.close()
        with contextlib.suppress(StoreError):  # what it would have saved comes again
            await self._in_disk_thread(self._inbox.begin_sync().run)
        self._inbox.close()
        self._disk_thread.shutdown()


def _tell(waiting: asyncio.Future[_T] | None, what: _T) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(what)


def _bind(listen: tuple[str, int]) -> socket.socket:
    host, port = listen
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{host}: {error}", key="link.listen", hint="give an address of this machine") from error
    bound.setblocking(False)
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"{host}:{port}/udp is in use", hint="stop the other daemon, or give link.listen another port"
            ) from error
        raise ConfigError(
            f"{host}:{port}: {error.strerror}", key="link.listen", hint="give an address of this machine"
        ) from error
    return bound


def _cause(error: DecodeError) -> str:
    match error:
        case TruncatedError():
            return "truncated"
        case UnsupportedVersionError():
            return "version"
        case ChecksumError():
            return "checksum"
        case _:
            return "malformed"


def _error_of(result: JobResult) -> StoreError:
    return StoreFullError(result.text) if result.outcome is Outcome.FULL else StoreFailedError(result.text)
