"""The guard of a release: what is needed to find and undo damage, made on board, beside the release's files.

    .guard-0, .guard-1   the same bytes twice
        offset  size  field
        0       4     magic SKG1
        4       4     length of the head, big-endian
        8       32    SHA-256 of head and page hashes
        40            head, msgpack: v int; digest bin32 of the release; listed int (files of the release, evidence
                      follows); files [[name str, size int, sha256 bin32], ...]
        ...           page hashes: the leaf hash of each page of the table
        ...           zeros up to a multiple of 4096
        ...           the table: a leaf hash (8 bytes) of each data block, then of each parity block
    .parity              the parity blocks (`blocks`)

Nothing else vouches for a guard, and nothing has to: its file list gives the digest of the release, or it is not the
guard of that release; and a repair counts only if the file it gives has the SHA-256 of that list. So the trust record,
which keeps the digest of the release, covers it all. A wrong guard costs a false alarm, after which it is made anew.

Each page of the table is taken from whichever copy is right. `cell` below is an index in the table.
"""

import contextlib
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onboard.errors import StoreCorruptError, StoreError, StoreFullError
from onboard.scrub.blocks import GROUPS_MAX, ZONE_BLOCKS, BlockMap
from onboard.scrub.core import HASH_SIZE, LEAF_SIZE, leaf_hash, solve_group, syndrome_of
from onboard.scrub.damage import Flip
from onboard.scrub.medium import READ_SIZE, Medium, OnStep, open_medium, read_whole
from onboard.store.disk import Disk, replace_file, write_all_at
from protocol.errors import DecodeError
from protocol.limits import FILES_MAX, NAME_LENGTH_MAX
from protocol.manifest import FileEntry, release_digest
from protocol.packing import Fields, pack_map, unpack_map

GUARD_NAMES = (".guard-0", ".guard-1")
PARITY_NAME = ".parity"
EVIDENCE_NAMES = (".sha256sums",)  # not the metadata: to forget a release its key is wiped, and parity would keep it
_MAGIC = b"SKG1"
_HEADER = struct.Struct(">4sI32s")
_HEAD_SIZE_MAX = FILES_MAX * 512
_PAGE_HASHES = LEAF_SIZE // HASH_SIZE  # leaf hashes in a page of the table
_UNIT = "guard"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardHead:
    """What a guard protects.

    Attributes:
        digest: of the release.
        files: the release's, then the evidence kept beside them.
        num_listed: how many of them are the release's.
    """

    digest: bytes
    files: tuple[FileEntry, ...]
    num_listed: int

    def encode(self) -> bytes:
        """Return the head's bytes."""
        files = [[entry.name, entry.size_bytes, entry.sha256] for entry in self.files]
        return pack_map({"v": 1, "digest": self.digest, "listed": self.num_listed, "files": files})

    @classmethod
    def decode(cls, data: bytes) -> "GuardHead":
        """Parse a head.

        Raises:
            DecodeError: it is none, or its file list is not that of its release.
        """
        fields = Fields(unpack_map(data, unit=_UNIT, size_max=_HEAD_SIZE_MAX), unit=_UNIT)
        fields.version(1)
        head = cls(
            digest=fields.data("digest", size=32),
            num_listed=fields.integer("listed", highest=FILES_MAX),
            files=tuple(_file(item) for item in fields.items("files", length_max=FILES_MAX + len(EVIDENCE_NAMES))),
        )
        fields.finish()
        if release_digest(head.files[: head.num_listed]) != head.digest:
            raise DecodeError(f"{_UNIT}: its file list is of another release")
        return head


