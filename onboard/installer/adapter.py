"""What an adapter needs after its bundles are in place and before its release is sealed.

- Merged: the release's files are made of the base and the adapter by the rule of `protocol.adapters`, file by file,
  each synced and noted in the progress, so that a power cut costs at most the file that was being made. While it is
  built the adapter lies beside them under hidden names (`carried_files`); `Assembly.seal` lets go of it.
- Served beside its base: nothing is made, but the base must be there, whole, and be the one that the release names.

Either way every file of the base is verified first, once for each update. Driven by `Assembly.verify`, on board and in
the twin. Memory is bounded by `protocol.adapters.merge`. It does not know bundles, or what the release is good for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from onboard.errors import InstallError
from onboard.installer.progress import Progress
from onboard.installer.release import ReleaseDirectory, hash_files
from onboard.installer.threads import check_stop
from onboard.store.disk import Disk, write_all_at
from protocol.adapters import base_note
from protocol.adapters.config import CONFIG_SIZE_MAX
from protocol.adapters.errors import AdapterError
from protocol.adapters.header import Source
from protocol.adapters.merge import Adapter, Merge
from protocol.adapters.names import CONFIG_NAME, NOTE_NAME, WEIGHTS_NAME
from protocol.manifest import Manifest, SizedFile, release_digest
from protocol.report import Reason

_HIDDEN = "."


def carried_files(manifest: Manifest) -> tuple[SizedFile, ...]:
    """What the bundles turn into, under the names that it has while the release is built."""
    if not manifest.is_merged:
        return manifest.files
    return tuple(replace(entry, name=_HIDDEN + entry.name) for entry in manifest.carried_files)


def laid_out_files(manifest: Manifest) -> tuple[SizedFile, ...]:
    """All files that lie in the release's directory while it is built."""
    return (*carried_files(manifest), *manifest.files) if manifest.is_merged else manifest.files


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStep:
    """See the module.

    Attributes:
        part: where the release is built.
        manifest: trusted, of an adapter.
        base: the release that it names.
        disk: where both lie.
        progress: of the building.
        verify_base: makes sure that a file of the base is what it was.
        read_base: (file, offset, size) of the base, exactly; raises InstallError.
    """

    part: Path
    manifest: Manifest
    base: ReleaseDirectory
    disk: Disk
    progress: Progress
    verify_base: Callable[[int], None]
    read_base: Callable[[int, int, int], bytes]

    def run(self) -> None:
        """Make what is to be made; what an earlier life made is left as it is.

        Raises:
            InstallError: BASE_DAMAGED, DIGEST_MISMATCH, BUNDLE_DAMAGED.
            StoreError: the disk refused.
        """
        for number in range(len(self.base.files)):
            self.verify_base(number)
        try:
            if self.manifest.is_merged:
                self._merge()
            elif base_note.decode(self._read_file(NOTE_NAME, base_note.NOTE_SIZE_MAX + 1)) != self.manifest.base:
                raise AdapterError(f"{NOTE_NAME} names another base than the manifest")
        except AdapterError as error:
            raise InstallError(str(error), reason=Reason.BUNDLE_DAMAGED, hint="stage the update again") from error

    def _merge(self) -> None:
        expected = [(entry.name, entry.size_bytes) for entry in self.manifest.files]
        if expected != [(entry.name, entry.size_bytes) for entry in self.base.files]:
            raise InstallError("its files are not those of its base", reason=Reason.DIGEST_MISMATCH)
        if len(self.progress.merged) == len(expected):
            return
        weights = self._checked_adapter()
        handle = self.disk.open(self.part / weights.name)
        try:
            config = self._read_file(_HIDDEN + CONFIG_NAME, CONFIG_SIZE_MAX + 1)
            source = Source(size_bytes=weights.size_bytes, read=lambda at, size: self._read(handle, at, size))
            merge = Merge.plan(Adapter.read(config, source), self._base_sources())
            for number, (name, _) in enumerate(expected):
                if number not in self.progress.merged:
                    self._write(merge, name)
                    self.progress.note_merged(number)
        finally:
            self.disk.close(handle)

    def _checked_adapter(self) -> SizedFile:
        """Read back what the bundles turned into; returns the file of its weights."""
        carried = carried_files(self.manifest)
        found = hash_files(self.disk, self.part, carried)
        named = (replace(entry, name=entry.name.removeprefix(_HIDDEN)) for entry in found)
        if self.manifest.adapter is None or release_digest(named) != self.manifest.adapter.digest:
            raise InstallError("the adapter is not what was signed", reason=Reason.DIGEST_MISMATCH)
        return next(entry for entry in carried if entry.name == _HIDDEN + WEIGHTS_NAME)

    def _base_sources(self) -> dict[str, Source]:
        def source(number: int, entry: SizedFile) -> Source:
            return Source(size_bytes=entry.size_bytes, read=lambda at, size: self.read_base(number, at, size))

        return {entry.name: source(number, entry) for number, entry in enumerate(self.base.files)}

    def _write(self, merge: Merge, name: str) -> None:
        handle, at = self.disk.open(self.part / name), 0
        try:
            for block in merge.blocks(name):
                check_stop()
                write_all_at(self.disk, handle, block, at)
                at += len(block)
            self.disk.sync(handle)
        finally:
            self.disk.close(handle)

    def _read(self, handle: int, offset: int, size: int) -> bytes:
        parts, at = [], offset
        while at < offset + size:
            part = self.disk.read(handle, offset + size - at, at)
            if not part:
                raise AdapterError(f"{WEIGHTS_NAME}: ends at {at}, {offset + size} bytes were expected")
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def _read_file(self, name: str, size_max: int) -> bytes:
        handle = self.disk.open(self.part / name)
        try:
            return self._read(handle, 0, min(size_max, self.disk.size(handle)))
        finally:
            self.disk.close(handle)
