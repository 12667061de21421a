"""The guard of a new release, made while it is sealed: what a scrub needs to find and undo damage (`scrub.guard`)."""

import contextlib
from pathlib import Path

from onboard.errors import InstallError, StoreCorruptError, StoreFullError
from onboard.installer.threads import check_stop
from onboard.scrub.guard import build_guard
from onboard.store.disk import Disk, RealDisk
from protocol.manifest import Manifest
from protocol.report import Reason


def add_guard(part: Path, *, manifest: Manifest, disk: Disk | None = None) -> None:
    """Put a guard beside the files of a release. A full disk does without: the scrubber tries again.

    Raises:
        InstallError: DISK_FAILED; a file is no longer what was verified just now.
        StoreFailedError: the disk refused.
    """
    disk = disk or RealDisk()
    try:
        with contextlib.suppress(StoreFullError):
            build_guard(part, manifest.files, manifest.release_digest, disk, lambda size: check_stop())
    except StoreCorruptError as error:
        raise InstallError(str(error), reason=Reason.DISK_FAILED, hint="check the medium") from error
