"""Replays a story's writes to the medium, up to any moment, in any order that a disk may choose; looks at what is left.

The story runs once, in peace, on a disk that logs (`block_log`). Then for each moment that is looked at: the medium is
made that a power cut may have left there, mounted, and taken through the same looks, recovery and end as after a real
cut (`sweep`). What the story had said by that moment must hold.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.power.block_log import Entry, LoggedDisk, crash_state, make_medium, read_log
from tests.power.images import Cut, Lab
from tests.power.lives import live
from tests.power.stories import Scenario
from tests.power.sweep import Sweep, Tally


class Replay:
    """One scenario on one kind of file system.

    Args:
        lab: where.
        scenario: what; `run` may make a mistake on purpose.
        directory: for the log.
    """

    def __init__(self, lab: Lab, scenario: Scenario, directory: Path) -> None:
        self._lab, self._directory = lab, directory
        self._sweep = Sweep(lab, scenario, Cut.LOST)
        self._name = f"{scenario.name} on {lab.kind.name}"
        with LoggedDisk(self._sweep.image, directory).running() as disk:

            def run(mount_point, say):
                scenario.run(mount_point, lambda what, value=None: say(what, (value, disk.log.stat().st_size)))

            with lab.mounted(disk.path) as mount_point:
                before = disk.log.stat().st_size
                self._life = live(mount_point, run)
            assert not self._life.error, self._life.error
            self.entries: list[Entry] = read_log(disk.log)
            self._first = next(number for number, entry in enumerate(self.entries) if entry.end > before)

    @property
    def moments(self) -> range:
        """Numbers of entries after which the power may go, once the story has begun."""
        return range(self._first, len(self.entries) + 1)

    @property
    def tally(self) -> Tally:
        """What came of it; its `cuts` are media looked at."""
        return self._sweep.tally

    def close(self) -> None:
        """Let go of the image."""
        self._sweep.close()

    def run(self, moments: Iterable[int], rng: random.Random) -> Tally:
        """Look at a medium of each of some moments."""
        for after in moments:
            state = crash_state(self.entries, after, rng)
            image = self._directory / f"medium-{after}.img"
            make_medium(self._sweep.image, self.entries, state, image)
            kept, open_blocks = len(state.kept), after - state.flushed
            where = (
                f"{self._name}, after {after} of {len(self.entries)} writes, {kept} blocks of {open_blocks} unflushed"
            )
            self.tally.cuts += 1
            self._sweep.take_up(image, where, self._said_until(after))
        return self.tally

    def sample(self, count: int, rng: random.Random) -> Iterator[int]:
        """Some moments, half of them just before a flush, where most is open."""
        before_flush = [
            number for number in self.moments if number < len(self.entries) and self.entries[number].is_flush
        ]
        for index in range(count):
            yield rng.choice(before_flush if index % 2 else self.moments)

    def _said_until(self, after: int) -> dict[str, list]:
        position = self.entries[after - 1].end if after else 0
        said: dict[str, list] = defaultdict(list)
        for what, told, _ in self._life.said:
            value, at = told if isinstance(told, tuple) else (told, 1 << 62)  # "lived_s" is no word of the story
            if at <= position:
                said[what].append(value)
        return said
