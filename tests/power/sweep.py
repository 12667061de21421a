"""Cuts the power before every step of a story, and looks at what is left; then before every step of the recovery.

For each cut, on a disk of its own: the file system is mounted again, which replays its journal; what must hold before
anything is mended is looked at; a new life recovers and finishes the story; its end must look like that of a life in
peace, without a file or a block too many; and one more life must find nothing to mend.

The recovery is cut again, one level deep: before each of its steps that no recovery of this sweep was cut before, told
apart by what is done to which file and what was done just before. `is_deep` cuts before all of them.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onboard.store.layout import StateLayout
from onboard.store.record import RecordStore
from tests.power.images import Cut, Lab
from tests.power.lives import Life, live
from tests.power.stories import Scenario

_BLOCKS_TOO_MANY_BYTES = 256 * 1024  # directories that have grown, and what an XFS keeps for itself
_RECOVERY_S_MAX = 10.0
_NUMBERS = re.compile(r"[0-9a-f]{12,}|[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A promise that did not hold.

    Attributes:
        where: scenario, file system, and before which steps the power went.
        problem: in words.
    """

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


@dataclass(slots=True)
class Tally:
    """What a sweep has done.

    Attributes:
        cuts: powers cut, in first lives and in recoveries.
        broken: what did not hold.
        recovery_s_max: the longest that a life took until it served.
    """

    cuts: int = 0
    broken: list[Broken] = field(default_factory=list)
    recovery_s_max: float = 0.0


@dataclass(frozen=True, slots=True)
class _End:
    """How a disk looks when a story has ended: sizes of its files by name, and free bytes."""

    files: dict[str, int]
    free_bytes: int

    @classmethod
    def of(cls, directory: Path) -> "_End":
        names: dict[str, int] = {}
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            if name.startswith("lost+found") or _is_free_to_differ(path):
                continue
            names[name] = path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        found = os.statvfs(directory)
        return cls(names, found.f_bfree * found.f_frsize)


def _is_free_to_differ(path: Path) -> bool:
    """A message has another counter in another life, and may be said twice; the lock holds a process id."""
    return path.parent.name == "messages" or path.name == "lock" or path.name.startswith("object-")


