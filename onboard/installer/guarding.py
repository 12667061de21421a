"""The guard of a new release, made while it is sealed: what a scrub needs to find and undo damage (`scrub.guard`)."""

import contextlib
from functools import partial
from pathlib import Path

from onboard.errors import InstallError, StoreCorruptError, StoreFullError
from onboard.installer.release import SUMS_NAME, ReleaseDirectory
from onboard.installer.threads import check_stop
from onboard.scrub.guard import build_guard, guard_sizes
from onboard.store.disk import Disk, RealDisk
from protocol.manifest import Manifest
from protocol.report import Reason


def guard_room(manifest: Manifest) -> dict[str, int]:
    """Return the files of the guard that a release will get, and how much space to reserve for each.

    A repair gets none: its release has one.
    """
    if manifest.is_repair:
        return {}
    evidence = {SUMS_NAME: len(ReleaseDirectory.sums(manifest.files))}
    return guard_sizes(manifest.files, manifest.release_digest, evidence)


def add_guard(part: Path, *, manifest: Manifest, disk: Disk | None = None) -> None:
    """Put a guard beside the files of a release, into the space of `guard_room`.

    Where none was reserved, by an older build, a full disk does without: the scrubber tries again.

    Raises:
        InstallError: DISK_FAILED; a file is no longer what was verified just now.
        StoreFailedError: the disk refused.
    """
    disk = disk or RealDisk()
    build = partial(build_guard, part, manifest.files, manifest.release_digest, disk, lambda size: check_stop())
    try:
        try:
            build(is_reserved=True)
        except StoreFullError:  # full, with its space reserved: once more, as if none had been
            with contextlib.suppress(StoreFullError):
                build()
    except StoreCorruptError as error:
        raise InstallError(str(error), reason=Reason.DISK_FAILED, hint="check the medium") from error
