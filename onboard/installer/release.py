"""A sealed release on disk: its file list, its digests, and how it is copied in, checked and deleted.

    DIGEST16/NAME            the files
    DIGEST16/.sha256sums     the file list in the form `sha256sum` prints it; the SHA-256 of this file is the
                             digest of the release, so it proves itself, and `sha256sum -c .sha256sums` checks the rest
    DIGEST16/.metadata.skm   the metadata object that brought it, as evidence (absent for what was there at launch)

Blocking; memory is bounded whatever the files' size. It does not know which release serves, or why.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from onboard.errors import ConfigError, InstallError, StoreCorruptError, StoreError
from onboard.installer.threads import check_stop
from onboard.scrub.medium import hash_medium
from onboard.store.disk import Disk, RealDisk, write_all, write_all_at
from onboard.store.wiping import overwrite_file
from protocol.limits import FILES_MAX
from protocol.manifest import FileEntry, SizedFile, release_digest
from protocol.names import is_safe_name
from protocol.report import Reason

SUMS_NAME = ".sha256sums"
METADATA_NAME = ".metadata.skm"
_READ_SIZE = 1024 * 1024
_SUMS_SIZE_MAX = FILES_MAX * 256
_SUMS_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDamage:
    """A file of a release that is not what it was.

    Attributes:
        name: which.
        problem: in words.
    """

    name: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDirectory:
    """A sealed release whose file list was checked against its digest; its files were not.

    Attributes:
        directory: where it lies.
        digest: of the release.
        files: rising by name; sizes as they are now.
    """

    directory: Path
    digest: bytes
    files: tuple[FileEntry, ...]

    @classmethod
    def open(cls, directory: Path, digest: bytes) -> "ReleaseDirectory":
        """Read a release's file list.

        Raises:
            StoreCorruptError: it is not there, or is not the list of the release with that digest.
        """
        path = directory / SUMS_NAME
        try:
            with path.open("rb") as file:
                data = file.read(_SUMS_SIZE_MAX + 1)
        except OSError as error:
            raise StoreCorruptError(
                str(path), expected="a file list", got=error.strerror or "nothing", hint="revert, or send it again"
            ) from error
        got = hashlib.sha256(data).digest()
        if got != digest:
            raise StoreCorruptError(
                str(path), expected=f"digest {digest.hex()[:16]}", got=got.hex()[:16], hint="revert, or send it again"
            )
        try:
            files = tuple(_parse_sums(data.decode(), directory))
        except OSError as error:
            raise StoreCorruptError(
                str(error.filename or directory),
                expected="a file",
                got=error.strerror or "nothing",
                hint="revert, or send it again",
            ) from error
        return cls(directory=directory, digest=digest, files=files)

    @staticmethod
    def sums(files: Iterable[FileEntry]) -> bytes:
        """Return the bytes of a file list."""
        entries = sorted(files, key=lambda entry: entry.name)
        return "".join(f"{entry.sha256.hex()}  {entry.name}\n" for entry in entries).encode()

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return sum(entry.size_bytes for entry in self.files)

    def find_damage(self, tell: Callable[[str], None] = lambda name: None) -> list[FileDamage]:
        """Read every file and compare it with the list; `tell` is called before each."""
        damage = []
        for entry in self.files:
            tell(entry.name)
            try:
                _, sha256 = hash_file(self.directory / entry.name)
            except OSError as error:
                damage.append(FileDamage(name=entry.name, problem=error.strerror or str(error)))
                continue
            if sha256 != entry.sha256:
                problem = f"SHA-256 is {sha256.hex()[:16]}..., not {entry.sha256.hex()[:16]}..."
                damage.append(FileDamage(name=entry.name, problem=problem))
        known = {entry.name for entry in self.files}
        strangers = sorted(path.name for path in self.directory.iterdir() if not path.name.startswith("."))
        damage += [FileDamage(name=name, problem="does not belong here") for name in strangers if name not in known]
        return damage


def hash_file(path: Path) -> tuple[int, bytes]:
    """Return size and SHA-256 of a file, as the medium holds it, and not as the kernel remembers it.

    Raises:
        OSError: it is not there, or not a file.
    """
    path.stat()
    return hash_medium(path, RealDisk(), lambda size: check_stop())


def hash_written(disk: Disk, path: Path) -> tuple[int, bytes]:
    """Return size and SHA-256 of a file that was written through a disk."""
    if isinstance(disk, RealDisk):
        return hash_file(path)
    handle = disk.open(path)
    try:
        digest, size = hashlib.sha256(), 0
        while part := disk.read(handle, _READ_SIZE, size):
            digest.update(part)
            size += len(part)
        return size, digest.digest()
    finally:
        disk.close(handle)


def hash_files(disk: Disk, directory: Path, files: Iterable[SizedFile]) -> tuple[FileEntry, ...]:
    """Return files that were written through a disk, each with its SHA-256.

    Raises:
        InstallError: DIGEST_MISMATCH, one has another size.
    """
    found = []
    for file in files:
        size, sha256 = hash_written(disk, directory / file.name)
        if size != file.size_bytes:
            problem = f"{file.name} has {size} bytes, {file.size_bytes} were signed"
            raise InstallError(problem, reason=Reason.DIGEST_MISMATCH, hint="stage it again")
        found.append(FileEntry(name=file.name, size_bytes=size, sha256=sha256))
    return tuple(found)


def list_model_files(directory: Path) -> list[Path]:
    """Return the files of a model directory that make its release, rising by name.

    Raises:
        ConfigError: it is not a directory of plain files with safe names.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: is not a directory", hint="Give a model directory (config.json, ...).")
    files = sorted((path for path in directory.iterdir() if not path.name.startswith(".")), key=lambda p: p.name)
    for path in files:
        if not path.is_file() or not is_safe_name(path.name):
            raise ConfigError(
                f"{path}: a release holds plain files with names of A-Z a-z 0-9 . _ - only",
                hint="Move it out of the directory.",
            )
    if not files or len(files) > FILES_MAX:
        raise ConfigError(f"{directory}: {len(files)} files are not in 1..{FILES_MAX}", hint="Give a model directory.")
    return files