class Guard:
    """The guard of a release; made by `open` or `build`.

    Attributes:
        directory: of the release.
        head: what is protected.
        map: where its blocks are.
        bad_copies: which of the two copies were found damaged.
    """

    def __init__(self, directory: Path, head: GuardHead, page_hashes: bytes, disk: Disk) -> None:
        self.directory, self.head, self.disk = directory, head, disk
        self.map = BlockMap(entry.size_bytes for entry in head.files)
        self.bad_copies: set[int] = set()
        self._page_hashes = page_hashes
        self._pages: dict[int, bytes | None] = {}

    @classmethod
    def open(cls, directory: Path, digest: bytes, disk: Disk) -> "Guard | None":
        """Read the guard of a release; None if there is none, or both copies of its head are damaged."""
        bad, found = set(), None
        for number, name in enumerate(GUARD_NAMES):
            guard = cls._open_copy(directory, name, digest, disk)
            if guard is None:
                bad.add(number)
            found = found or guard
        if found is not None:
            found.bad_copies = bad
        return found

    @classmethod
    def _open_copy(cls, directory: Path, name: str, digest: bytes, disk: Disk) -> "Guard | None":
        try:
            with open_medium(directory / name, disk) as medium:
                magic, length, checksum = _HEADER.unpack(bytes(medium.read(0, _HEADER.size)))
                if magic != _MAGIC or length > _HEAD_SIZE_MAX:
                    return None
                head_bytes = _read_at(medium, _HEADER.size, length)
                head = GuardHead.decode(head_bytes)
                page_hashes = _read_at(medium, _HEADER.size + length, HASH_SIZE * _num_pages(head))
        except (struct.error, DecodeError, OSError):
            return None
        if hashlib.sha256(head_bytes + page_hashes).digest() != checksum or head.digest != digest:
            return None
        return cls(directory, head, page_hashes, disk)

    @property
    def num_cells(self) -> int:
        """Data blocks and parity blocks."""
        return self.map.num_blocks + self.map.num_parity

    def zone_of(self, cell: int) -> int:
        """The zone that a cell belongs to."""
        if cell < self.map.num_blocks:
            return cell // ZONE_BLOCKS
        return (cell - self.map.num_blocks) // GROUPS_MAX

    def group_of(self, zone: int, cell: int) -> int:
        """The group of its zone that a cell belongs to."""
        if cell < self.map.num_blocks:
            return (cell - self.map.zone(zone).start) % self.map.num_groups(zone)
        return cell - self.map.num_blocks - self.map.parity(zone).start

    def path(self, file: int) -> Path:
        """Where a protected file lies."""
        return self.directory / self.head.files[file].name

    def hashes(self, cells: range) -> list[bytes | None]:
        """The leaf hashes of cells; None where both copies of the table are damaged."""
        found: list[bytes | None] = []
        for cell in cells:
            page = self._page(cell // _PAGE_HASHES)
            at = cell % _PAGE_HASHES * HASH_SIZE
            found.append(None if page is None else page[at : at + HASH_SIZE])
        return found

    def check_copies(self) -> None:
        """Read both copies through; what is damaged is in `bad_copies` then."""
        start = _encode(self.head, self._page_hashes, b"")
        for copy, name in enumerate(GUARD_NAMES):
            with open_medium(self.directory / name, self.disk) as medium:
                if bytes(medium.read(0, len(start))) != start:
                    self.bad_copies.add(copy)
        for page in range(_num_pages(self.head)):
            self._read_page(page)

    def where(self, cell: int) -> tuple[str, int]:
        """Name of the file that a cell is in, and where."""
        if cell >= self.map.num_blocks:
            return PARITY_NAME, (cell - self.map.num_blocks) * LEAF_SIZE
        span = self.map.where(cell)
        return self.head.files[span.file].name, span.offset

    def write_copies(self) -> list[Flip]:
        """Write damaged copies anew, each into a new file that takes its name; returns what was wrong with them.

        Raises:
            StoreFullError, StoreFailedError: the disk refused; the old copy stays.
        """
        if not self.bad_copies:
            return []
        table = [self._read_page(number) for number in range(_num_pages(self.head))]
        names = [GUARD_NAMES[number] for number in sorted(self.bad_copies)]
        if any(page is None for page in table):
            return [Flip(file=name, offset=0) for name in names]
        data = _encode(self.head, self._page_hashes, b"".join(page for page in table if page is not None))
        flips: list[Flip] = []
        for name in names:
            flips += _differences(name, read_whole(self.directory / name, self.disk, size_max=len(data)), data)
            replace_file(self.directory / name, data, self.disk)
        self.bad_copies.clear()
        return flips

    def _page(self, number: int) -> bytes | None:
        if number not in self._pages:
            if len(self._pages) >= 64:  # neighbours are asked for together
                self._pages.clear()
            self._pages[number] = self._read_page(number)
        return self._pages[number]

    def _read_page(self, number: int) -> bytes | None:
        """Return a page of the table: from the copy that is right, or out of what two damaged ones have in common."""
        wanted = self._page_hashes[number * HASH_SIZE : (number + 1) * HASH_SIZE]
        at = _table_at(self.head, len(self._page_hashes)) + number * LEAF_SIZE
        size = min(LEAF_SIZE, self.num_cells * HASH_SIZE - number * LEAF_SIZE)
        copies = []
        for copy, name in enumerate(GUARD_NAMES):
            with open_medium(self.directory / name, self.disk) as medium:
                copies.append(bytes(medium.read(at, size)).ljust(size, b"\0"))
            if leaf_hash(copies[-1]) != wanted:
                self.bad_copies.add(copy)
        right = next((data for data in copies if leaf_hash(data) == wanted), None)
        if right is not None:
            return right
        both = solve_group(dict(enumerate(copies)), {0: wanted, 1: wanted}, syndrome_of(copies))
        return next(iter(both.blocks.values()), None)


def guard_sizes(files: Sequence[FileEntry], digest: bytes, evidence: Mapping[str, int]) -> dict[str, int]:
    """Return how long the files of a guard will be, so that space can be reserved before there is anything to guard.

    Args:
        files: the release's, as signed.
        digest: of the release.
        evidence: sizes of the files of EVIDENCE_NAMES.
    """
    besides = [FileEntry(name=name, size_bytes=size, sha256=bytes(32)) for name, size in evidence.items()]
    head = GuardHead(digest=digest, files=(*files, *besides), num_listed=len(files))
    blocks = BlockMap(entry.size_bytes for entry in head.files)
    table = bytes(HASH_SIZE * (blocks.num_blocks + blocks.num_parity))
    copy = len(_encode(head, bytes(HASH_SIZE * _num_pages(head)), table))
    return {**dict.fromkeys(GUARD_NAMES, copy), PARITY_NAME: blocks.num_parity * LEAF_SIZE}


def build_guard(
    directory: Path,
    files: Sequence[FileEntry],
    digest: bytes,
    disk: Disk,
    on_step: OnStep = lambda size: None,
    *,
    is_reserved: bool = False,
) -> Guard:
    """Make the guard of a release out of its files, durably but for the names in the directory.

    Args:
        directory: of the release, sealed or about to be.
        files: the release's, as signed.
        digest: of the release.
        disk: where it lies.
        on_step: see `medium.OnStep`.
        is_reserved: the guard's files are there, with `guard_sizes` reserved, and nobody reads them yet.

    Raises:
        StoreCorruptError: a file is not what was signed.
        StoreFullError, StoreFailedError: the disk refused.
    """
    for name in () if is_reserved else (*GUARD_NAMES, PARITY_NAME):
        disk.unlink(directory / name)
    listed = sorted(files, key=lambda entry: entry.name)
    evidence = [entry for name in EVIDENCE_NAMES if (entry := _evidence(directory, name, disk)) is not None]
    head = GuardHead(digest=digest, files=(*listed, *evidence), num_listed=len(listed))
    try:
        table = _Builder(directory, head, disk, on_step).run()
        pages = [table[at : at + LEAF_SIZE] for at in range(0, len(table), LEAF_SIZE)]
        page_hashes = b"".join(map(leaf_hash, pages))
        for name in GUARD_NAMES:
            _write(disk, directory / name, _encode(head, page_hashes, table))
    except StoreFullError:
        with contextlib.suppress(StoreError):  # half a guard is worth nothing, and takes what others wait for
            for name in (*GUARD_NAMES, PARITY_NAME):
                disk.unlink(directory / name)
        raise
    return Guard(directory, head, page_hashes, disk)


class _Builder:
    """Reads all files once: leaf hashes, parity, and the digests that say that it read the right bytes."""

    def __init__(self, directory: Path, head: GuardHead, disk: Disk, on_step: OnStep) -> None:
        self._directory, self._head, self._disk, self._on_step = directory, head, disk, on_step
        self._map = BlockMap(entry.size_bytes for entry in head.files)
        self._leaves, self._parity_leaves = bytearray(), bytearray()
        self._zone = 0
        self._parity = self._zeros()

    def run(self) -> bytes:
        """Write the parity; return the table."""
        handle = self._disk.open(self._directory / PARITY_NAME, create=True)
        try:
            for file in range(len(self._head.files)):
                self._read_file(file, handle)
            self._end_zone(handle)
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)
        return bytes(self._leaves + self._parity_leaves)

    def _read_file(self, file: int, handle: int) -> None:
        entry, digest, at = self._head.files[file], hashlib.sha256(), 0
        with open_medium(self._directory / entry.name, self._disk) as medium:
            while at < entry.size_bytes:
                data = medium.read(at, min(READ_SIZE, entry.size_bytes - at))
                if not data:
                    break
                digest.update(data)
                self._take(data, handle)
                at += len(data)
                self._on_step(len(data))
            is_right = at == medium.size_bytes and digest.digest() == entry.sha256
        if not is_right:
            raise StoreCorruptError(
                entry.name, expected="what was signed", got="other bytes", hint="revert, or send it again"
            )

    def _take(self, data: memoryview, handle: int) -> None:
        """Take whole blocks, the last of a file perhaps short."""
        for at in range(0, len(data), LEAF_SIZE):
            self._leaves += leaf_hash(data[at : at + LEAF_SIZE])
        first = len(self._leaves) // HASH_SIZE - -(-len(data) // LEAF_SIZE)
        padded = np.frombuffer(bytes(data).ljust(-(-len(data) // LEAF_SIZE) * LEAF_SIZE, b"\0"), np.uint64)
        blocks = padded.reshape(-1, LEAF_SIZE // 8)
        while len(blocks):
            if first == self._map.zone(self._zone).stop:
                self._end_zone(handle)
                self._zone += 1
                self._parity = self._zeros()
            group = (first - self._map.zone(self._zone).start) % len(self._parity)
            count = min(len(blocks), len(self._parity) - group, self._map.zone(self._zone).stop - first)
            self._parity[group : group + count] ^= blocks[:count]
            first, blocks = first + count, blocks[count:]

    def _end_zone(self, handle: int) -> None:
        data = self._parity.tobytes()
        write_all_at(self._disk, handle, data, self._map.parity(self._zone).start * LEAF_SIZE)
        for at in range(0, len(data), LEAF_SIZE):
            self._parity_leaves += leaf_hash(data[at : at + LEAF_SIZE])

    def _zeros(self) -> "np.ndarray[tuple[int, int], np.dtype[np.uint64]]":
        return np.zeros((self._map.num_groups(self._zone), LEAF_SIZE // 8), np.uint64)


def _evidence(directory: Path, name: str, disk: Disk) -> FileEntry | None:
    data = read_whole(directory / name, disk, size_max=READ_SIZE)
    return FileEntry(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).digest()) if data else None


def _num_pages(head: GuardHead) -> int:
    block_map = BlockMap(entry.size_bytes for entry in head.files)
    return -(-(block_map.num_blocks + block_map.num_parity) // _PAGE_HASHES)


def _table_at(head: GuardHead, page_hashes_size: int) -> int:
    return -(-(_HEADER.size + len(head.encode()) + page_hashes_size) // LEAF_SIZE) * LEAF_SIZE


def _encode(head: GuardHead, page_hashes: bytes, table: bytes) -> bytes:
    data = head.encode()
    header = _HEADER.pack(_MAGIC, len(data), hashlib.sha256(data + page_hashes).digest())
    return (header + data + page_hashes).ljust(_table_at(head, len(page_hashes)), b"\0") + table


def _read_at(medium: Medium, offset: int, size: int) -> bytes:
    """Read from anywhere: a medium is read from multiples of LEAF_SIZE on."""
    parts, at, end = [], offset, offset + size
    while at < end:
        start = at // LEAF_SIZE * LEAF_SIZE
        data = bytes(medium.read(start, min(READ_SIZE, end - start)))[at - start :]
        if not data:
            raise DecodeError(f"{_UNIT}: it ends at {at}, {end} were expected")
        parts.append(data)
        at += len(data)
    return b"".join(parts)


def _write(disk: Disk, path: Path, data: bytes) -> None:
    handle = disk.open(path, create=True)
    try:
        write_all_at(disk, handle, data, 0)
        disk.truncate(handle, len(data))
        disk.sync(handle)
    finally:
        disk.close(handle)


def _differences(name: str, before: bytes, after: bytes) -> list[Flip]:
    before = before.ljust(len(after), b"\0")
    pages = [slice(at, at + LEAF_SIZE) for at in range(0, len(after), LEAF_SIZE)]
    return [Flip.between(name, page.start, before[page], after[page]) for page in pages if before[page] != after[page]]


def _file(item: object) -> FileEntry:
    if not isinstance(item, list) or len(item) != 3:
        raise DecodeError(f"{_UNIT}: a file has a name, a size and a digest")
    fields = Fields(dict(zip(("name", "size", "sha256"), item, strict=True)), unit=_UNIT)
    return FileEntry(
        name=_safe(fields.text("name", length_max=NAME_LENGTH_MAX)),
        size_bytes=fields.integer("size", highest=2**47),
        sha256=fields.data("sha256", size=32),
    )


def _safe(name: str) -> str:
    if "/" in name or name in {"", ".", ".."} or "\0" in name:
        raise DecodeError(f"{_UNIT}: {name!r} is not the name of a file")
    return name
