"""The scrubber: reads every release on board over and over, slowly, and at full speed when it is told to.

Driven by its own loop (`run`) and by commands (`scrub`). Reading and repairing happen in one thread of low priority; at
the slow pace a megabyte is read every so often, so that all there is has been read once a period. Where it is, is kept:
a restart goes on there. While the installer or the link is busy it waits, and a full-speed scrub slows down.

Promises: a flip is counted, located and told once; a release is repaired or what is lost of it is asked for; nothing
here stops anything else. It does not know what a release is for, nor who serves it.
"""

import asyncio
import contextlib
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from onboard import telemetry as events
from onboard.errors import OnboardError, StoreError
from onboard.scrub.damage import Flip, ScrubOutcome
from onboard.scrub.empties import damaged_empties
from onboard.scrub.guard import Guard
from onboard.scrub.ledger import Ledger, LedgerFile
from onboard.scrub.pacing import is_news, next_release, pause_s
from onboard.scrub.scan import scan
from onboard.scrub.scrub import scrub_release
from onboard.store.disk import Disk, RealDisk
from onboard.store.layout import StateLayout
from onboard.telemetry import Telemetry
from protocol.damage import DamageReport
from protocol.manifest import FileEntry
from protocol.message import MessageKind

_T = TypeVar("_T")
_KEEP_PLACE_S = 60.0  # a restart reads again at most what was read in so long
_BUSY_S = 5.0
_BUSY_S_MAX = 600.0  # then a step is taken all the same: a megabyte harms nobody
_WATCH_S = 0.1
_YIELD_S = 0.05  # after each megabyte at full speed, while others are busy
_NICENESS = 10
_FLIPS_TOLD = 4


class ScrubStoppedError(Exception):
    """Nobody waits for this scrub any more."""


