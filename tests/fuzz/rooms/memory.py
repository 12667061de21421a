"""What our own disk gives back, perhaps not as it was: records, roots, guards, ledgers, logs; and the configuration."""

import hashlib
import zlib
from pathlib import Path
from typing import Any

import msgpack

from onboard.config import parse_config
from onboard.errors import OnboardError
from onboard.installer.progress import PROGRESS_NAME, Progress
from onboard.scrub.guard import GUARD_NAMES, Guard, GuardHead
from onboard.scrub.ledger import Ledger
from onboard.store.facts import OnboardRecord
from onboard.store.inbox import Inbox, log_path
from onboard.store.roots import read_root_copies, root_digest, root_paths
from onboard.store.slots import first_image, vote
from onboard.store.symbol_log import pack_group, read_symbols, record_size, sum_of
from protocol.errors import DecodeError
from protocol.manifest import FileEntry, release_digest
from tests.fakes.sim_disk import SimDisk
from tests.fuzz import good
from tests.fuzz.in_file import Paper, home
from tests.fuzz.target import Form, Target

_DECODE = (DecodeError,)
_ROOT = Path("disk")
_SHAPE = good.SHAPE
_RECORD = record_size(_SHAPE)
_SLOT = OnboardRecord().encode()
_CLOSE = 0xFF


def _voted(data: bytes) -> None:
    """The first byte chooses which of three copies of a record the input is in place of, and of the others."""
    choice = data[0] if data else 0
    good_image = first_image(_SLOT)[1]
    copies: list[bytes | None] = [good_image, None if choice & 4 else good_image, good_image[: choice * 64]]
    copies[choice % 3] = data[1:]
    verdict = vote(copies)
    if verdict is None:
        raise DecodeError("refused")
    OnboardRecord.decode(verdict.data)


def _slot(data: bytes) -> None:
    """A record in a slot with a right sum."""
    verdict = vote([first_image(data[:8000])[1]] * 3)
    assert verdict is not None
    OnboardRecord.decode(verdict.data)


def _log(data: bytes) -> None:
    """A symbol log whose groups all have right sums, in an inbox that is read at start."""
    log, make_sum = bytearray(data), sum_of(_SHAPE, 0)
    for at in range(0, len(log) - _RECORD + 1, _RECORD):
        size = int.from_bytes(log[at + 1 : at + 4], "big") * _RECORD
        if log[at] == _CLOSE and size <= at:
            log[at + 4 : at + 12] = make_sum(log[at - size : at])
    disk = SimDisk()
    directory = _ROOT / _SHAPE.directory_name
    disk.put(log_path(directory, 0), bytes(log))
    stored = Inbox(_ROOT, disk).load()
    if not any(entry.symbols.get(0) for entry in stored):
        raise DecodeError("refused")
    for _ in read_symbols(disk, log_path(directory, 0), _SHAPE, 0):
        pass


def _log_seed() -> bytes:
    make_sum = sum_of(_SHAPE, 0)
    groups = [
        pack_group(make_sum, [part for esi in esis for part in (esi.to_bytes(4, "big"), bytes(_SHAPE.symbol_size))])
        for esis in ((0, 1, 2), (7,), (9, 8))
    ]
    return b"".join(groups)


_PROGRESS_HEAD = b"SKP1" + b"\x11" * 32


def _progress(data: bytes) -> None:
    """Entries of 8 bytes, each given its sum."""
    entries = [data[at : at + 8] for at in range(0, len(data), 8)]
    summed = b"".join(entry + zlib.crc32(_PROGRESS_HEAD + entry).to_bytes(4, "big") for entry in entries)
    disk = SimDisk()
    disk.put(_ROOT / PROGRESS_NAME, _PROGRESS_HEAD + summed)
    progress = Progress(_ROOT, b"\x11" * 32, disk, num_bundles=100, num_base_files=10, num_merged_files=3)
    assert progress.replay()
    if len(progress.installed) + len(progress.verified_base) + len(progress.merged) == 0:
        raise DecodeError("refused")