def copy_release(source: Path, releases: Path, *, tell: Callable[[str], None] = lambda name: None) -> ReleaseDirectory:
    """Copy a model directory in as a sealed release, durably; one that is there already is left as it is.

    Raises:
        ConfigError: the directory is not usable.
        StoreFullError, StoreFailedError: the disk refused; nothing is left behind.
    """
    disk = RealDisk()
    part = releases / "provision.part"
    delete_tree(part, disk)
    disk.make_directory(part)
    try:
        entries = []
        for path in list_model_files(source):
            tell(path.name)
            entries.append(_copy_file(disk, path, part / path.name))
        digest = release_digest(entries)
        target = releases / digest.hex()[:16]
        if not target.exists():
            write_file(disk, part / SUMS_NAME, ReleaseDirectory.sums(entries))
            disk.sync_directory(part)
            disk.rename(part, target)
        disk.sync_directory(releases)  # also if it was there: whoever named it may have been killed before this
    finally:
        delete_tree(part, disk)
    return ReleaseDirectory.open(target, digest)


def delete_tree(directory: Path, disk: Disk) -> None:
    """Delete a directory of plain files, if it is there; what is mapped is freed when the last reader lets go."""
    for name in disk.list_directory(directory):
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # an engine's cache; never ours
            continue
        if name == METADATA_NAME:  # it holds the wrapped key, which must not be left in free blocks
            with contextlib.suppress(StoreError, FileNotFoundError):
                overwrite_file(path, disk)
        disk.unlink(path)
    disk.remove_directory(directory)


def write_file(disk: Disk, path: Path, data: bytes) -> None:
    """Write a new file and make its bytes durable; its name is for the caller to sync."""
    disk.unlink(path)
    handle = disk.open(path, create=True)
    try:
        write_all(disk, handle, data)
        disk.sync(handle)
    finally:
        disk.close(handle)


def _copy_file(disk: Disk, source: Path, target: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    handle = disk.open(target, create=True)
    try:
        with source.open("rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size
            if length:
                disk.allocate(handle, 0, length)
            while part := file.read(_READ_SIZE):
                digest.update(part)
                write_all_at(disk, handle, part, size)
                size += len(part)
        disk.truncate(handle, size)
        disk.sync(handle)
    finally:
        disk.close(handle)
    return FileEntry(name=source.name, size_bytes=size, sha256=digest.digest())


def _parse_sums(text: str, directory: Path) -> Iterable[FileEntry]:
    for line in text.splitlines():
        match = _SUMS_LINE.fullmatch(line)
        if match is None or not is_safe_name(match.group(2)):
            raise StoreCorruptError(str(directory / SUMS_NAME), expected="lines of sha256sum", got=repr(line))
        path = directory / match.group(2)
        size = path.stat().st_size if path.is_file() else 0
        yield FileEntry(name=match.group(2), size_bytes=size, sha256=bytes.fromhex(match.group(1)))
