"""A LoRA adapter on disk as PEFT saves it: recognised, checked, laid against its base, and made into a release.

Reads headers and the adapter's values; the arithmetic is `protocol.adapters`', the same that the satellite does. Two
kinds of release come of it: one that names its base and is served beside it, or the base's files with the adapter
merged in. It does not know satellites or updates.
"""

import contextlib
import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from groundsegment.errors import DiskError, InputError
from groundsegment.models.release import ReleaseFile, SkippedFile, release_name
from protocol.adapters import base_note
from protocol.adapters.config import CONFIG_SIZE_MAX
from protocol.adapters.errors import AdapterError
from protocol.adapters.header import Source
from protocol.adapters.merge import Adapter, Merge, OnCodes, find_targets
from protocol.adapters.names import CONFIG_NAME, NOTE_NAME, WEIGHTS_NAME
from protocol.adapters.rule import Doubles, widen
from protocol.limits import MIB
from protocol.manifest import FileEntry

_READ_SIZE = 1 << 20
_PICKLE_NAME = "adapter_model.bin"
_TOKENIZER_NAMES = {"added_tokens.json", "tokenizer.json", "tokenizer.model", "vocab.json", "chat_template.jinja"}
_SLACK_BYTES = 16 * MIB

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """A checked adapter.

    Attributes:
        path: its directory.
        release_name: a safe name made of the path's.
        files: that fly, sorted by name.
        skipped: what does not.
        adapter: what it says.
    """

    path: Path
    release_name: str
    files: tuple[ReleaseFile, ...]
    skipped: tuple[SkippedFile, ...]
    adapter: Adapter


def is_adapter(path: Path) -> bool:
    """Whether a path is an adapter's directory and not a model's."""
    return path.is_dir() and (path / CONFIG_NAME).exists() and not (path / "config.json").exists()


def scan_adapter(path: Path) -> AdapterSource:
    """Check an adapter's directory.

    Raises:
        InputError: it is not plain LoRA on linear layers, or holds numbers that are none.
    """
    weights = path / WEIGHTS_NAME
    if not weights.is_file():
        is_pickle = (path / _PICKLE_NAME).exists()
        what = "its weights are a pickle, which can run code" if is_pickle else "its weights are not there"
        hint = f"save it as {WEIGHTS_NAME} (peft: model.save_pretrained(DIR, safe_serialization=True))"
        raise InputError(f"{path}: {what}", hint=hint)
    with refusing(path):
        with (path / CONFIG_NAME).open("rb") as file:
            adapter = Adapter.read(file.read(CONFIG_SIZE_MAX + 1), _source(weights))
        _check_values(adapter)
    names = (CONFIG_NAME, WEIGHTS_NAME)
    return AdapterSource(
        path=path,
        release_name=release_name(path),
        files=tuple(
            ReleaseFile(name=name, path=path / name, size_bytes=(path / name).stat().st_size) for name in names
        ),
        skipped=tuple(_skipped(path)),
        adapter=adapter,
    )


def check_fits(source: AdapterSource, base: Mapping[str, Path]) -> None:
    """Make sure that a base has the layers that an adapter changes.

    Raises:
        InputError: it has not.
    """
    with refusing(source.path):
        find_targets(source.adapter, _sources(base))


def lay_beside(source: AdapterSource, base_digest: bytes, directory: Path) -> None:
    """Write the release of an adapter that is served beside its base."""
    with _whole(directory, sum(file.size_bytes for file in source.files)) as part:
        for file in source.files:
            shutil.copyfile(file.path, part / file.name)
        (part / NOTE_NAME).write_bytes(base_note.encode(base_digest))


