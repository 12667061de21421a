"""Mistakes to be made on purpose: what a sweep is worth is seen by whether it finds them.

Each changes the code for the rest of a process, which is a life's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onboard.installer.assemble
import onboard.installer.shelf
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from tests.power.images import Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One.

    Attributes:
        name: for people.
        make: makes it.
        shows_after: the steps (what, path) after which a cut shows it.
        how: what the cut leaves.
        story: in which it shows.
    """

    name: str
    make: Callable[[], None]
    shows_after: Callable[[str, str], bool]
    how: Cut = Cut.LOST
    story: str = "flight"


def _no_sync_of(part: str) -> Callable[[], None]:
    def make() -> None:
        inner = RealDisk.sync

        def sync(disk: RealDisk, handle: int) -> None:
            if part not in str(Path(f"/proc/self/fd/{handle}").readlink()):
                inner(disk, handle)

        RealDisk.sync = sync

    return make


def _no_directory_sync(name: str = "") -> Callable[[], None]:
    def make() -> None:
        inner = RealDisk.sync_directory

        def sync_directory(disk: RealDisk, path: Path) -> None:
            if name and path.name != name:
                inner(disk, path)

        RealDisk.sync_directory = sync_directory

    return make


def _release_built_in_place() -> None:
    StateLayout.release_part = StateLayout.release
    onboard.installer.assemble.delete_tree = lambda directory, disk: None


def _link_replaced_in_place() -> None:
    def point_current(layout: StateLayout, digest: bytes) -> None:
        disk = RealDisk()
        disk.unlink(layout.current)
        disk.symlink(Path("releases") / layout.release(digest).name, layout.current)
        disk.sync_directory(layout.state_dir)

    onboard.installer.shelf.point_current = point_current


def _after(step: str, part: str) -> Callable[[str, str], bool]:
    return lambda what, path: what == step and part in path


MISTAKES = (
    Mistake(
        name="a release's file is not synced", make=_no_sync_of("/model.bin"), shows_after=_after("sync", ".progress")
    ),
    Mistake(
        name="the symbol logs are not synced", make=_no_sync_of(".log"), shows_after=_after("sync_directory", "/inbox")
    ),
    Mistake(name="the trust record is not synced", make=_no_sync_of("/trust-"), shows_after=_after("write", ".log")),
    Mistake(name="no directory is synced", make=_no_directory_sync(), shows_after=_after("sync", "/trust-3")),
    Mistake(
        name="the directory of releases is not synced",
        make=_no_directory_sync("releases"),
        shows_after=_after("sync", "/trust-3"),
    ),
    Mistake(name="a release is built in place", make=_release_built_in_place, shows_after=_after("write_at", "/model")),
    Mistake(
        name="no directory is synced when a release is repaired",
        make=_no_directory_sync(),
        shows_after=_after("sync", "/trust-3"),
        story="repair",
    ),
    Mistake(
        name="the link is replaced in place",
        make=_link_replaced_in_place,
        shows_after=_after("unlink", "/current"),
        how=Cut.JOURNALED,
    ),
)
