"""One scrub of one release: read it all, repair what is not right, read what was repaired, say what is lost.

Driven by the daemon's scrubber (`shell`) in a thread, and by `skyloadd scrub`. It knows a directory and a digest.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from onboard.errors import StoreCorruptError, StoreError, StoreFullError
from onboard.scrub.damage import Flip, ScrubOutcome
from onboard.scrub.empties import mend_empties
from onboard.scrub.guard import EVIDENCE_NAMES, Guard, build_guard, guard_sizes
from onboard.scrub.medium import OnStep, hash_medium, open_medium
from onboard.scrub.repair import REPAIR_NAME, Repair
from onboard.scrub.scan import scan
from onboard.store.ballast import RESERVE_BYTES
from onboard.store.disk import Disk
from protocol.damage import WHOLE, LostRange
from protocol.manifest import FileEntry

_ROUNDS_MAX = 3  # what is repaired is read again; a medium that goes on flipping is left to the next scrub


def scrub_release(
    directory: Path,
    digest: bytes,
    disk: Disk,
    *,
    files: Callable[[], Sequence[FileEntry]],
    on_step: OnStep = lambda size: None,
) -> ScrubOutcome:
    """Scrub a release at the pace that `on_step` allows.

    Args:
        directory: of the release.
        digest: of the release.
        disk: where it lies.
        files: the release's file list, for a guard that has to be made anew; may raise StoreCorruptError.
        on_step: see `medium.OnStep`.

    Raises:
        StoreCorruptError: there is no guard, and no file list to make one of.
        StoreFullError, StoreFailedError: there is no guard, and the disk takes none.
    """
    scrub = _Scrub(directory, digest, disk, files, on_step)
    lost = scrub.run()
    return ScrubOutcome(
        release=digest,
        flips=tuple(scrub.flips),
        lost=lost,
        num_bytes=scrub.num_bytes,
        is_direct=scrub.is_direct,
        trouble=scrub.trouble,
    )


class _Scrub:
    def __init__(
        self, directory: Path, digest: bytes, disk: Disk, files: Callable[[], Sequence[FileEntry]], on_step: OnStep
    ) -> None:
        self._directory, self._digest, self._disk = directory, digest, disk
        self._files, self._on_step = files, on_step
        self.flips: list[Flip] = []
        self.num_bytes = 0
        self.is_direct = True
        self.trouble = ""

    def run(self) -> tuple[LostRange, ...]:
        """Scrub; return what is lost."""
        self._disk.unlink(self._directory / REPAIR_NAME)
        guard = Guard.open(self._directory, self._digest, self._disk)
        if guard is None:
            return self._make_anew()
        lost: set[int] = set()
        for _ in range(_ROUNDS_MAX):
            bad = self._scan(guard)
            if not bad - lost:
                break
            try:
                flips, still_bad = Repair(guard, self._on_step).run(tuple(sorted(bad)))
            except StoreCorruptError:  # the guard is wrong, or was damaged where nobody sees it
                return self._make_anew()
            except StoreError as error:
                self.trouble = str(error)
                flips, still_bad = tuple(map(partial(_unrepaired, guard), sorted(bad))), ()
            self.flips = [flip for flip in self.flips if flip.is_repaired] + list(flips)
            lost = set(still_bad)
            if self.trouble:
                break
        self._mend_empties(guard.head.files[: guard.head.num_listed])
        self._mend_copies(guard)
        ranges = guard.map.ranges(cell for cell in sorted(lost) if cell < guard.map.num_blocks)
        return tuple(
            LostRange(file=file, offset=offset, size=size)
            for file, offset, size in ranges
            if file < guard.head.num_listed
        )

    def _scan(self, guard: Guard) -> set[int]:
        bad: set[int] = set()
        for step in scan(guard):
            bad.update(step.bad)
            self.num_bytes += step.num_bytes
            self.is_direct = self.is_direct and step.is_direct
            self._on_step(step.num_bytes)
        return bad

    def _make_anew(self) -> tuple[LostRange, ...]:
        """Make a guard; if a file is not what was signed there can be none, and such files are lost as a whole.

        How long they should be nobody here knows: the file list that is left gives digests alone.
        """
        files = sorted(self._files(), key=lambda entry: entry.name)
        self._mend_empties(files)
        lost = []
        for number, entry in enumerate(files):
            size, sha256 = hash_medium(self._directory / entry.name, self._disk, self._on_step)
            self.num_bytes += size
            if (size, sha256) != (entry.size_bytes, entry.sha256):
                self.flips.append(Flip(file=entry.name, offset=0))
                lost.append(LostRange(file=number, offset=0, size=WHOLE))
        if not lost:
            self._check_room(files)
            build_guard(self._directory, files, self._digest, self._disk, self._on_step)
            self._disk.sync_directory(self._directory)
        return tuple(lost)

    def _check_room(self, files: Sequence[FileEntry]) -> None:
        """A guard must not take what the inbox needs: it can wait."""
        evidence = {name: self._disk_size(name) for name in EVIDENCE_NAMES}
        needed = sum(guard_sizes(files, self._digest, evidence).values()) + RESERVE_BYTES
        free = self._disk.free_bytes(self._directory)
        if free < needed:
            raise StoreFullError(
                f"a guard needs {needed} bytes, {RESERVE_BYTES} of them for others, and {free} are free",
                hint="it is made once a release has gone",
            )

    def _disk_size(self, name: str) -> int:
        with open_medium(self._directory / name, self._disk) as medium:
            return medium.size_bytes

    def _mend_empties(self, files: Sequence[FileEntry]) -> None:
        try:
            self.flips += mend_empties(self._directory, files, self._disk)
        except StoreError as error:
            self.trouble = str(error)

    def _mend_copies(self, guard: Guard) -> None:
        guard.check_copies()
        try:
            self.flips += guard.write_copies()
        except StoreError as error:
            self.trouble = str(error)


def _unrepaired(guard: Guard, cell: int) -> Flip:
    name, offset = guard.where(cell)
    return Flip(file=name, offset=offset)
