"""The guard of a new release, made while it is sealed: what a scrub needs to find and undo damage (`scrub.guard`)."""

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from onboard.errors import InstallError, StoreCorruptError, StoreFullError
from onboard.installer.release import SUMS_NAME, ReleaseDirectory
from onboard.installer.threads import check_stop
from onboard.scrub.guard import build_guard, guard_sizes
from onboard.store.disk import Disk, RealDisk
from protocol.manifest import FileEntry, Manifest
from protocol.report import Reason


def guard_room(manifest: Manifest) -> dict[str, int]:
    """Return the files of the guard that a release will get, and how much space to reserve for each.

    A repair gets none: its release has one.
    """
    if manifest.is_repair:
        return {}
    # Only how long they are is needed of the digests, which nobody knows before the files are there.
    files = [FileEntry(name=file.name, size_bytes=file.size_bytes, sha256=bytes(32)) for file in manifest.files]
    return guard_sizes(files, manifest.release_digest, {SUMS_NAME: len(ReleaseDirectory.sums(files))})


def add_guard(part: Path, *, files: Sequence[FileEntry], digest: bytes, disk: Disk | None = None) -> None:
    """Put a guard beside the files of a release, into the space of `guard_room`.

    Where none was reserved, by an older build, a full disk does without: the scrubber tries again.

    Args:
        part: where they lie.
        files: as they were verified.
        digest: of the release.
        disk: see `Disk`.

    Raises:
        InstallError: DISK_FAILED; a file is no longer what was verified just now.
        StoreFailedError: the disk refused.
    """
    disk = disk or RealDisk()
    build = partial(build_guard, part, files, digest, disk, lambda size: check_stop())
    try:
        try:
            build(is_reserved=True)
        except StoreFullError:  # full, with its space reserved: once more, as if none had been
            with contextlib.suppress(StoreFullError):
                build()
    except StoreCorruptError as error:
        raise InstallError(str(error), reason=Reason.DISK_FAILED, hint="check the medium") from error
