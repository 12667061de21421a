"""Serving from a medium that takes no writes: the daemon in place of the daemon, where the file system is read-only.

An error of the medium makes ext4 read-only (errors=remount-ro), and the daemon, which acts on nothing that is not
durable, could not start: one bad block would silence a satellite whose model is whole. So the release that the trust
record names is served from there; if it does not load, the one before, then the golden one, then any other. Whoever is
heard gets reports that say so: every pending update is BLOCKED, DISK_FAILED, and so is an update without a handle,
which stands for all that might come. Events, `status` and the log say `medium_read_only`.

Nothing is accepted, acknowledged, installed, scrubbed or commanded. No message is sent, for its number could not be
made durable. Nothing is written to the medium, and nothing is tried again there: only a start looks whether it takes
writes. Sockets and logs are in memory (`read_only`).
"""

import asyncio
import contextlib
import dataclasses
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onboard import telemetry as events
from onboard.config import Config, read_link_key
from onboard.control_socket import ControlSocket, Operation
from onboard.errors import StoreFailedError
from onboard.inference.control import ServingStatus
from onboard.installer.serving import ServingProblem
from onboard.installer.trial import Candidate
from onboard.read_only import make_run_directory
from onboard.receiver.beacon import Beacon
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.station_contacts import go_on_with_contacts
from onboard.receiver.status import ReportStatus
from onboard.serving_options import serving_options
from onboard.serving_process import ServingSupervision
from onboard.state import read_record, take_lock
from onboard.store.layout import StateLayout
from onboard.store.record import OnboardRecord
from onboard.telemetry import Telemetry
from protocol.frame import HANDLE_SIZE, FrameCodec
from protocol.link_keys import Direction
from protocol.report import NO_HANDLE, UPDATES_MAX, Reason, UpdateState, UpdateStatus

_FAILURES_MAX = 3  # of a release to load, before another one is tried
_SERVING_STATUS_S = 2.0
_REFUSED = ("revert", "import", "report", "scrub")


def run_serve_only(config: Config) -> None:
    """Serve what is there until a signal says stop.

    Raises:
        OnboardError: there is no record to be read, nowhere to run, or somebody else works here.
    """
    layout, record = read_record(config)
    with _locked(layout):
        asyncio.run(_run(config, layout, record))


async def _run(config: Config, layout: StateLayout, record: OnboardRecord) -> None:
    loop = asyncio.get_running_loop()
    life = ServeOnly(config, layout, record, make_run_directory(layout), now=loop.time)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.stop.set)
    await life.run()


