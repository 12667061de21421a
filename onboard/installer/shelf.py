"""The confirmed releases on board: which serves, which to go back to, which may go.

Every change is linked and recorded before the release it replaces is drained, and a release is forgotten by the
record before its files are deleted. What pending updates make or build on stays, as the record names it, and so does
the base of an adapter that is on board.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from onboard import telemetry as events
from onboard.errors import StoreError, UnknownError
from onboard.installer.core import OnBoard, release_to_return_to, releases_to_delete
from onboard.installer.housekeeping import point_current
from onboard.installer.release import METADATA_NAME, delete_tree
from onboard.installer.serving import Serving, ServingProblem
from onboard.installer.threads import KeyedLocks, in_thread
from onboard.installer.trial import Candidate
from onboard.store.bases import base_of
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from onboard.store.record import KnownRelease, OnboardRecord, RecordStore
from onboard.telemetry import Telemetry
from protocol.adapters.names import NOTE_NAME
from protocol.objects import object_handle

_LISTING_HINT = "`skyloadd releases` lists what is on board"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The confirmed releases.

    Attributes:
        layout: where they lie.
        store: the trust record, loaded.
        serving: whatever serves.
        telemetry: events.
        keep_releases: how many stay, the serving one included.
        drain_timeout_s: how long a release that was replaced may finish its answers.
        crash_point: see `shell.Surroundings`.
        bases: digests of the releases that pending updates build on.
        on_room: called when releases were deleted.
        locks: one for each release, held while its files are built or deleted.
    """

    layout: StateLayout
    store: RecordStore
    serving: Serving
    telemetry: Telemetry
    keep_releases: int
    drain_timeout_s: float
    crash_point: Callable[[str], None]
    bases: Callable[[], Collection[bytes]]
    on_room: Callable[[], None] = lambda: None
    locks: KeyedLocks = field(default_factory=KeyedLocks)

    def candidate(self, digest: bytes, name: str) -> Candidate:
        """A sealed release as a trial takes it."""
        return Candidate(digest=digest, name=name, directory=self.layout.release(digest))

    def choose(self, digest: bytes | None, *, but: Collection[bytes] = ()) -> KnownRelease:
        """Return the release to serve instead of the current one; None means the one before, or the golden one at last.

        Args:
            digest: of the release.
            but: none of these is "the one before".

        Raises:
            UnknownError: there is none that may.
        """
        record = self.store.record
        if digest is None:
            found = release_to_return_to(
                _on_board(record),
                leaving={record.current, *but},
                previous=record.previous,
                floor=record.floor,
                golden=record.golden,
            )
            known = record.release(found.digest) if found else None
            if known is None:
                raise UnknownError("there is no release to go back to", hint=_LISTING_HINT)
            return known
        known = record.release(digest)
        if known is None:
            raise UnknownError(f"no confirmed release {digest.hex()[:16]} on board", hint=_LISTING_HINT)
        if known.sequence < record.floor and digest != record.golden:
            raise UnknownError(
                f"release {digest.hex()[:16]} has sequence {known.sequence}, below the floor {record.floor}",
                hint="a signed update forbade releases this old",
            )
        return known

    def make_current(self, known: KnownRelease, record: OnboardRecord) -> None:
        """Link, then record, that a release serves. The record decides: after a crash the link is mended.

        Args:
            known: the release.
            record: what else is to be recorded with it, in the same write.
        """
        self.link(known.digest)
        self.crash_point("linked")
        previous = record.current if record.current != known.digest else record.previous
        self.store.store(replace(record.with_release(known), current=known.digest, previous=previous))

    def link(self, digest: bytes) -> None:
        """Let `current` name a release. People follow it, we follow the record: so it is no reason to stop."""
        try:
            point_current(self.layout, digest)
        except (StoreError, OSError) as error:
            self.telemetry.emit(events.LINK_NOT_SET, release=digest.hex()[:16], error=str(error))

    async def drain(self, digest: bytes) -> None:
        """Let a release that was replaced finish its answers."""
        try:
            await self.serving.drain(digest, timeout_s=self.drain_timeout_s)
        except ServingProblem as error:
            self.telemetry.emit(events.OLD_NOT_DRAINED, release=digest.hex()[:16], error=str(error))
            with contextlib.suppress(ServingProblem):
                await self.serving.unload(digest)

    async def delete_unneeded(self) -> None:
        """Delete releases that nothing needs and nobody will go back to."""
        while goners := self._unneeded():  # asked again after each: meanwhile an update may have come that builds on it
            digest = goners[0]
            record = self.store.record.without_release(digest)
            previous = record.previous if record.previous != digest else None
            self.store.store(replace(record, previous=previous))
            self.crash_point("forgotten")
            if not await self.clear_away(digest):
                self.telemetry.emit(events.RELEASE_DELETED, release=digest.hex()[:16])
            self.on_room()

    def _unneeded(self) -> tuple[bytes, ...]:
        record = self.store.record
        made = {update.release for update in record.pending}
        return releases_to_delete(
            _on_board(record),
            serving=record.current,
            needed={self.serving.release, *made, *self.needed_bases(), *self._linked()},
            keep=self.keep_releases,
            floor=record.floor,
            golden=record.golden,
        )

    def _linked(self) -> Iterator[bytes]:
        """What people still follow the link to; a link that could not be set is tried again first."""
        record = self.store.record
        if record.current is not None:
            self.link(record.current)
        with contextlib.suppress(OSError):
            name = self.layout.current.readlink().name
            yield from (known.digest for known in record.releases if self.layout.release(known.digest).name == name)

    def needed_bases(self) -> frozenset[bytes]:
        """The releases that pending updates, or adapters on board, build on."""
        return frozenset((*self.bases(), *self._bases_of_adapters()))

    def _bases_of_adapters(self) -> Iterator[bytes]:
        releases = self.store.record.releases
        for release in releases:
            directory = self.layout.release(release.digest)
            base = base_of(directory)
            if base is not None and self.store.record.release(base) is not None:
                yield base
            elif (directory / NOTE_NAME).exists():  # it is damaged: until it is repaired, the base may be any of them
                yield from (other.digest for other in releases if other != release)

    async def clear_away(self, digest: bytes) -> str:
        """Delete what was built of a release, unless the record knows it or a pending update makes it.

        What the disk does not let go of is deleted by the next start; returns why it stays, empty if nothing does.
        """
        async with self.locks.of(digest):
            record = self.store.record
            if any(update.release == digest for update in record.pending):
                return ""  # signed again: what was built is half the way
            paths = [self.layout.release_part(digest)]
            if record.release(digest) is None:
                paths.append(self.layout.release(digest))
            problem = ""
            for path in paths:
                try:
                    await in_thread(delete_tree, path, RealDisk())
                except StoreError as error:
                    problem = str(error)
                    self.telemetry.emit(events.LEFTOVER_STAYS, name=path.name, error=problem)
            return problem

    def evidence(self) -> frozenset[bytes]:
        """Handles of the metadata objects that brought what is on board."""
        found = set()
        for release in self.store.record.releases:
            with contextlib.suppress(OSError):
                found.add(object_handle((self.layout.release(release.digest) / METADATA_NAME).read_bytes()))
        return frozenset(found)


def _on_board(record: OnboardRecord) -> list[OnBoard]:
    return [OnBoard(digest=release.digest, sequence=release.sequence) for release in record.releases]
