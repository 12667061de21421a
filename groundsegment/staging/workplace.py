"""The workplace: where one plan is packed, under which key, until it becomes an update; survives being killed.

    staging/PLAN/              bundles and their index (`packer.bundles`); PLAN is 16 hex digits of the plan's digest
    keys/release/PLAN.key      the release key they are encrypted with, 64 hex digits, mode 0600

One goes with the other: bundles without their key, or a key without its bundles, are thrown away. `register` renames
the directory into `updates/` and then writes the database row; killed in between, the next `open_workplace` takes the
directory back. The key is deleted once the update is registered: then only the satellite can open the bundles.
Only one plan is kept unfinished. The caller holds the depot's `stage` lock.
"""

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import METADATA_NAME, Bundle, RegisteredRelease, Update
from groundsegment.errors import UnknownError
from groundsegment.packer.bundles import INDEX_NAME, PackedBundle, bundle_name, write_durably
from groundsegment.signer.key_store import sync_directory, write_new
from protocol.frame import HANDLE_SIZE
from protocol.link_keys import RELEASE_KEY_SIZE

TWIN_DIRECTORY = "twin"
_NAME_LENGTH = 16
_NAME = re.compile(rb"[0-9a-f]{16}")
_KEY = re.compile(rb"[0-9a-f]{%d}\n" % (2 * RELEASE_KEY_SIZE))
_HANDLE = re.compile(rf"[0-9a-f]{{{2 * HANDLE_SIZE}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where one plan is packed.

    Attributes:
        depot: whose.
        path: the directory for its bundles.
        key_path: the file of its release key.
        release_key: what its bundles are encrypted with.
    """

    depot: Depot
    path: Path
    key_path: Path
    release_key: bytes

    def register(
        self,
        update: Update,
        manifest: bytes,
        metadata: bytes,
        release: RegisteredRelease,
        packed: Sequence[PackedBundle],
    ) -> Update:
        """Make an update of what was packed; returns it as the depot has it."""
        shutil.rmtree(self.path / TWIN_DIRECTORY, ignore_errors=True)  # kept for its log by a run that failed
        update.manifest_path.parent.mkdir(mode=0o700, exist_ok=True)
        write_durably(update.manifest_path, manifest)
        write_durably(self.path / METADATA_NAME, metadata)
        directory = update.directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        self.path.rename(directory)
        sync_directory(directory.parent)
        bundles = [
            Bundle(
                update=update.handle,
                number=number,
                sha256=entry.sha256,
                size_bytes=entry.size_bytes,
                num_segments=entry.num_segments,
                path=directory / bundle_name(number),
            )
            for number, entry in enumerate(packed)
        ]
        self.depot.register_release(release)
        self.depot.add_update(update, bundles)
        _forget(directory, self.key_path)
        return self.depot.update(update.handle)


def open_workplace(depot: Depot, plan_digest: str) -> Workplace:
    """Return the workplace of a plan: the one an interrupted run left, or a new one."""
    _take_back(depot)
    name = plan_digest[:_NAME_LENGTH]
    path, key_path = depot.staging_path / name, _key_path(depot, name)
    _discard_others(depot, name)
    release_key = _read_key(key_path) if path.is_dir() else None
    if release_key is None:
        _discard(depot, name)
        key_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        release_key = secrets.token_bytes(RELEASE_KEY_SIZE)
        write_new(key_path, release_key.hex().encode() + b"\n", mode=0o600)
        path.mkdir(parents=True)
    return Workplace(depot=depot, path=path, key_path=key_path, release_key=release_key)


def _read_key(path: Path) -> bytes | None:
    """Return a release key; None if there is none, or a disk changed it: then its bundles are of no use."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return bytes.fromhex(data.decode()) if _KEY.fullmatch(data) else None


def discard_unfinished(depot: Depot) -> int:
    """Throw away what was packed and never registered, its key first of all; returns how many keys there were.

    The caller holds the depot's `stage` lock.
    """
    _take_back(depot)
    keys = list((depot.keys_path / "release").glob("*.key"))
    _discard_others(depot, "")
    return len(keys)


def _take_back(depot: Depot) -> None:
    """Settle directories in `updates/` whose registration was interrupted: they still have their index."""
    for index in depot.updates_path.glob(f"*/{INDEX_NAME}"):
        directory, name = index.parent, _plan_name(index)
        if not _HANDLE.fullmatch(directory.name):
            continue  # none of ours
        is_registered = _is_registered(depot, directory.name)
        if is_registered:
            _forget(directory, None if name is None else _key_path(depot, name))
        elif name is None:
            shutil.rmtree(directory)  # a disk changed its index: nobody can tell which key its bundles are under
        else:
            depot.staging_path.mkdir(exist_ok=True)
            shutil.rmtree(depot.staging_path / name, ignore_errors=True)
            directory.rename(depot.staging_path / name)


def _plan_name(index: Path) -> str | None:
    """The name of the plan that an index begins with; None if it does not: it is to be a path of ours."""
    with index.open("rb") as file:
        data = file.read(_NAME_LENGTH)
    return data.decode() if _NAME.fullmatch(data) else None


def _is_registered(depot: Depot, name: str) -> bool:
    try:
        depot.update(bytes.fromhex(name))
    except UnknownError:
        return False
    return True


def _forget(directory: Path, key_path: Path | None) -> None:
    if key_path is not None:
        key_path.unlink(missing_ok=True)
    (directory / INDEX_NAME).unlink()


def _discard_others(depot: Depot, kept: str) -> None:
    names = {path.name for path in depot.staging_path.glob("*")}
    names |= {path.stem for path in (depot.keys_path / "release").glob("*.key")}
    for name in names - {kept}:
        _discard(depot, name)


def _discard(depot: Depot, name: str) -> None:
    # The key goes last: bundles that nobody can open would be taken for finished ones.
    shutil.rmtree(depot.staging_path / name, ignore_errors=True)
    _key_path(depot, name).unlink(missing_ok=True)


def _key_path(depot: Depot, name: str) -> Path:
    return depot.keys_path / "release" / f"{name}.key"