class Saying(Protocol):
    """Queues messages."""

    def say(self, kind: MessageKind, *, body: Mapping[str, Any]) -> object:
        """See `messages`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubSurroundings:
    """What the scrubber is given.

    Attributes:
        layout: of the state directory.
        releases: digests of the releases on board, as the trust record has them now.
        files_of: reads the file list of a release; raises StoreCorruptError.
        hold: keeps a release from being deleted or built while it is repaired.
        is_busy: whether the link or the installer has something to do.
        messages: to the ground.
        telemetry: events.
        on_mended: told of a release whose damaged files are right again, and when they last were, in the loop's time.
        period_s: in which every release is read once; 0 for only when told.
        boot: of the daemon.
        disk: where the releases lie.
    """

    layout: StateLayout
    releases: Callable[[], Sequence[bytes]]
    files_of: Callable[[Path, bytes], Sequence[FileEntry]]
    hold: Callable[[bytes], contextlib.AbstractAsyncContextManager[Any]]
    is_busy: Callable[[], bool]
    messages: Saying
    telemetry: Telemetry
    on_mended: Callable[[bytes, float], None]
    period_s: float
    boot: int
    disk: Disk


def scrub_disk() -> Disk:
    """The disk of releases."""
    return RealDisk()


class Scrubber:
    """See the module."""

    def __init__(self, given: ScrubSurroundings) -> None:
        self._given = given
        self._file = LedgerFile(given.layout.scrub_ledger, given.disk)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scrub", initializer=_be_nice)
        self._turn = asyncio.Lock()
        self._stopped = threading.Event()
        self._must_yield = False
        self._sizes: dict[bytes, int] = {}
        self._kept_at_s = float("-inf")
        self._started_s = asyncio.get_running_loop().time()
        self._began_s: dict[bytes, float] = {}  # a reading of a release that is under way
        self._right_s: dict[bytes, float] = {}  # when the last one began that found nothing
        self._file.load()

    @property
    def ledger(self) -> Ledger:
        """What was found so far."""
        return self._file.ledger

    async def run(self) -> None:
        """Scrub at the slow pace, for ever."""
        try:
            while True:
                if not self._given.period_s:
                    await asyncio.Event().wait()
                await self._wait_while_busy()
                await asyncio.sleep(await self._step())
        finally:
            self._keep(self.ledger)
            self._stopped.set()
            self._executor.shutdown(wait=False)

    async def scrub(self, digest: bytes | None = None, *, is_fast: bool = True) -> list[ScrubOutcome]:
        """Scrub one release, or all of them, now; without `is_fast` at the slow pace, from the next step on.

        Raises:
            StoreError: the one release cannot be scrubbed at all; of all, one that cannot is told among the outcomes.
        """
        if not is_fast:
            first = digest or next(iter(self._given.releases()), bytes(32))
            self._keep(replace(self.ledger, release=first, cell=0))
            return []
        outcomes = []
        for each in [digest] if digest else list(self._given.releases()):
            try:
                outcome = await self._scrub_whole(each)
            except (StoreError, OSError) as error:
                if digest:
                    raise
                outcome = _not_scrubbed(each, error)  # the others have nothing to do with it
                self._given.telemetry.emit(events.SCRUB_FAILED, release=each.hex()[:16], error=str(error))
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def note_memory_flip(self, release: bytes, where: str, offset: int, bit: int | None) -> None:
        """Hear of a flip in the weights that a worker holds in memory; it loads them anew."""
        bits = () if bit is None else (bit,)
        flip = Flip(file=where, offset=offset, num_bits=len(bits), bits=bits, is_repaired=True)
        self._keep(self.ledger.with_memory_flip(release, flip, boot=self._given.boot, uptime_s=self._uptime_s))
        self._given.telemetry.emit(
            events.WEIGHTS_FLIPPED,
            release=release.hex()[:16],
            where=where,
            offset=offset,
            bit=-1 if bit is None else bit,
        )

    def status(self) -> dict[str, Any]:
        """Where things stand, for people and programs."""
        ledger = self.ledger
        return {
            "period_s": self._given.period_s,
            "num_scrubs": ledger.num_scrubs,
            "flips_found": ledger.num_found,
            "flips_repaired": ledger.num_repaired,
            "flips_in_memory": ledger.num_memory,
            "lost": [
                {"release": digest.hex(), "num_bytes": sum(each.size for each in ranges), "num_ranges": len(ranges)}
                for digest, ranges in ledger.lost
            ],
            "last_flips": [
                {
                    "release": entry.release.hex(),
                    "file": entry.flip.file,
                    "offset": entry.flip.offset,
                    "bits": list(entry.flip.bits),
                    "num_bits": entry.flip.num_bits,
                    "is_repaired": entry.flip.is_repaired,
                    "is_memory": entry.is_memory,
                    "boot": entry.boot,
                    "uptime_s": entry.uptime_s,
                }
                for entry in ledger.entries[:16]
            ],
        }

    # -- the slow pace -------------------------------------------------------------------------------------

    async def _wait_while_busy(self) -> None:
        waited_s = 0.0
        while self._given.is_busy() and waited_s < _BUSY_S_MAX:
            await asyncio.sleep(_BUSY_S)
            waited_s += _BUSY_S

    async def _step(self) -> float:
        """Take the next step; returns how long to wait after it."""
        releases = list(self._given.releases())
        self._forget_gone(releases)
        ledger = self.ledger
        digest = ledger.release if ledger.release in releases else next_release(releases, ledger.release)
        cell = ledger.cell if digest == ledger.release else 0
        if digest is None:
            return pause_s(1, 0, period_s=self._given.period_s)
        if cell == 0:
            self._began_s[digest] = asyncio.get_running_loop().time()
        try:
            async with self._turn:
                num_bytes, following = await self._in_thread(self._read_step, digest, cell)
            if num_bytes is None:
                await self._scrub_whole(digest)
                num_bytes, following = self._sizes.get(digest, 1), None
            elif following is None:
                self._right_s[digest] = self._began_s.pop(digest, self._right_s.get(digest, -math.inf))
                ledger = replace(self.ledger, num_scrubs=self.ledger.num_scrubs + 1)
                self._given.telemetry.emit(events.RELEASE_SCRUBBED, release=digest.hex()[:16], flips=0)
                self._keep(ledger)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not stop what serves; the next release is read
            self._given.telemetry.emit(events.SCRUB_FAILED, release=digest.hex()[:16], error=repr(error))
            num_bytes, following = self._sizes.get(digest, 1 << 20), None
        if following is None:
            digest, following = next_release(releases, digest) or digest, 0
        self._note_place(digest, following)
        like_this = max(self._sizes.values(), default=num_bytes)
        total = sum(self._sizes.get(each, like_this) for each in releases)
        return pause_s(num_bytes, total, period_s=self._given.period_s)

    def _forget_gone(self, releases: Sequence[bytes]) -> None:
        """What was lost of a release that is no longer on board is not asked for any more."""
        gone = [digest for digest, _ in self.ledger.lost if digest not in releases]
        for digest in gone:
            self._say(DamageReport(release=digest, lost=()))
        if gone:
            self._keep(self.ledger.without(releases))  # after the message: better said twice than never

    def _read_step(self, digest: bytes, cell: int) -> tuple[int | None, int | None]:
        """Read the next megabyte, in the thread; returns bytes read (None: there is work) and where to go on."""
        guard = Guard.open(self._given.layout.release(digest), digest, self._given.disk)
        if guard is None:
            return None, None
        self._sizes[digest] = sum(guard.map.sizes)
        step = next(scan(guard, cell), None)
        if step is None:
            guard.check_copies()
            has_work = guard.bad_copies or damaged_empties(guard.directory, guard.head.files, self._given.disk)
            return (None, None) if has_work else (0, None)
        if is_news(guard, step.cells, step.bad, self.ledger.lost_of(digest)):
            return None, None
        return step.num_bytes, step.cells.stop

    def _note_place(self, digest: bytes, cell: int) -> None:
        ledger = replace(self.ledger, release=digest, cell=cell)
        now = asyncio.get_running_loop().time()
        if now - self._kept_at_s < _KEEP_PLACE_S:
            self._file.ledger = ledger
            return
        self._kept_at_s = now
        self._keep(ledger)

    # -- a whole release -----------------------------------------------------------------------------------

    async def _scrub_whole(self, digest: bytes) -> ScrubOutcome | None:
        """Scrub a release at full speed; None if it is no longer on board."""
        given = self._given
        async with self._turn, given.hold(digest):
            if digest not in given.releases():
                return None
            directory, began_s = given.layout.release(digest), asyncio.get_running_loop().time()
            outcome = await self._in_thread(
                lambda: scrub_release(
                    directory,
                    digest,
                    given.disk,
                    files=lambda: given.files_of(directory, digest),
                    on_step=self._on_step,
                )
            )
        self._tell_if_mended(outcome, began_s)
        self._note(outcome)
        return outcome

    def _tell_if_mended(self, outcome: ScrubOutcome, began_s: float) -> None:
        """Whoever loaded the files since they were last right may hold what was wrong with them."""
        self._began_s.pop(outcome.release, None)
        if not outcome.is_whole:
            return
        is_mended = any(not flip.file.startswith(".") for flip in outcome.flips)
        if is_mended or self.ledger.lost_of(outcome.release):
            self._given.on_mended(outcome.release, self._right_s.get(outcome.release, -math.inf))
        self._right_s[outcome.release] = began_s if not is_mended else asyncio.get_running_loop().time()

    def _note(self, outcome: ScrubOutcome) -> None:
        given, before = self._given, self.ledger.lost_of(outcome.release)
        self._sizes[outcome.release] = outcome.num_bytes
        if outcome.trouble and not outcome.lost:
            outcome = replace(outcome, lost=before)  # nothing was written: what was lost is not back
        if outcome.lost != before:
            self._ask_for(outcome)  # before the ledger: after a power cut between the two it is said again
        ledger = self.ledger.with_outcome(outcome, boot=given.boot, uptime_s=self._uptime_s)
        self._keep(ledger)
        self._forget_gone(given.releases())
        release = outcome.release.hex()[:16]
        if outcome.num_repaired:
            given.telemetry.emit(
                events.FLIPS_REPAIRED,
                release=release,
                found=outcome.num_found,
                repaired=outcome.num_repaired,
                where=_where(outcome.flips),
            )
        if outcome.trouble:
            given.telemetry.emit(events.SCRUB_FAILED, release=release, error=outcome.trouble)
        given.telemetry.emit(events.RELEASE_SCRUBBED, release=release, flips=outcome.num_found)

    def _ask_for(self, outcome: ScrubOutcome) -> None:
        """Tell the ground what is missing, or that nothing is any more."""
        report = DamageReport(release=outcome.release, lost=outcome.lost)
        if outcome.lost:
            self._given.telemetry.emit(
                events.RELEASE_DAMAGED,
                release=outcome.release.hex()[:16],
                bytes=report.num_bytes,
                ranges=len(report.lost),
            )
        self._say(report)

    def _say(self, report: DamageReport) -> None:
        with contextlib.suppress(OnboardError):  # the record may be what failed
            self._given.messages.say(MessageKind.DAMAGE, body=report.to_body())

    def _keep(self, ledger: Ledger) -> None:
        try:
            self._file.store(ledger)
        except (StoreError, OSError) as error:
            self._given.telemetry.emit(events.SCRUB_FAILED, error=str(error))

    @property
    def _uptime_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started_s

    # -- the thread ----------------------------------------------------------------------------------------

    async def _in_thread(self, work: Callable[..., _T], *arguments: object) -> _T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        try:
            while not future.done():
                self._must_yield = self._given.is_busy()
                await asyncio.wait({future}, timeout=_WATCH_S)
        except asyncio.CancelledError:
            self._stopped.set()
            await asyncio.wait({future})
            if not future.cancelled():
                future.exception()  # seen: it is what we asked for
            raise
        finally:
            self._must_yield = False
        return future.result()

    def _on_step(self, num_bytes: int) -> None:
        if self._must_yield and num_bytes:
            self._stopped.wait(_YIELD_S)
        if self._stopped.is_set():
            raise ScrubStoppedError


def _not_scrubbed(digest: bytes, error: Exception) -> ScrubOutcome:
    return ScrubOutcome(release=digest, flips=(), lost=(), num_bytes=0, is_direct=False, trouble=str(error))


def _where(flips: Sequence[Flip]) -> str:
    told = [f"{flip.file}:{flip.bits[0] if flip.bits else 8 * flip.offset}" for flip in flips[:_FLIPS_TOLD]]
    return ",".join(told) + (",..." if len(flips) > _FLIPS_TOLD else "")


def _be_nice() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
