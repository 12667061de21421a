"""The daemon: builds receiver, installer, serving and commands, wires them to each other, and keeps them going.

The composition root: the only module that knows all parts, and nothing else. Order of a start: lock, record, boot
count, root, keys; then the installer cleans up what a crash left; then the serving process starts and loads what the
record names, while frames are received already. SIGTERM and SIGINT stop it cleanly; `kill -9` costs nothing that was
acknowledged.

A trust record that cannot be written ends the daemon: nothing may be acted on that is not durable. Whoever started it
starts it again. No torch, and no HTTP, in this process.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onboard import telemetry as events
from onboard.commands import ArmingOptions, Commander
from onboard.config import Config, read_key, read_link_key
from onboard.control_answers import ControlAnswers, Parts
from onboard.control_socket import ControlSocket
from onboard.errors import OnboardError, StoreFailedError, UnknownError
from onboard.file_import import FileImport, find_bundle_fault
from onboard.installer.freshness import Nonces
from onboard.installer.release import ReleaseDirectory
from onboard.installer.serving import ServingProblem
from onboard.installer.shell import Installer
from onboard.installer.surroundings import Surroundings
from onboard.installer.trial import Candidate
from onboard.messages import MessageBox
from onboard.receipts import ReceiptWriter
from onboard.receiver.shell import Receiver, ReceiverOptions
from onboard.receiver_ports import Sink, Status
from onboard.scrub.answering import LinkWatch, read_scrub, scrub_text
from onboard.scrub.shell import Scrubber, ScrubSurroundings
from onboard.serving_options import serving_options
from onboard.serving_process import ServingSupervision
from onboard.spool import Spool
from onboard.state import locked_state, open_record, open_root
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from onboard.store.record import MessageCounters, keep_whole
from onboard.store.slots import Damage
from onboard.telemetry import Event, Telemetry
from onboard.withdrawal import StationKeys
from protocol.command import Operation
from protocol.frame import HANDLE_SIZE, FrameCodec
from protocol.link_keys import Direction
from protocol.message import MessageKind
from protocol.recipient_keys import PRIVATE_SIZES
from protocol.report import NO_HANDLE, Reason

logger = logging.getLogger(__name__)


def run_daemon(config: Config, *, crash_point: Callable[[str], None] = lambda name: None) -> None:
    """Run until a signal says stop.

    Args:
        config: of the satellite.
        crash_point: see `installer.shell.Surroundings`; for tests.

    Raises:
        OnboardError: it cannot start, or cannot go on.
    """
    with locked_state(config) as layout:
        try:
            asyncio.run(_run(config, layout, crash_point))
        except BaseExceptionGroup as group:
            raise _first_cause(group) from group


async def _run(config: Config, layout: StateLayout, crash_point: Callable[[str], None]) -> None:
    daemon = Daemon(config, layout, crash_point)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop.set)
    await daemon.run()


class Daemon:
    """All parts of one life."""

    def __init__(self, config: Config, layout: StateLayout, crash_point: Callable[[str], None]) -> None:
        self._config, self._layout = config, layout
        self._started_at = time.monotonic()
        self.stop = asyncio.Event()
        self.telemetry = Telemetry(time.monotonic)
        keys = {
            "release": read_key(config.trust.release_key_file, what="trust.release_key_file", sizes=PRIVATE_SIZES),
            "identity": read_key(config.trust.identity_key_file, what="trust.identity_key_file"),
        }
        self._store = open_record(layout)
        self._record_failure: asyncio.Future[StoreFailedError] = asyncio.get_running_loop().create_future()
        self._store.on_failed = self._note_record_failure
        root = open_root(layout, config, self._store)
        if root.is_lost:
            self.telemetry.emit(events.ROOT_LOST, version=self._store.record.root_version)
        if root.num_mended:
            self.telemetry.emit(events.ROOT_MENDED, copies=root.num_mended)
        nonces = Nonces(self._store)
        nonces.begin()
        begun, mended = self._store.record, self._store.record.num_mended + self._store.damage.num_bad
        self._store.store(dataclasses.replace(begun, boot_count=begun.boot_count + 1, num_mended=mended))
        self.messages = self._make_messages(Ed25519PrivateKey.from_private_bytes(keys["identity"]))
        self.serving = self._make_serving()
        self.installer = Installer(
            Surroundings(
                layout=layout,
                store=self._store,
                root=root.data,
                is_root_lost=root.is_lost,
                nonces=nonces,
                must_be_fresh=config.trust.must_be_fresh,
                satellite=config.satellite.name,
                release_private_key=keys["release"],
                options=config.install,
                serving=self.serving,
                messages=self.messages,
                telemetry=self.telemetry,
                utc=(lambda: datetime.now(UTC)) if config.trust.is_clock_trusted else (lambda: None),
                offer_again=self._offer_again,
                crash_point=crash_point,
            )
        )
        self.commander = Commander(
            satellite=config.satellite.name,
            root=lambda: self.installer.root,
            store=self._store,
            installer=self.installer,
            ask=self.serving.ask,
            messages=self.messages,
            telemetry=self.telemetry,
            now=time.monotonic,
            arming=ArmingOptions(
                expires_s=config.commands.arm_expires_s, may_be_blind=config.commands.is_blind_allowed
            ),
            others={Operation.SCRUB: self._obey_scrub, Operation.WITHDRAW: self._obey_withdraw},
        )
        self.receiver = self._make_receiver(read_link_key(config.link))
        self._station_keys = StationKeys(self._store, self.receiver.set_station_generation, self.telemetry)
        self._station_keys.start()
        self.imports = FileImport(
            Spool(layout.imports, RealDisk(), bytes_max=config.limits.inbox_bytes_max),
            take=self.receiver.take_file,
            is_complete=self.installer.is_complete,
            find_fault=self._fault_of,
        )
        self._reloading: asyncio.Task[None] | None = None
        self._link_watch = LinkWatch(lambda: self.receiver.statistics().frames_received, time.monotonic)
        self.scrubber = Scrubber(
            ScrubSurroundings(
                layout=layout,
                releases=lambda: [known.digest for known in self._store.record.releases],
                files_of=lambda directory, digest: ReleaseDirectory.open(directory, digest).files,
                hold=self.installer.hold,
                is_busy=self._link_watch.is_busy,
                messages=self.messages,
                telemetry=self.telemetry,
                on_mended=self._hear_of_mended,
                period_s=config.scrub.period_s,
                boot=self._store.record.boot_count,
                disk=RealDisk(),
            )
        )
        self._wire()

    async def run(self) -> None:
        """Run until told to stop.

        Raises:
            OnboardError, or a group with one: it cannot go on.
        """
        record = self._store.record
        for warning in self._config.warnings:
            self.telemetry.emit(events.CONFIG_WARNING, warning=warning)
        self.telemetry.emit(events.DAEMON_STARTED, boot=record.boot_count, satellite=self._config.satellite.name)
        self.messages.load()
        self._tell_record_damage(self._store.damage)
        self._store.on_damage = self._tell_record_damage
        if not await self._is_started():
            return
        control = ControlSocket(self._layout.run, ControlAnswers(self._parts()).operations())
        async with asyncio.TaskGroup() as group:
            works = (
                self.serving.run(),
                self.installer.run(),
                self.scrubber.run(),
                control.run(),
                self._import_when_started(),
                self._until_record_fails(),
                keep_whole(self._store),
            )
            tasks = [group.create_task(work) for work in works]
            # Ends by itself at the stop event, after a last sync.
            await self.receiver.run(self.stop)
            self.telemetry.emit(events.DAEMON_STOPPED)
            await self.commander.close()
            for task in tasks:
                task.cancel()

    async def _is_started(self) -> bool:
        """Let the installer finish what the last life left, unless told to stop meanwhile."""
        starting = asyncio.create_task(self.installer.start())
        stopping = asyncio.create_task(self.stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self.stop.is_set():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return not self.stop.is_set()

    async def _import_when_started(self) -> None:
        await self.receiver.started.wait()
        await self.imports.run()

    async def _until_record_fails(self) -> None:
        """Whoever met it may have swallowed it; nobody may go on."""
        raise await self._record_failure

    # -- building ------------------------------------------------------------------------------------------

    def _make_messages(self, identity: Ed25519PrivateKey) -> MessageBox:
        return MessageBox(
            self._layout.state_dir / "messages",
            satellite=self._config.satellite.name,
            public_key=identity.public_key().public_bytes_raw(),
            sign=identity.sign,
            take_counter=MessageCounters(self._store).take,
            telemetry=self.telemetry,
            now=asyncio.get_running_loop().time,
            stamp=self._stamp,
        )

    def _stamp(self) -> dict[str, Any]:
        """What receipts say of now."""
        record, is_trusted = self._store.record, self._config.trust.is_clock_trusted
        return {
            "serving": record.current,
            "boot": record.boot_count,
            "uptime_s": int(time.monotonic() - self._started_at),
            "utc": int(datetime.now(UTC).timestamp()) if is_trusted else None,
        }

    def _make_serving(self) -> ServingSupervision:
        options = serving_options(self._config, self._layout, run_directory=self._layout.run)
        return ServingSupervision(options, self.telemetry, wanted=self._wanted_release)

    def _make_receiver(self, link_key: bytes | None) -> Receiver:
        link, limits = self._config.link, self._config.limits
        return Receiver(
            link.listen,
            self._layout,
            FrameCodec(Direction.UP, link_key),
            FrameCodec(Direction.DOWN, link_key),
            Sink(self.installer, self.commander),
            Status(self.installer, boot_count=self._store.record.boot_count),
            self.messages,
            secrets.token_bytes(HANDLE_SIZE),
            ReceiverOptions(
                report_interval_s=link.report_interval_s,
                report_bytes_per_s=link.report_bytes_per_s,
                sync_interval_s=link.sync_interval_s,
                is_silent=link.silent,
                inbox_bytes_max=limits.inbox_bytes_max,
                open_objects_max=limits.open_objects_max,
            ),
            update_of=self.installer.update_of,
            on_store_trouble=self._hear_of_trouble,
            on_poisoned=self._hear_of_poison,
        )

    def _wire(self) -> None:
        self.serving.on_up = self.installer.wake
        self.serving.on_worker_failed = lambda digest, reason, failures: self.installer.worker_failed(
            digest, reason, failures=failures
        )
        self.serving.on_weights_flipped = self.scrubber.note_memory_flip
        self.messages.on_queued = self._report_soon
        self.telemetry.send_down = self._say_event
        self.telemetry.on_told = self._write_receipt
        self.telemetry.on_event = lambda event: self._report_soon()

    def _wanted_release(self) -> Candidate | None:
        record = self._store.record
        known = record.release(record.current) if record.current else None
        if known is None:
            return None
        return Candidate(digest=known.digest, name=known.name, directory=self._layout.release(known.digest))

    # -- wires ---------------------------------------------------------------------------------------------

    def _offer_again(self) -> None:
        if self.receiver.started.is_set():
            self.receiver.offer_again()
            self.imports.wake()

    def _report_soon(self) -> None:
        if self.receiver.started.is_set():
            self.receiver.report_soon()

    def _hear_of_mended(self, digest: bytes, right_s: float) -> None:
        """What was loaded when its files may have been damaged is loaded anew."""
        if digest == self.serving.release and self.serving.loaded_at_s(digest) > right_s:
            self._reloading = asyncio.create_task(self._reload(digest))

    async def _reload(self, digest: bytes) -> None:
        try:
            await self.serving.reload(digest)
            self.telemetry.emit(events.RELEASE_RELOADED, release=digest.hex()[:16])
        except ServingProblem as error:
            self.telemetry.emit(events.RELEASE_LOAD_FAILED, release=digest.hex()[:16], error=str(error))

    def _hear_of_poison(self, handle: bytes) -> None:
        self.telemetry.emit(events.OBJECT_POISONED, handle=handle.hex())

    def _hear_of_trouble(self, reason: Reason) -> None:
        if reason is not Reason.NONE and reason is not self.installer.inbox_trouble:
            self.telemetry.emit(events.INBOX_TROUBLE, reason=reason.name)
        self.installer.inbox_trouble = reason
        self.imports.wake()
        self._report_soon()

    def _say_event(self, event: Event, text: str, about: bytes | None) -> None:
        body = {"name": event.name, "severity": event.severity.value, "text": text}
        with contextlib.suppress(OnboardError):  # the record may be what failed
            self.messages.say(MessageKind.EVENT, re=about or NO_HANDLE, body=body, is_kept=False)

    def _tell_record_damage(self, found: Damage) -> None:
        if found.num_bad:
            self.telemetry.emit(
                events.RECORD_MENDED,
                lost_copies=found.num_lost,
                damaged_slots=found.num_damaged,
                ever=self._store.record.num_mended,
            )
        if found.num_behind:
            self.telemetry.emit(events.RECORD_CAUGHT_UP, slots=found.num_behind)
        if found.num_failed:
            self.telemetry.emit(events.RECORD_COPY_FAILED, copies=found.num_failed)

    def _write_receipt(self, event: Event, about: bytes | None, arguments: Mapping[str, object]) -> None:
        with contextlib.suppress(OnboardError):  # the record may be what failed
            ReceiptWriter(lambda: self._store.record, self.messages).hear(event, about, arguments)

    def _note_record_failure(self, error: StoreFailedError) -> None:
        if not self._record_failure.done():
            self.telemetry.emit(events.DAEMON_FAILED, error=str(error))
            self._record_failure.set_result(error)

    # -- what others ask for -------------------------------------------------------------------------------

    def _parts(self) -> Parts:
        return Parts(
            satellite=self._config.satellite.name,
            store=self._store,
            installer=self.installer,
            receiver=self.receiver,
            imports=self.imports,
            scrubber=self.scrubber,
            serving=self.serving,
            messages=self.messages,
            telemetry=self.telemetry,
            uptime_s=lambda: time.monotonic() - self._started_at,
        )

    async def _obey_withdraw(self, args: Mapping[str, Any]) -> dict[str, Any]:
        return await self._station_keys.withdraw(args)

    async def _obey_scrub(self, args: Mapping[str, Any]) -> dict[str, Any]:
        digest, is_fast = read_scrub(args)
        if digest is not None and self._store.record.release(digest) is None:
            raise UnknownError(f"no confirmed release {digest.hex()[:16]} on board", hint="`skyload status` shows them")
        outcomes = await self.scrubber.scrub(digest, is_fast=is_fast)
        return {"ok": all(outcome.is_whole for outcome in outcomes), "text": scrub_text(outcomes)}

    def _fault_of(self, handle: bytes, path: Path | None) -> str:
        reason = self.installer.refusal_of(handle)
        if reason is not None:
            return reason.name
        if path is None or self.installer.is_wanted(handle):  # two updates may make one release of other bundles
            return ""
        return find_bundle_fault(path, self.installer.signed_bundle)


def log_to_stderr(*, is_verbose: bool = False) -> None:
    """Let log lines go to standard error: time, level, key=value."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if is_verbose else logging.INFO, handlers=[handler])


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error a person can act on, or else the first."""
    causes: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        else:
            causes.append(error)
    return next((error for error in causes if isinstance(error, OnboardError)), causes[0])
