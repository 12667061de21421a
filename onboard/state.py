"""The state directory as the commands and the daemon open it: the lock, the record, the trusted root.

One process may write here. Reading the record needs no lock: whenever it is read, some copy of it is whole.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from onboard.config import Config, read_key, read_link_key
from onboard.errors import BusyError, ConfigError, StoreFailedError, UnknownError
from onboard.installer.housekeeping import point_current
from onboard.installer.release import ReleaseDirectory, copy_release, delete_tree, list_model_files
from onboard.model_check import check_model
from onboard.read_only import reading_disk
from onboard.store.ballast import Ballast
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout, make_state_directories
from onboard.store.record import RELEASES_MAX, KnownRelease, OnboardRecord, RecordStore
from onboard.store.roots import forget_roots, has_root_copies, keep_root, mend_root, read_root_copies
from onboard.store.slots import NUM_COPIES
from onboard.store.trust_facts import trust_state_of, with_trust
from protocol.errors import ProtocolError
from protocol.recipient_keys import PRIVATE_SIZES
from protocol.roots import read_root
from protocol.trust import command_keys

_PID_SIZE_MAX = 16
_OF_A_MOUNT_POINT = "lost+found"  # releases/ may be a disk of its own


@contextlib.contextmanager
def locked_state(config: Config) -> Iterator[StateLayout]:
    """Make the state directory if it is missing, and be the only one to write there.

    Raises:
        BusyError: another process does.
        StoreError: it cannot be made.
    """
    layout = layout_of(config)
    try:
        _make_durably(layout.state_dir.parent)
        make_state_directories(layout, RealDisk())
        handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreFailedError(
            f"{error.filename or layout.state_dir}: {error.strerror}",
            hint="satellite.state_dir must be on a disk we may write",
        ) from error
    try:
        _lock(handle, layout)
        yield layout
    finally:
        os.close(handle)


def open_record(layout: StateLayout) -> RecordStore:
    """Load the trust record and mend its copies; make it on the first day.

    Raises:
        StoreError: it is damaged, or the disk refused.
    """
    ballast = Ballast(layout.ballast)
    store = RecordStore(layout.record, make_room=ballast.drop)
    if store.load() is None:
        if _was_used(layout):
            raise _record_is_gone(layout)
        store.create(OnboardRecord())
    store.mend()
    ballast.hold()
    return store


def read_record(config: Config) -> tuple[StateLayout, OnboardRecord]:
    """Read the record beside a running daemon.

    Raises:
        UnknownError: there is none yet.
        StoreError: it is damaged.
    """
    layout = layout_of(config)
    record = RecordStore(layout.record, reading_disk(layout.state_dir)).load()
    if record is None and _was_used(layout):
        raise _record_is_gone(layout)
    if record is None:
        raise UnknownError(
            f"{layout.state_dir}: no satellite was ever started here", hint="skyloadd run, or skyloadd provision, first"
        )
    return layout, record


def check_kit(config: Config) -> None:
    """Make sure that keys and root can be used, before anything is made or changed.

    Raises:
        ConfigError: a key is missing or none, or the root is missing, none, or another depot's than state_dir.
    """
    read_link_key(config.link)
    read_key(config.trust.release_key_file, what="trust.release_key_file", sizes=PRIVATE_SIZES)
    read_key(config.trust.identity_key_file, what="trust.identity_key_file")
    trusted = _trusted_root(layout_of(config))
    try:
        offered = _kit_root(config)
    except ConfigError:
        if trusted is None:
            raise
        return  # it is not needed any more
    # Roots of one depot rise in version: two that differ and have the same one come from two depots.
    if trusted is not None and offered != trusted and _root_version(offered) == _root_version(trusted):
        raise ConfigError(
            f"{config.trust.root_file}: trust.root_file: state_dir belongs to a kit of another depot",
            hint="give this kit a satellite.state_dir of its own, or bring the kit back that it was made with",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRoot:
    """The root to begin with.

    Attributes:
        data: the trusted root, or the kit's.
        is_lost: it is older than the newest root ever trusted, whose copies are damaged: roots must come again.
        num_mended: copies that were made again.
    """

    data: bytes
    is_lost: bool = False
    num_mended: int = 0


def open_root(layout: StateLayout, config: Config, store: RecordStore) -> OpenedRoot:
    """Return the trusted root; on the first day, the kit's, which is recorded as trusted from then on.

    Never an older one in silence: whoever has revoked keys could be let in by a flipped bit.

    Raises:
        ConfigError: the kit's root is not readable, or not a root.
        StoreError: the disk refused.
    """
    record = store.record
    if record.root_digest is not None:
        trusted = read_root_copies(layout, record.root_digest)
        if trusted is not None:
            forget_roots(layout, but=record.root_digest)
            return OpenedRoot(data=trusted, num_mended=mend_root(layout, trusted))
    kit = read_root(_kit_root(config))
    if kit.version < record.root_version:
        return OpenedRoot(data=kit.data, is_lost=True)
    digest = keep_root(layout, kit.data)
    state = trust_state_of(record, kit.data).with_root(kit)
    store.store(with_trust(record, state, digest))
    return OpenedRoot(data=kit.data, num_mended=NUM_COPIES if record.root_digest is not None else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What came of it.

    Attributes:
        known: the release; one that was on board keeps its name.
        is_new: it was not on board.
        is_current: it serves, once the daemon runs.
        is_golden: it is never deleted, and serves when nothing else can.
        golden_before: the release in whose place it is golden now; None if it is not, or there was none.
    """

    known: KnownRelease
    is_new: bool
    is_current: bool
    is_golden: bool
    golden_before: KnownRelease | None