class Merging:
    """An adapter merged into a base, file by file.

    Args:
        source: the adapter.
        base: the files of its base.

    Raises:
        InputError: it is not of this base, or there is no rule to merge it.
    """

    def __init__(self, source: AdapterSource, base: Mapping[str, Path]) -> None:
        self._source, self._base = source, base
        self._change = self._lost = 0.0  # sums of squares
        self._num_codes = self._num_moved = 0
        with refusing(source.path):
            self._merge = Merge.plan(source.adapter, _sources(base))

    @property
    def lost_share(self) -> float:
        """Of the adapter's change to int8 weights, in its norm, what rounding to their steps took; after `entries`."""
        return math.sqrt(self._lost / self._change) if self._change else 0.0

    @property
    def moved_share(self) -> float:
        """Of the int8 codes that the adapter is for, how many become others; after `entries`."""
        return self._num_moved / max(1, self._num_codes)

    def entries(self, base: tuple[FileEntry, ...], on_bytes: OnBytes) -> tuple[FileEntry, ...]:
        """Return what the merged files will be, without writing them.

        Args:
            base: what the files of the base are.
            on_bytes: called with the number of bytes just made.
        """
        return tuple(self._entry(entry, on_bytes) for entry in base)

    def write(self, files: tuple[FileEntry, ...], directory: Path, on_bytes: OnBytes) -> None:
        """Write the merged release.

        Args:
            files: what `entries` said.
            directory: that appears when all is done; if it is there, it is whole.
            on_bytes: called with the number of bytes just written.

        Raises:
            InputError: a file changed meanwhile.
            DiskError: there is no room.
        """
        with _whole(directory, sum(entry.size_bytes for entry in files)) as part:
            for entry in files:
                digest = hashlib.sha256()
                with (part / entry.name).open("wb") as file:
                    for block in self._blocks(entry.name):
                        digest.update(block)
                        file.write(block)
                        on_bytes(len(block))
                if digest.digest() != entry.sha256:
                    hint = "do not touch base or adapter while it is staged; run the same command again"
                    raise InputError(f"{self._base[entry.name]}: changed while it was merged", hint=hint)

    def _entry(self, entry: FileEntry, on_bytes: OnBytes) -> FileEntry:
        if entry.name not in self._merge.targets:
            return entry
        digest = hashlib.sha256()
        for block in self._blocks(entry.name, self._weigh):
            digest.update(block)
            on_bytes(len(block))
        return FileEntry(name=entry.name, size_bytes=entry.size_bytes, sha256=digest.digest())

    def _blocks(self, name: str, on_codes: OnCodes | None = None) -> Iterator[bytes]:
        with refusing(self._source.path):
            yield from self._merge.blocks(name, on_codes)

    def _weigh(self, old: bytes, new: bytes, scales: Doubles, change: Doubles) -> None:
        moved = np.frombuffer(new, np.int8).astype(np.int64) - np.frombuffer(old, np.int8)
        lost = change - scales[:, None] * moved.reshape(change.shape)
        self._change += float(np.square(change).sum())
        self._lost += float(np.square(lost).sum())
        self._num_codes, self._num_moved = self._num_codes + moved.size, self._num_moved + int(np.count_nonzero(moved))


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Say whose fault it is if an adapter is refused."""
    try:
        yield
    except AdapterError as error:
        raise InputError(f"{path}: {error}", hint=error.hint) from error


@contextlib.contextmanager
def _whole(directory: Path, size_bytes: int) -> Iterator[Path]:
    """Give a directory that gets its name when the block ends well; nothing of it stays otherwise."""
    part = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        free = shutil.disk_usage(part).free
        if free < size_bytes + _SLACK_BYTES:
            hint = "free some space, or put the depot on a larger disk (--depot)"
            raise DiskError(f"{directory.parent}: {free // MIB} MiB free, {size_bytes // MIB} MiB needed", hint=hint)
        yield part
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _skipped(path: Path) -> Iterator[SkippedFile]:
    for entry in sorted(path.iterdir()):
        if entry.name in {CONFIG_NAME, WEIGHTS_NAME} or entry.name.startswith("."):
            continue
        is_tokenizer = entry.name in _TOKENIZER_NAMES
        reason = "the base's tokenizer is used" if is_tokenizer else "not needed to serve the adapter"
        yield SkippedFile(name=entry.name, reason=reason)


def _check_values(adapter: Adapter) -> None:
    """Make sure that all factors are finite; one that is not would only be noticed in the answers."""
    for layer, pair in adapter.pairs.items():
        for factor in (pair.a, pair.b):
            for at in range(factor.offset, factor.end, _READ_SIZE):
                values = widen(adapter.source.read(at, min(_READ_SIZE, factor.end - at)), factor.dtype)
                if not np.isfinite(values).all():
                    raise AdapterError(f"{layer}: holds values that are not finite", hint="its training has failed")


def _sources(files: Mapping[str, Path]) -> dict[str, Source]:
    return {name: _source(path) for name, path in files.items()}


def _source(path: Path) -> Source:
    return Source(size_bytes=path.stat().st_size, read=partial(_read, path))


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise InputError(f"{path}: became shorter while it was read", hint="run the command again")
    return data
