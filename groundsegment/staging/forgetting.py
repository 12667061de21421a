"""Forgetting a release on the ground: after this, no file of the depot can be turned into it again.

The key of a release is in the depot in the clear only while it is being staged. From then on there are wrapped copies
for the satellites, in each update's metadata and manifest: with those gone, its bundles are noise. So metadata and
manifests are overwritten, synced and deleted first, then the bundles, then what is left of an unfinished staging with
its key. The history (that it was staged, flew, was confirmed) stays in the database, and says that it was forgotten.

What this cannot reach is said, not hidden: see `Forgotten.stays`.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FORGOTTEN_HERE, FORGOTTEN_ON_BOARD, FlightState, Update
from groundsegment.errors import InputError
from groundsegment.signer.key_store import sync_directory
from groundsegment.staging.workplace import discard_unfinished
from protocol.frame import HANDLE_SIZE
from protocol.message import MessageKind

_RECEIPTS = 4  # of the newest: one of them says what served


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was forgotten, or would be.

    Attributes:
        digest: of the release.
        name: as its newest update called it.
        updates: handles of its updates.
        num_keys: files with a wrapped key that were overwritten.
        bundle_bytes: of bundles that were deleted.
        stays: what is still readable somewhere, one sentence each.
    """

    digest: bytes
    name: str
    updates: tuple[bytes, ...]
    num_keys: int
    bundle_bytes: int
    stays: tuple[str, ...]


def look(depot: Depot, digest: bytes, *, asked: str | None = None) -> Forgotten:
    """What `forget` would do.

    Args:
        depot: the ground's.
        digest: of the release.
        asked: a satellite that is asked over a link first. What came of an update that it has in full is known there
            before it is known here, and it does not forget what is under way.

    Raises:
        InputError: an update to it is under way.
    """
    updates = _ended_updates(depot, digest, asked)
    files = [path for entry in updates for path in _key_files(entry) if path.exists()]
    sizes = [path.stat().st_size for entry in updates for path in _bundle_files(entry)]
    return _forgotten(depot, digest, updates, num_keys=len(files), bundle_bytes=sum(sizes))


def forget(depot: Depot, digest: bytes) -> Forgotten:
    """Wipe every key of a release in the depot, and its bundles. May be called again after an interruption.

    Raises:
        InputError: an update to it is under way.
        BusyError: somebody is staging.
    """
    with depot.lock("stage"):
        updates = _ended_updates(depot, digest)
        done = look(depot, digest)
        num_keys = sum(wipe(path) for entry in updates for path in _key_files(entry))
        for entry in updates:
            _mark(depot, entry, FORGOTTEN_HERE)
            shutil.rmtree(entry.directory, ignore_errors=True)
        num_keys += discard_unfinished(depot)
        shutil.rmtree(depot.path / "adapters" / digest.hex()[:16], ignore_errors=True)
    return _forgotten(depot, digest, updates, num_keys=num_keys, bundle_bytes=done.bundle_bytes)


def refuse_serving(depot: Depot, digest: bytes, satellite: str) -> None:
    """Refuse what the satellite would refuse after two steps through the link.

    A report may be older than a `revert` that was answered since. So where the newest receipt names another release,
    it is for the satellite to say.

    Raises:
        InputError: it said last that this release serves.
    """
    heard = depot.journal.last_report(satellite)
    receipts = depot.journal.messages(satellite, kind=str(MessageKind.RECEIPT), newest=_RECEIPTS)
    signed = {receipt.counter: receipt.body["serving"] for receipt in receipts if receipt.body.get("serving")}
    is_contradicted = bool(signed) and signed[max(signed)] != digest.hex()
    if heard is not None and heard.report.serving == digest[:HANDLE_SIZE] and not is_contradicted:
        hint = f"`skyload revert --for {satellite}` first; if that is done, `skyload ask` hears what serves now"
        raise InputError(f"{satellite} reported serving this release: what serves is not forgotten", hint=hint)


def mark_on_board(depot: Depot, digest: bytes, satellite: str) -> None:
    """Remember that a satellite said that it forgot a release: no update may build on it any more."""
    for entry in depot.updates(satellite):
        if entry.release_digest != digest:
            continue
        if entry.state is FlightState.COMPLETE:  # nothing can come of it any more, whatever its receipt will say
            depot.set_update_state(entry.handle, FlightState.CANCELLED, reason=FORGOTTEN_ON_BOARD)
        else:
            _mark(depot, entry, FORGOTTEN_ON_BOARD)


def wipe(path: Path) -> bool:
    """Overwrite a file with zeros, durably, then delete it; False if it is not there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        left = os.fstat(descriptor).st_size
        while left > 0:
            left -= os.write(descriptor, bytes(min(left, 1 << 16)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    sync_directory(path.parent)
    return True


def _mark(depot: Depot, entry: Update, word: str) -> None:
    reason = depot.update(entry.handle).reason
    if word not in reason:
        depot.set_update_state(entry.handle, entry.state, reason=f"{reason}; {word}" if reason else word)


def _ended_updates(depot: Depot, digest: bytes, asked: str | None = None) -> tuple[Update, ...]:
    updates = tuple(entry for entry in depot.updates() if entry.release_digest == digest)
    for entry in updates:
        is_asked = entry.satellite == asked and entry.state is FlightState.COMPLETE
        if entry.state.is_open and not is_asked:
            hint = f"skyload cancel {entry.handle.hex()} --for {entry.satellite}"
            raise InputError(f"update {entry.handle.hex()} to it is {entry.state}: cancel it first", hint=hint)
    return updates


def _key_files(entry: Update) -> tuple[Path, ...]:
    return entry.metadata_path, entry.manifest_path


def _bundle_files(entry: Update) -> list[Path]:
    return sorted(entry.directory.glob("*.skb")) if entry.directory.is_dir() else []


def _forgotten(
    depot: Depot, digest: bytes, updates: tuple[Update, ...], *, num_keys: int, bundle_bytes: int
) -> Forgotten:
    stays = []
    registered = next((entry for entry in depot.releases() if entry.digest == digest), None)
    if registered is not None and registered.path.exists():
        stays.append(f"the model it was staged from, {registered.path}: it is yours, delete it yourself")
    for satellite in sorted({entry.satellite for entry in updates}):
        stations = ", ".join(station.name for station in depot.stations(satellite))
        if stations:
            stays.append(f"copies of bundles and metadata at stations ({stations}): only {satellite} can open them")
    stays.append("backups of the depot, and recordings of the link: only a satellite it was wrapped for can open them")
    stays.append("what flash or a copying file system keeps of overwritten blocks until it erases them")
    return Forgotten(
        digest=digest,
        name=updates[-1].release_name if updates else "",
        updates=tuple(entry.handle for entry in updates),
        num_keys=num_keys,
        bundle_bytes=bundle_bytes,
        stays=tuple(stays),
    )