def provision(config: Config, model: Path, *, name: str, is_golden: bool = False) -> Provisioned:
    """Copy a model directory in as a confirmed release that serves: before launch, without a signature.

    One that is on board already is not copied: it keeps its name, and becomes what is asked.

    Args:
        config: of the satellite.
        model: the directory.
        name: what people call it, if it is new.
        is_golden: it is never deleted, and serves when nothing else can; what serves already goes on.

    Raises:
        BusyError: the daemon runs.
        ConfigError: the directory or the kit is not usable.
        StoreError: no space, or the disk refused; nothing is half done.
    """
    check_kit(config)
    list_model_files(model)
    if not config.engine.command:  # somebody's own engine may read what it likes
        check_model(model)
    with locked_state(config) as layout:
        store = open_record(layout)
        open_root(layout, config, store)
        record = store.record
        if record.floor > 0:
            raise ConfigError(
                "a signed update has set a floor: nothing may be provisioned any more",
                hint="stage an update on the ground instead",
            )
        release = copy_release(model, layout.releases)
        there = record.release(release.digest)
        known = there or KnownRelease(digest=release.digest, name=name, sequence=0)
        is_new = there is None
        if is_new and len(record.releases) >= RELEASES_MAX:
            delete_tree(release.directory, RealDisk())
            raise ConfigError(
                f"{len(record.releases)} releases are on board, and there is room for no more in the record",
                hint="start the daemon once: it deletes those beyond install.keep_releases",
            )
        record = record.with_release(known)
        golden_before = record.golden
        if is_golden:
            record = replace(record, golden=release.digest)
        if not is_golden or record.current is None:
            previous = record.current if record.current != release.digest else record.previous
            point_current(layout, release.digest)
            record = replace(record, current=release.digest, previous=previous)
        store.store(record)
        is_replaced = golden_before is not None and golden_before != record.golden
        return Provisioned(
            known=known,
            is_new=is_new,
            is_current=record.current == release.digest,
            is_golden=record.golden == release.digest,
            golden_before=record.release(golden_before) if golden_before and is_replaced else None,
        )


def find_release(record: OnboardRecord, prefix: str) -> KnownRelease:
    """Return the one confirmed release whose digest begins so.

    Raises:
        UnknownError: none, or several.
    """
    found = [known for known in record.releases if prefix and known.digest.hex().startswith(prefix.lower())]
    if len(found) != 1:
        names = ", ".join(known.digest.hex()[:16] for known in record.releases) or "none"
        problem = "several releases begin" if found else "no confirmed release begins"
        raise UnknownError(f"{problem} with {prefix!r}", hint=f"on board: {names}")
    return found[0]


def open_release(layout: StateLayout, known: KnownRelease) -> ReleaseDirectory:
    """Open a release that the record knows."""
    return ReleaseDirectory.open(layout.release(known.digest), known.digest)


def layout_of(config: Config) -> StateLayout:
    """Where a satellite's state lies, made or not.

    Raises:
        ConfigError: there is a file of that name.
    """
    state_dir = config.satellite.state_dir
    if state_dir.exists() and not state_dir.is_dir():
        raise ConfigError(
            f"{state_dir}: not a directory", key="satellite.state_dir", hint="Name a directory; it is made if missing."
        )
    return StateLayout(state_dir)


def _make_durably(directory: Path) -> None:
    """Make a directory and those above it, with names that survive a power cut."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        RealDisk().sync_directory(path.parent)


def take_lock(handle: int, layout: StateLayout) -> None:
    """Lock the open file that whoever works in a state directory holds.

    Raises:
        BusyError: another process works here.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(handle, _PID_SIZE_MAX, 0).decode("ascii", "replace").strip() or "unknown"
        raise BusyError(
            f"{layout.state_dir}: another skyloadd (process {pid}) works here",
            hint="`skyloadd status` shows how it is; stop it first, or use another state_dir",
        ) from None


def _lock(handle: int, layout: StateLayout) -> None:
    take_lock(handle, layout)
    with contextlib.suppress(OSError):  # the lock holds without its words, and must on a full disk
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def _trusted_root(layout: StateLayout) -> bytes | None:
    """The root that this satellite follows; None on the first day, or when all copies are damaged."""
    record = RecordStore(layout.record).load()
    if record is None or record.root_digest is None:
        return None
    return read_root_copies(layout, record.root_digest)


def _kit_root(config: Config) -> bytes:
    path = config.trust.root_file
    try:
        root = path.read_bytes()
        command_keys(root)
    except OSError as error:
        raise ConfigError(f"{path}: trust.root_file: {error.strerror}", hint="The kit holds it.") from error
    except ProtocolError as error:
        raise ConfigError(f"{path}: trust.root_file: {error}", hint="Copy it from the kit again.") from error
    return root


def _root_version(root: bytes) -> int:
    return int(json.loads(root)["signed"]["version"])


def _record_is_gone(layout: StateLayout) -> StoreFailedError:
    return StoreFailedError(
        f"{layout.record}: it is gone, but there are releases, or a trusted root",
        hint="restore it from a copy; without it old updates could be replayed. Or move the directory away",
    )


def _was_used(layout: StateLayout) -> bool:
    """Whether there is what comes only after the record: releases, or copies of a trusted root."""
    with contextlib.suppress(OSError):
        if any(path.name != _OF_A_MOUNT_POINT for path in layout.releases.iterdir()):
            return True
    return has_root_copies(layout)