class ServeOnly:
    """One life without writes.

    Args:
        config: of the satellite.
        layout: where its state lies, to be read.
        record: the trust record.
        run_directory: for sockets and logs, elsewhere.
        now: monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        layout: StateLayout,
        record: OnboardRecord,
        run_directory: Path,
        *,
        now: Callable[[], float],
    ) -> None:
        self._config, self._layout, self._record = config, layout, record
        self._run_directory, self._now, self._started_at = run_directory, now, now()
        self.stop = asyncio.Event()
        self.telemetry = Telemetry(now)
        options = serving_options(config, layout, run_directory=run_directory)
        self.serving = ServingSupervision(options, self.telemetry, wanted=self.wanted)
        self.serving.on_worker_failed = self.hear_of_failure
        self._candidates = list(_releases_in_order(record, layout))
        self._failures_before = 0
        self._falling_back: asyncio.Task[None] | None = None
        self.beacon = self._make_beacon()

    async def run(self) -> None:
        """Serve and report until told to stop."""
        self.telemetry.emit(events.MEDIUM_READ_ONLY, state_dir=self._layout.state_dir, run=self._run_directory)
        control = ControlSocket(self._run_directory, self.operations())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (self.serving.run(), self.beacon.run(), control.run())]
            await self.stop.wait()
            self.telemetry.emit(events.DAEMON_STOPPED)
            for task in tasks:
                task.cancel()

    def wanted(self) -> Candidate | None:
        """The release to serve, None if none is on board."""
        return self._candidates[0] if self._candidates else None

    def hear_of_failure(self, digest: bytes, reason: str, failures: int) -> None:
        """Serve the next release in place of one that keeps failing; the last one is tried for ever."""
        is_serving = self.serving.release is not None
        failures -= 0 if is_serving else self._failures_before  # while it is brought up they add up over releases
        if failures < _FAILURES_MAX or len(self._candidates) < 2 or digest != self._candidates[0].digest:
            return
        self._failures_before += 0 if is_serving else failures
        self._candidates.pop(0)
        follows = self._candidates[0]
        self.telemetry.emit(events.RETURNED, release=follows.digest.hex()[:16], why=reason)
        if is_serving:  # else the next try asks what is wanted
            self._falling_back = asyncio.create_task(self._change_to(follows))

    def report_status(self) -> ReportStatus:
        """What reports say: nothing goes on, whatever it is."""
        record, serving = self._record, self.serving.release
        handles = (*(update.handle for update in record.pending), NO_HANDLE)[:UPDATES_MAX]
        return ReportStatus(
            updates=tuple(
                UpdateStatus(handle=handle, state=UpdateState.BLOCKED, reason=Reason.DISK_FAILED) for handle in handles
            ),
            serving=serving[:HANDLE_SIZE] if serving else NO_HANDLE,
            accepted=record.accepted,
            root_version=record.root_version,
            epoch=record.epoch,
            commands=record.command_highest,
            boot_count=record.boot_count,
        )

    def operations(self) -> dict[str, Operation]:
        """What the control socket answers."""
        return {"status": self._status, **dict.fromkeys(_REFUSED, self._refuse)}

    # -- parts ---------------------------------------------------------------------------------------------

    def _make_beacon(self) -> Beacon:
        link, key = self._config.link, read_link_key(self._config.link)
        up, down = FrameCodec(Direction.UP, key), FrameCodec(Direction.DOWN, key)
        for codec in (up, down):
            for station, generation in enumerate(self._record.stations):
                if generation:
                    codec.set_generation(station, generation)
        go_on_with_contacts(self._layout.contacts, up, down)
        options = ReportOptions(
            interval_s=link.report_interval_s, bytes_per_s=link.report_bytes_per_s, is_silent=link.silent
        )
        return Beacon(link.listen, up, down, self.report_status, secrets.token_bytes(HANDLE_SIZE), options)

    async def _change_to(self, release: Candidate) -> None:
        try:
            await self.serving.load(release.digest, directory=release.directory, name=release.name, timeout_s=900.0)
            await self.serving.flip(release.digest)
        except ServingProblem as error:
            self.telemetry.emit(events.RELEASE_LOAD_FAILED, release=release.digest.hex()[:16], error=str(error))

    async def _refuse(self, _asked: dict[str, Any]) -> dict[str, Any]:
        raise StoreFailedError(
            f"{self._layout.state_dir} is read-only: the daemon serves, and takes nothing",
            hint="look at the medium; when it takes writes again, restart the daemon",
        )

    async def _status(self, _asked: dict[str, Any]) -> dict[str, Any]:
        record, digest = self._record, self.serving.release
        known = record.release(digest) if digest else None
        process: ServingStatus | None = None
        with contextlib.suppress(ServingProblem, TimeoutError):
            async with asyncio.timeout(_SERVING_STATUS_S):
                process = await self.serving.status()
        return {
            "status": {
                "satellite": self._config.satellite.name,
                "read_only": True,
                "boot_count": record.boot_count,
                "uptime_s": round(self._now() - self._started_at, 3),
                "accepted": record.accepted,
                "floor": record.floor,
                "epoch": record.epoch,
                "root_version": record.root_version,
                "endpoint": self.serving.endpoint,
                "serving": {
                    "digest": digest.hex() if digest else None,
                    "name": known.name if known else None,
                    "sequence": known.sequence if known else None,
                    "is_serving": bool(process and process.is_serving),
                    "trouble": self.serving.trouble,
                },
                "updates": [
                    {
                        "handle": update.handle.hex(),
                        "state": UpdateState.BLOCKED.name.lower(),
                        "reason": Reason.DISK_FAILED.name.lower(),
                        "release": update.release.hex(),
                    }
                    for update in record.pending
                ],
                "receiver": {
                    "frames_received": self.beacon.num_frames,
                    "frames_rejected": self.beacon.num_rejected,
                },
                "serving_process": None if process is None else dataclasses.asdict(process),
                "events": self.telemetry.counters(),
            }
        }


def _releases_in_order(record: OnboardRecord, layout: StateLayout) -> Iterator[Candidate]:
    """What may serve, best first; what is not there to be read is left out."""
    named = (record.current, record.previous, record.golden, *(known.digest for known in record.releases))
    for digest in dict.fromkeys(digest for digest in named if digest is not None):
        known, directory = record.release(digest), layout.release(digest)
        if known is not None and directory.is_dir():
            yield Candidate(digest=digest, name=known.name, directory=directory)


@contextlib.contextmanager
def _locked(layout: StateLayout) -> Iterator[None]:
    """Be the only daemon here, as far as that can be said without writing.

    Raises:
        BusyError: another process works here.
    """
    try:
        handle = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # of a disk that takes nothing: nobody else can work here either
        yield
        return
    try:
        take_lock(handle, layout)
        yield
    finally:
        os.close(handle)
