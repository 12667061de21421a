"""Forgetting a release for good: its files, and every copy of its wrapped key that lies on our disk.

The key of a release is never on the disk by itself: it comes wrapped in the metadata object, is unwrapped into memory
while the release is built, and let go of when it is sealed. So what is wiped is the metadata: the copy in the release
and those of updates that ended. They are overwritten, synced and deleted before the record forgets the release; a power
cut in between leaves a release that serves as before and can be forgotten again. Copies that went before, with updates
that nobody remembers or releases that were deleted, were overwritten when they went.

What it cannot promise: the metadata passed through the inbox, whose files are deleted only; flash keeps what is
overwritten until it erases the block, and deleted weights until they are trimmed; who recorded the uplink and takes our
private key can unwrap again. See docs/security.md.
"""

from dataclasses import replace
from pathlib import Path

from onboard import telemetry as events
from onboard.errors import StoreError, StoreFailedError, UnknownError
from onboard.installer.release import METADATA_NAME, ReleaseDirectory
from onboard.installer.shelf import Shelf
from onboard.installer.threads import in_thread
from onboard.installer.update_file import update_path
from onboard.store.disk import RealDisk
from onboard.store.record import OnboardRecord
from onboard.store.wiping import wipe_file


async def forget_release(shelf: Shelf, digest: bytes) -> str:
    """Forget a release that nothing needs; returns what was done, in words.

    Raises:
        UnknownError: it is not here, or something needs it.
        StoreError: the disk refused. It is not forgotten; or it is, without its keys, and files of it stay, as is said.
    """
    record = shelf.store.record
    _check_unneeded(shelf, record, digest)
    known = record.release(digest)
    handles = [update.handle for update in record.ended if update.release == digest]
    directory = shelf.layout.release(digest)
    if known is None and not handles and not directory.exists():
        raise UnknownError(f"no release {digest.hex()[:16]} is on board", hint="the report says what is")
    keys = [directory / METADATA_NAME, *(update_path(shelf.layout.state_dir, handle) for handle in handles)]
    async with shelf.locks.of(digest):
        size = await in_thread(_size_of, directory, digest)
        num_wiped = sum([await in_thread(wipe_file, path, RealDisk()) for path in keys])
    shelf.crash_point("keys-wiped")
    record = shelf.store.record
    _check_unneeded(shelf, record, digest)  # it may have been reverted to meanwhile
    previous = record.previous if record.previous != digest else None
    shelf.store.store(replace(record.without_release(digest), previous=previous))
    shelf.crash_point("forgotten")
    problem = await shelf.clear_away(digest)
    name = digest.hex()[:16]
    if problem or directory.exists():
        raise StoreFailedError(
            f"release {name} is forgotten and {num_wiped} copies of its key are overwritten, but its files stay:"
            f" {problem or 'an update makes it again'}",
            hint="forget it again; the next start tries, too",
        )
    shelf.telemetry.emit(events.RELEASE_FORGOTTEN, release=name, keys=num_wiped, bytes=size)
    return f"release {name} is forgotten: {size} bytes deleted, {num_wiped} copies of its key overwritten"


def _check_unneeded(shelf: Shelf, record: OnboardRecord, digest: bytes) -> None:
    name = digest.hex()[:16]
    if digest in {record.current, shelf.serving.release}:
        raise UnknownError(f"release {name} serves: revert to another one first")
    if any(update.release == digest for update in record.pending):
        raise UnknownError(f"an update makes release {name}: cancel it first")
    if digest in shelf.needed_bases():
        raise UnknownError(f"something on board, or on its way, builds on release {name}")
    if digest == record.golden:
        raise UnknownError(f"release {name} is the golden one, which is never deleted")


def _size_of(directory: Path, digest: bytes) -> int:
    try:
        return ReleaseDirectory.open(directory, digest).size_bytes
    except (StoreError, OSError):
        return 0