class Sweep:
    """One scenario on one kind of file system.

    Args:
        lab: where.
        scenario: what.
        how: what each cut leaves.
    """

    def __init__(self, lab: Lab, scenario: Scenario, how: Cut) -> None:
        self._lab, self._scenario, self._how = lab, scenario, how
        self._image = lab.make(scenario.prepare)
        self._recoveries: set[tuple[object, ...]] = set()
        self.tally = Tally()
        with self._fresh(self._image) as disk:
            self.peaceful = self._live(disk)
            with lab.mounted(disk.image) as directory:
                self._end = _End.of(directory)
        assert not self.peaceful.error, self.peaceful.error

    @property
    def num_steps(self) -> int:
        """Of the story in peace."""
        return len(self.peaceful.steps)

    @property
    def image(self) -> Path:
        """The disk before the story."""
        return self._image

    def take_up(self, image: Path, where: str, said: dict[str, list]) -> None:
        """Recover and go on to the end on a disk that was left in another way, after so much was said; it goes then."""
        with _Disk(image) as disk:
            self._finish(disk, where, said)

    def close(self) -> None:
        """Let go of the image."""
        self._image.unlink()

    def run(self, cuts: Iterable[int] | None = None, *, recovery_cuts_max: int = 1000, is_deep: bool = False) -> Tally:
        """Cut before some steps of the story, or all, and before steps of each recovery."""
        for at in range(self.num_steps) if cuts is None else cuts:
            self._cut_once(at, recovery_cuts_max, is_deep)
        return self.tally

    def find(self, cuts: Iterable[int]) -> Broken | None:
        """Return the first promise that does not hold after one of some cuts."""
        for at in cuts:
            self._cut_once(at, 0, False)
            if self.tally.broken:
                return self.tally.broken[0]
        return None

    def _cut_once(self, at: int, recovery_cuts_max: int, is_deep: bool) -> None:
        with self._fresh(self._image) as disk:
            said: dict[str, list] = defaultdict(list)
            where = f"{self._scenario.name} on {self._lab.kind.name}, {self._how.name.lower()}, cut {at}"
            first = self._live(disk, at)
            self.tally.cuts += first.is_cut
            _add(said, first)
            left = self._lab.copy(disk.image)
            try:
                second = self._finish(disk, where, _copy(said))
                trace = second.steps[: second.steps_until("recovered")]
                for number in self._new_steps(trace, is_deep)[:recovery_cuts_max]:
                    self._cut_again(left, number, f"{where}, and {number} of its recovery", said)
            finally:
                left.unlink()

    def _new_steps(self, trace: list[tuple[str, str]], is_deep: bool) -> list[int]:
        kinds = [(step, _NUMBERS.sub("#", path)) for step, path in trace]
        pairs = list(zip([None, *kinds], kinds, strict=False))
        new = [number for number, pair in enumerate(pairs) if is_deep or pair not in self._recoveries]
        self._recoveries.update(pairs)
        return new

    def _cut_again(self, left: Path, number: int, where: str, said: dict[str, list]) -> None:
        with self._fresh(left) as disk:
            heard = _copy(said)
            life = self._live(disk, number)
            self.tally.cuts += life.is_cut
            _add(heard, life)
            self._finish(disk, where, heard)

    def _finish(self, disk: "_Disk", where: str, said: dict[str, list]) -> Life:
        """Look, recover and go on to the end, look again; returns that life."""
        with self._lab.mounted(disk.image) as directory:
            self._note(where, self._scenario.look(directory, said))
        life = self._live(disk)
        self._note(where, [life.error] if life.error else [])
        if life.error:
            return life
        self._note(where, _broken_claims(said, life))
        _add(said, life)
        up_s = max(life.heard("up_s"), default=0.0)
        self.tally.recovery_s_max = max(self.tally.recovery_s_max, up_s)
        self._note(where, [f"it serves only after {up_s:.1f} s"] if up_s > _RECOVERY_S_MAX else [])
        with self._lab.mounted(disk.image) as directory:
            self._note(where, self._scenario.look(directory, said))
            self._note(where, self._leaks(_End.of(directory)))
            before = _facts(directory)
        again = self._live(disk)
        self._note(where, [f"a further life: {again.error}"] if again.error else [])
        with self._lab.mounted(disk.image) as directory:
            self._note(where, self._leaks(_End.of(directory)))
            if _facts(directory) != before:
                self._note(where, ["a further life changes the record"])
        return life

    def _leaks(self, end: _End) -> Iterator[str]:
        if end.files != self._end.files:
            changed = sorted(set(end.files.items()) ^ set(self._end.files.items()))
            yield f"it ends with other files: {changed[:6]}"
        elif end.free_bytes < self._end.free_bytes - _BLOCKS_TOO_MANY_BYTES:
            yield f"{self._end.free_bytes - end.free_bytes} bytes have leaked"

    def _live(self, disk: "_Disk", at: int | None = None) -> Life:
        with self._lab.mounted(disk.image) as directory:
            return live(directory, self._scenario.run, at=at, how=self._how)

    def _note(self, where: str, problems: Iterable[str]) -> None:
        self.tally.broken += [Broken(where=where, problem=problem) for problem in problems]

    def _fresh(self, image: Path) -> "_Disk":
        return _Disk(self._lab.copy(image))


@dataclass(frozen=True, slots=True)
class _Disk:
    """An image that goes when it is not needed any more."""

    image: Path

    def __enter__(self) -> "_Disk":
        return self

    def __exit__(self, *_error: object) -> None:
        self.image.unlink()


def _copy(said: dict[str, list]) -> dict[str, list]:
    return defaultdict(list, {what: list(values) for what, values in said.items()})


def _add(said: dict[str, list], life: Life) -> None:
    for what, value, _ in life.said:
        said[what].append(value)


def _facts(directory: Path) -> object:
    layout = StateLayout(directory / "state")
    return RecordStore(layout.record).load() if layout.state_dir.exists() else None


def _broken_claims(said: dict[str, list], life: Life) -> Iterator[str]:
    """Whether a new life honours what the reports before it said; a second of symbols is all that may be missing."""
    if not said["claims"] or not life.heard("found"):
        return
    counts, complete = said["claims"][-1]
    symbols, is_needed = life.heard("found")[0]
    for handle in complete:
        if handle in is_needed and not symbols.get(handle, {}).get("whole"):
            yield f"object {handle.hex()} was complete, and is not there"
    for (handle, block), have in counts.items():
        if handle in is_needed and symbols.get(handle, {}).get(block, 0) < have:
            yield f"{have} symbols of {handle.hex()} were reported, {symbols.get(handle, {}).get(block, 0)} are there"
