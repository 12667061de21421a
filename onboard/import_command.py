"""`skyloadd import`: objects come in as files, from any medium.

Copies what may be one of ours into the spool, and asks the daemon, if one runs, to take it from there.
Every file is hostile: only regular files are opened, no symbolic links, nothing that could block; no more is read than
the size that its prefix says, which its kind bounds, and never all of it at once. A copy is durable before anything
good is said of it. What is in the object is judged by the daemon, which takes it as if it had come by the link.

A stick is carried both ways: what `export-messages` wrote on it is for the ground, is passed over and told. In a
directory, files that are none of ours by name and by content are not even told; named one by one, they are refused.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onboard.config import Config
from onboard.control_socket import ask_daemon
from onboard.errors import BusyError, ConfigError, OnboardError, StoreFailedError, StoreFullError
from onboard.file_import import Fortune
from onboard.spool import LOCK_NAME, SourceChangedError, Spool
from onboard.state import layout_of
from onboard.store.disk import RealDisk
from onboard.store.layout import make_state_directories
from protocol.errors import DecodeError
from protocol.file_names import claimed_handle, goes_up, has_our_suffix
from protocol.objects import PREFIX_SIZE, ObjectKind, handle_of_digest, parse_prefix

_READ_BYTES = 1 << 20
_FILES_MAX = 20_000  # of one directory: more than all bundles of several updates
_UP = (ObjectKind.METADATA, ObjectKind.COMMAND, ObjectKind.BUNDLE)  # in the order in which they are best taken
_FOR_THE_GROUND = "for the ground: `skyload import` takes it there"
_NO_DAEMON = "the daemon takes it when it runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What became of one file.

    Attributes:
        path: as it was found.
        fortune: in one word.
        reason: why, if there is more to say.
        kind: of the object, if it is one.
        handle: of the object, if it is one.
        size_bytes: of the file; 0 if it was not looked into.
    """

    path: Path
    fortune: Fortune
    reason: str = ""
    kind: ObjectKind | None = None
    handle: bytes = b""
    size_bytes: int = 0

    @property
    def is_in(self) -> bool:
        """Whether the satellite has it now, or does not need it."""
        return self.fortune is not Fortune.REFUSED

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "path": str(self.path),
            "outcome": self.fortune.value,
            "reason": self.reason,
            "kind": self.kind.name.lower() if self.kind else None,
            "handle": self.handle.hex() or None,
            "size_bytes": self.size_bytes,
        }

    def __str__(self) -> str:
        name = self.path.name.encode("unicode_escape", "surrogateescape").decode("ascii")  # may try to move the cursor
        return f"{self.fortune.value:<13}  {name}" + (f"  ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    path: Path
    kind: ObjectKind
    size_bytes: int


class _NotOursError(Exception):
    """Why a file is not taken."""


def import_files(config: Config, paths: Iterable[Path]) -> Iterator[ImportResult]:
    """Take files and directories in; yields what became of each file, as soon as it is known.

    Raises:
        BusyError: another import runs.
        ConfigError: a path is not there, or there are too many files.
        StoreError: the disk refused.
    """
    layout = layout_of(config)
    spool = Spool(layout.imports, RealDisk(), bytes_max=config.limits.inbox_bytes_max)

    @contextlib.contextmanager
    def opened() -> Iterator[None]:
        layout.state_dir.parent.mkdir(parents=True, exist_ok=True)
        make_state_directories(layout, RealDisk())
        _check_owner(layout.state_dir)
        with _locked(layout.imports):
            spool.prepare()
            yield

    importer = FileImporter(spool, lambda request: ask_daemon(layout.run, request), opened)
    yield from importer.run(list(_list_files(paths)))


class FileImporter:
    """One run of the command.

    Args:
        spool: where objects wait for the daemon.
        ask: asks the daemon one thing, see `control_socket.ask_daemon`.
        opened: makes the spool ready for us alone; only if there is something to put in.
    """

    def __init__(
        self,
        spool: Spool,
        ask: Callable[[dict[str, Any]], dict[str, Any]],
        opened: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._spool, self._ask, self._opened = spool, ask, opened

    def run(self, files: Iterable[tuple[Path, bool]]) -> Iterator[ImportResult]:
        """Take files, each with whether it was named itself; see `import_files`."""
        candidates: list[_Candidate] = []
        for path, is_named in files:
            if goes_up(path.name) is False:
                yield ImportResult(path=path, fortune=Fortune.PASSED_OVER, reason=_FOR_THE_GROUND)
                continue
            try:
                candidates.append(_look_at(path))
            except _NotOursError as error:
                if is_named or has_our_suffix(path.name):
                    yield ImportResult(path=path, fortune=Fortune.REFUSED, reason=str(error))
        if not candidates:
            return
        candidates.sort(key=lambda candidate: _UP.index(candidate.kind))  # stable: else as named
        with self._opened():
            for candidate in candidates:
                yield self._import(candidate)

    def _import(self, candidate: _Candidate) -> ImportResult:
        path, kind, size_bytes = candidate.path, candidate.kind, candidate.size_bytes
        try:
            sha256 = _digest_of(candidate)
            handle = handle_of_digest(sha256)
            claimed = claimed_handle(path.name)
            if claimed is not None and claimed != handle:
                raise _NotOursError(f"damaged: its name says {claimed.hex()}, its bytes {handle.hex()}")
            fortune, reason = self._hand_over(candidate, sha256)
        except _NotOursError as error:
            return ImportResult(path=path, fortune=Fortune.REFUSED, reason=str(error), kind=kind, size_bytes=size_bytes)
        return ImportResult(path=path, fortune=fortune, reason=reason, kind=kind, handle=handle, size_bytes=size_bytes)

    def _hand_over(self, candidate: _Candidate, sha256: bytes) -> tuple[Fortune, str]:
        fortune, reason = self._take(sha256)
        if fortune is not None:  # it was used before, or waits already
            return fortune, reason
        try:
            with _opened(candidate.path) as (handle, size_bytes):
                self._spool.put(candidate.kind, sha256, candidate.size_bytes, _chunks(handle, size_bytes))
        except StoreFullError as error:
            return Fortune.REFUSED, f"no room: {error}; {error.hint}"
        except SourceChangedError:
            raise _NotOursError("it changed while it was read") from None
        fortune, reason = self._take(sha256)
        return fortune or Fortune.WAITING, reason

    def _take(self, sha256: bytes) -> tuple[Fortune | None, str]:
        """What the daemon says of an object; None if it has not seen it, or says nothing."""
        try:
            reply = self._ask({"op": "import", "sha256": sha256.hex()})
            outcome = reply["outcome"]
            return (None if outcome is None else Fortune(outcome)), str(reply.get("reason", ""))
        except BusyError:
            return None, _NO_DAEMON
        except (OnboardError, KeyError, ValueError) as error:  # what is in the spool is safe whatever the daemon says
            return None, str(error)


def _check_owner(directory: Path) -> None:
    """Refuse to leave files that the daemon cannot read."""
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise ConfigError(
            f"{directory}: belongs to user {owner}, this is user {os.geteuid()}",
            hint="run it as the user that the daemon runs as",
        )


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Be the only one who imports."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreFailedError(
            f"{error.filename or directory}: {error.strerror}", hint="run it as the user that the daemon runs as"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError(f"{directory}: another import runs", hint="wait until it is done") from None
    finally:
        os.close(handle)


def _list_files(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """All files that are meant, and whether each was named itself."""
    for path in paths:
        if not path.is_dir():
            if not path.is_symlink() and not path.exists():
                raise ConfigError(f"{path}: no such file or directory", hint="give files, or the directory they are in")
            yield path, True
            continue
        names = []
        for name in os.scandir(path):
            names.append(name.name)
            if len(names) > _FILES_MAX:
                raise ConfigError(f"{path}: more than {_FILES_MAX} files", hint="give a directory of updates only")
        yield from ((path / name, False) for name in sorted(names) if not (path / name).is_dir())


def _look_at(path: Path) -> _Candidate:
    """Look at a file's type, size and prefix."""
    with _opened(path) as (handle, size_bytes):
        prefix = os.read(handle, PREFIX_SIZE)
    try:
        kind, stated = parse_prefix(prefix)
    except DecodeError:
        raise _NotOursError("not one of Skyload's files, or damaged in its first bytes") from None
    if kind not in _UP:
        raise _NotOursError(f"a {kind.name.lower()} goes from the satellite to the ground")
    if stated != size_bytes:
        raise _NotOursError(f"damaged: {size_bytes} bytes, it says {stated}")
    return _Candidate(path=path, kind=kind, size_bytes=size_bytes)


def _digest_of(candidate: _Candidate) -> bytes:
    digest = hashlib.sha256()
    with _opened(candidate.path) as (handle, size_bytes):
        for chunk in _chunks(handle, min(size_bytes, candidate.size_bytes)):
            digest.update(chunk)
    return digest.digest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a regular file, and nothing else; gives its handle and size."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # first: to open a device may do something
            raise _NotOursError("not a regular file; links are not followed")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _NotOursError(f"cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _NotOursError("not a regular file; links are not followed")
        yield handle, found.st_size
    finally:
        os.close(handle)


def _chunks(handle: int, size_bytes: int) -> Iterator[bytes]:
    """Read so many bytes, or to the end if that comes first."""
    offset = 0
    while offset < size_bytes:
        try:
            data = os.pread(handle, min(_READ_BYTES, size_bytes - offset), offset)
        except OSError as error:
            raise _NotOursError(f"cannot be read: {error.strerror}") from error
        if not data:
            return
        offset += len(data)
        yield data