def _guard(data: bytes) -> None:
    """A guard's head, with the digest and the sum that go with its files; in both copies, then asked for hashes."""
    try:
        head = msgpack.unpackb(data)
        entries = [FileEntry(name=name, size_bytes=size, sha256=sha256) for name, size, sha256 in head["files"]]
        head["digest"] = release_digest(entries[: head["listed"]])
        written = msgpack.packb(head)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, msgpack.UnpackException):
        raise DecodeError("not a case: it cannot be written") from None
    pages = data[: len(data) // 8 * 8]
    whole = b"SKG1" + len(written).to_bytes(4, "big") + _guard_sum(written, pages) + written + pages
    disk = SimDisk()
    for name in GUARD_NAMES:
        disk.put(_ROOT / name, whole)
    guard = Guard.open(_ROOT, head["digest"], disk)
    if guard is None:
        raise DecodeError("refused")
    cells = range(min(guard.num_cells, 600))
    guard.hashes(cells)
    for cell in cells[:3]:
        guard.where(cell)
        guard.group_of(guard.zone_of(cell), cell)


def _guard_sum(head: bytes, pages: bytes) -> bytes:
    """As far as it can be known without asking who reads it: over as many hashes of pages as the files call for."""
    try:
        from onboard.scrub.guard import _num_pages

        size = 8 * _num_pages(GuardHead.decode(head))
    except DecodeError:
        size = 0
    return hashlib.sha256(head + pages[:size]).digest()


class _RootCopies:
    """Where the copies of a root lie: `StateLayout`, as far as that is asked."""

    def __init__(self) -> None:
        self._papers: list[Paper] = []

    def __call__(self, data: bytes) -> None:
        """The input in the place of one copy, a spoiled one beside it, the third gone."""
        layout: Any = _layout()
        digest = root_digest(good.ROOTS[0])
        if not self._papers:
            paths = root_paths(layout, digest)
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._papers = [Paper(str(path.relative_to(home()))) for path in paths]
        others = (good.ROOTS[0][:-1] + b"x", good.ROOTS[0][1:])
        for paper, content in zip(self._papers, (data, *others), strict=True):
            paper.write(content)
        found = read_root_copies(layout, digest)
        if found is None:
            raise DecodeError("refused")
        assert root_digest(found) == digest


def _layout() -> Any:
    from onboard.store.layout import StateLayout

    return StateLayout(home() / "state")


TARGETS: dict[str, Target] = {
    "record": Target(parse=OnboardRecord.decode, refusals=_DECODE, seeds=good.RECORDS, form=Form.MSGPACK),
    "record-slot": Target(parse=_slot, refusals=_DECODE, seeds=good.RECORDS, form=Form.MSGPACK),
    "record-copies": Target(
        parse=_voted,
        refusals=_DECODE,
        seeds=[bytes([choice]) + first_image(_SLOT)[1] for choice in range(3)],
        size_max=1 << 15,
    ),
    "root-copies": Target(parse=_RootCopies(), refusals=_DECODE, seeds=good.ROOTS, size_max=1 << 14),
    "guard": Target(parse=GuardHead.decode, refusals=_DECODE, seeds=good.GUARDS, form=Form.MSGPACK),
    "guard-file": Target(parse=_guard, refusals=_DECODE, seeds=good.GUARDS, form=Form.MSGPACK),
    "ledger": Target(parse=Ledger.decode, refusals=_DECODE, seeds=good.LEDGERS, form=Form.MSGPACK),
    "symbol-log": Target(parse=_log, refusals=_DECODE, seeds=[_log_seed()]),
    "progress": Target(
        parse=_progress, refusals=_DECODE, seeds=[b"\1\0\0\0\0\0\0\5\2\0\0\0\0\0\0\1\3\0\0\0\0\0\0\2"], size_max=256
    ),
    "config": Target(
        parse=lambda data: parse_config(data.decode("utf-8", "replace"), path=Path("config.toml")),
        refusals=(OnboardError,),
        seeds=good.CONFIGS,
        form=Form.TEXT,
    ),
}
