"""What the machine holds beside the record: the `current` link, leftovers of releases, memory.

Called at start and after a confirmation. What the record does not speak of is worth nothing (`store.layout`).
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from onboard.errors import InstallError, StoreError
from onboard.installer.progress import PROGRESS_NAME
from onboard.installer.release import delete_tree
from onboard.store.disk import Disk, RealDisk
from onboard.store.layout import StateLayout
from protocol.limits import MIB
from protocol.report import Reason

_PART = ".part"
_CARRIED_PREFIX = ".adapter_"  # what an adapter's bundles turn into, see `adapter.carried_files`


def point_current(layout: StateLayout, digest: bytes) -> None:
    """Let `current` name a release; after a power cut it names the old or the new one.

    Works on a full disk: a short link needs no block of its own.
    """
    disk, target = RealDisk(), Path("releases") / layout.release(digest).name
    if not _leads_to(layout.current, target):
        temporary = layout.current.with_name("current.new")
        disk.unlink(temporary)
        disk.symlink(target, temporary)
        disk.rename(temporary, layout.current)
    disk.sync_directory(layout.state_dir)  # also if it was right: whoever set it may have been killed before this


def _leads_to(link: Path, target: Path) -> bool:
    with contextlib.suppress(OSError):
        return link.readlink() == target
    return False


def delete_leftovers(
    layout: StateLayout, *, known: Collection[bytes], wanted: Collection[bytes]
) -> Iterator[tuple[str, StoreError | None]]:
    """Delete what is in `releases/` but neither known nor wanted, and what building left in sealed ones.

    Yields each name, with the error if it stays.

    Args:
        layout: of the state directory.
        known: digests of confirmed releases.
        wanted: digests of the releases that pending updates make, sealed or not.
    """
    kept = {layout.release(digest).name for digest in known}
    for digest in wanted:
        kept |= {layout.release(digest).name, layout.release_part(digest).name}
    disk = RealDisk()
    for name in disk.list_directory(layout.releases):
        path = layout.releases / name
        if name in kept:
            if not name.endswith(_PART):
                yield from _delete_scaffolding(path, disk)
            continue
        try:
            if path.is_dir() and not path.is_symlink():
                delete_tree(path, disk)
            else:
                disk.unlink(path)
        except StoreError as error:  # a mount point's lost+found, say: it may stay, we go on
            yield name, error
        else:
            yield name, None


def _delete_scaffolding(release: Path, disk: Disk) -> Iterator[tuple[str, StoreError | None]]:
    """A cut came after a release got its name, and before what was needed to build it was deleted."""
    try:
        names = disk.list_directory(release)
    except StoreError as error:  # one directory that cannot be read is no reason not to start
        yield release.name, error
        return
    for name in names:
        if name == PROGRESS_NAME or name.startswith(_CARRIED_PREFIX):
            try:
                disk.unlink(release / name)
            except StoreError as error:
                yield f"{release.name}/{name}", error
            else:
                yield f"{release.name}/{name}", None


def memory_available_bytes() -> int | None:
    """Memory that may be taken without swapping, as the kernel sees it; None where it does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def check_memory(needed_bytes: int) -> None:
    """Make sure that a release may be loaded beside the one that serves.

    Raises:
        InstallError: ENGINE_UNSUITABLE.
    """
    available = memory_available_bytes()
    if available is not None and needed_bytes > available:
        raise InstallError(
            f"needs {needed_bytes // MIB} MiB of memory, {available // MIB} MiB are free",
            reason=Reason.ENGINE_UNSUITABLE,
            hint="the old release stays loaded during the trial",
        )
