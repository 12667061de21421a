"""The metadata objects of updates that are pending or ended lately: what the handles in the record stand for.

    STATE_DIR/update-HANDLE.skm     the object's bytes, written before the record speaks of it

Its trust was decided when it was accepted, and its bytes are held by the digest in the record; so after a restart
it is only decoded. A file that our medium damaged is told from a wrong one by the same digest: the copy beside the
sealed release does as well, and so does the object, sent again by anybody. Expiry is never asked again: a satellite
must not lose what it has because time went by.
"""

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onboard.errors import StoreCorruptError, StoreError
from onboard.installer.release import METADATA_NAME
from onboard.store.disk import RealDisk, read_start, replace_file
from onboard.store.layout import StateLayout
from onboard.store.record import RecordedUpdate
from onboard.store.wiping import overwrite_file
from protocol.errors import ProtocolError
from protocol.limits import METADATA_SIZE_MAX
from protocol.manifest import Manifest
from protocol.metadata import MetadataBundle
from protocol.objects import handle_of_digest, object_handle
from protocol.sealed_metadata import open_metadata

_PATTERN = "update-*.skm*"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedUpdate:
    """A trusted update.

    Attributes:
        handle: of its metadata object.
        metadata: the object.
        manifest: of the update.
        numbers: bundle number by the digest of the bundle.
        bundle_numbers: the same by handle.
    """

    handle: bytes
    metadata: bytes
    manifest: Manifest
    numbers: dict[bytes, int]
    bundle_numbers: dict[bytes, int]


def accepted_update(metadata: bytes, manifest: Manifest) -> AcceptedUpdate:
    """Make one of a metadata object that is trusted."""
    numbers = {entry.digest: number for number, entry in enumerate(manifest.bundles)}
    return AcceptedUpdate(
        handle=object_handle(metadata),
        metadata=metadata,
        manifest=manifest,
        numbers=numbers,
        bundle_numbers={handle_of_digest(digest): number for digest, number in numbers.items()},
    )


def keep_update(state_dir: Path, update: AcceptedUpdate) -> None:
    """Make an update durable, beside an older one.

    Raises:
        StoreFullError, StoreFailedError: the disk refused.
    """
    replace_file(update_path(state_dir, update.handle), update.metadata)


def read_update(layout: StateLayout, update: RecordedUpdate, *, private_key: bytes, satellite: str) -> AcceptedUpdate:
    """Read the update that the record speaks of; our private key opens it if it is sealed.

    Raises:
        StoreCorruptError: it is not there, or not what it was.
    """
    path = update_path(layout.state_dir, update.handle)
    try:
        data = _read(path, update)
    except StoreCorruptError:
        data = _read(layout.release(update.release) / METADATA_NAME, update)
        with contextlib.suppress(StoreError):  # it is mended by the next start, or is there once as it is now
            replace_file(path, data)
    try:
        opened = open_metadata(data, private_key, satellite=satellite)
        return accepted_update(data, Manifest.decode(MetadataBundle.decode(opened).manifest))
    except ProtocolError as error:
        raise StoreCorruptError(str(path), expected="an update", got=str(error)) from error


def restore_update(layout: StateLayout, update: RecordedUpdate, path: Path) -> None:
    """Keep the object at `path` as the update that the record speaks of, and whose file is damaged.

    Raises:
        StoreCorruptError: it is another one.
        StoreFullError, StoreFailedError: the disk refused.
    """
    replace_file(update_path(layout.state_dir, update.handle), _read(path, update))


def _read(path: Path, update: RecordedUpdate) -> bytes:
    try:
        data = read_start(path, METADATA_SIZE_MAX)
    except OSError as error:
        raise StoreCorruptError(str(path), expected="an update", got=error.strerror or "nothing") from error
    got = hashlib.sha256(data).digest()
    if handle_of_digest(got) != update.handle or update.metadata not in {b"", got}:
        raise StoreCorruptError(str(path), expected=f"update {update.handle.hex()}", got=got.hex())
    return data


def forget_updates(state_dir: Path, *, but: Iterable[bytes]) -> None:
    """Delete updates that no record speaks of any more, and overwrite the wrapped keys in them first."""
    disk, kept = RealDisk(), {update_path(state_dir, handle) for handle in but}
    for path in state_dir.glob(_PATTERN):
        if path not in kept:
            with contextlib.suppress(StoreError, FileNotFoundError):
                overwrite_file(path, disk)
            disk.unlink(path)


def update_path(state_dir: Path, handle: bytes) -> Path:
    """The file of an update."""
    return state_dir / f"update-{handle.hex()}.skm"
