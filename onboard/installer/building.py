"""The release that an update makes, as far as it is built: what is needed for it, what is in place.

Between `prepare` and an obstacle it takes bundles; after an obstacle it is prepared again, for after a failed write
nothing that was open may be trusted. What was in place stays known meanwhile. Callers of what is asynchronous hold
the lock of the release: whoever clears it away holds it too.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from onboard.errors import InstallError, StoreCorruptError, StoreError
from onboard.installer.acceptance import open_release_key
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.guarding import add_guard, guard_room
from onboard.installer.release import ReleaseDirectory, delete_tree
from onboard.installer.threads import in_thread
from onboard.installer.update_file import AcceptedUpdate
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from protocol.ranges import RangeSet
from protocol.report import Reason


class Building:
    """See the module.

    Args:
        update: trusted.
        layout: of the state directory.
        satellite: our name.
        release_private_key: opens release keys.
        is_known: whether a confirmed release with that digest is on board.
        is_whole: the release is sealed already.
    """

    def __init__(
        self,
        update: AcceptedUpdate,
        layout: StateLayout,
        *,
        satellite: str,
        release_private_key: bytes,
        is_known: Callable[[bytes], bool],
        is_whole: bool = False,
    ) -> None:
        self.update = update
        self._layout, self._satellite, self._private_key = layout, satellite, release_private_key
        self._is_known = is_known
        self._assembly: Assembly | None = None
        self._is_whole = is_whole  # no bundle is wanted
        self._installed = RangeSet()

    @property
    def digest(self) -> bytes:
        """Digest of the release."""
        return self.update.manifest.release_digest

    @property
    def num_bundles(self) -> int:
        """Bundles of the update."""
        return len(self.update.manifest.bundles)

    @property
    def is_complete(self) -> bool:
        """Whether it can be sealed."""
        return self._is_whole or (self._assembly is not None and self._assembly.is_complete)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Bundles in place, as inclusive ranges."""
        if self._is_whole and self.num_bundles:
            return ((0, self.num_bundles - 1),)
        return tuple((first, stop - 1) for first, stop in self._installed)

    def has_bundle(self, number: int) -> bool:
        """Whether a bundle is in place, or not needed."""
        return self._is_whole or number in self._installed

    def stop(self) -> None:
        """Let go of what is open."""
        self._assembly = None

    async def prepare(self) -> None:
        """Get ready to take bundles, going on where an earlier life stopped.

        Raises:
            InstallError: why it cannot be built, now or ever.
        """
        manifest = self.update.manifest
        self._assembly = None
        release = self._layout.release(self.digest)
        if await in_thread(_is_sealed_and_whole, release, self.digest):
            await in_thread(_make_names_durable, release)
            self._is_whole = True
            with contextlib.suppress(StoreError):  # what was reserved to repair it; the next start deletes what is left
                await in_thread(_delete_part, self._layout.release_part(self.digest), RealDisk())
            return
        key = open_release_key(manifest, self._private_key, satellite=self._satellite)
        plan = Plan(manifest=manifest, release_key=key, base=self._base())
        part, room = self._layout.release_part(self.digest), guard_room(manifest)
        self._assembly = await in_thread(Assembly.open, part, plan, besides=room)
        self._installed = self._assembly.installed

    async def install(self, path: Path, number: int) -> None:
        """Put a bundle in place; its digest is the manifest's.

        Raises:
            InstallError: see `prepare` and `Assembly.install`.
        """
        if self._assembly is None:  # an error of ours came between
            await self.prepare()
        if self._assembly is not None:
            await in_thread(self._assembly.install, path, number)

    async def seal(self, crash_point: Callable[[str], None]) -> None:
        """Verify all files and give the release its name.

        Raises:
            InstallError: DIGEST_MISMATCH, or the disk refused.
        """
        assembly = self._assembly
        if assembly is not None:
            files = await in_thread(assembly.verify)
            crash_point("digests-right")
            # What is repaired has its guard: the very one that found the damage.
            add = (
                partial(add_guard, files=files, digest=self.digest) if not self.update.manifest.is_repair else _no_more
            )
            await in_thread(assembly.seal, self._layout.release(self.digest), self.update.metadata, add=add)
        self._assembly, self._is_whole = None, True

    def _base(self) -> ReleaseDirectory | None:
        base = self.update.manifest.base
        if base is None:
            return None
        if not self._is_known(base):
            raise InstallError(f"base {base.hex()[:16]} is not on board", reason=Reason.BASE_MISSING)
        try:
            return ReleaseDirectory.open(self._layout.release(base), base)
        except StoreCorruptError as error:
            raise InstallError(str(error), reason=Reason.BASE_DAMAGED) from error


def _make_names_durable(release: Path) -> None:
    """Whoever sealed it may have been killed before that was durable, and what is found is only remembered."""
    try:
        RealDisk().sync_directory(release)
        RealDisk().sync_directory(release.parent)
    except StoreError as error:
        raise InstallError(str(error), reason=Reason.DISK_FAILED, hint="check the medium") from error


def _delete_part(part: Path, disk: RealDisk) -> None:
    delete_tree(part, disk)
    disk.sync_directory(part.parent)  # once VERIFIED is recorded nobody looks for it any more


def _no_more(part: Path) -> None:
    """Nothing is added."""


def _is_sealed_and_whole(directory: Path, digest: bytes) -> bool:
    if not directory.exists():
        return False
    try:
        return not ReleaseDirectory.open(directory, digest).find_damage()
    except (StoreCorruptError, OSError):
        return False
