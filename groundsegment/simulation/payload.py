"""What a simulated mission carries: objects of real bytes, made from a seed, or files of a depot.

The metadata of a simulated update lists its bundles (`onboard.simulation.owner` has the layout) and is as long as real
metadata would be. All bytes lie in one file without a name, so memory is bounded whatever the size of the update, and
nothing is left behind.
"""

import hashlib
import math
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.schedule import SymbolRun
from protocol.blocks import symbols_needed
from protocol.fec import BlockEncoder, best_kind
from protocol.frame import HANDLE_SIZE
from protocol.objects import PREFIX_SIZE, ObjectKind, handle_of_digest, object_prefix

_METADATA_BYTES, _BUNDLE_ENTRY_BYTES = 2600, 44  # a real update's, measured: signatures, keys, canary; then per bundle
_BATCH_SYMBOLS_MIN, _BATCH_BYTES_MAX = 128, 4 << 20
_BATCHES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedUpdate:
    """One update of a mission.

    Attributes:
        name: for people.
        objects: the metadata first, then the bundles.
        digests: SHA-256 by handle.
        payload_bytes: of all bundles.
        priority: higher goes first.
        weight: share within its priority.
        staged_s: when it is there to be sent.
    """

    name: str
    objects: tuple[OutgoingObject, ...]
    digests: dict[bytes, bytes]
    payload_bytes: int
    priority: int = 0
    weight: float = 1.0
    staged_s: float = 0.0

    @property
    def handle(self) -> bytes:
        """Of the metadata: it names the update."""
        return self.objects[0].handle

    @property
    def num_symbols(self) -> int:
        """Source symbols of all bundles."""
        return sum(item.num_symbols for item in self.objects[1:])


class PayloadStore:
    """The bytes of all objects, and their symbols. Use it in a `with`: it holds a file open."""

    def __init__(self, symbol_size: int) -> None:
        self._symbol_size = symbol_size
        self._file = tempfile.TemporaryFile(prefix="skyload-simulated-")  # noqa: SIM115 - lives as long as we do
        self._size = 0
        self._offsets: dict[bytes, int] = {}
        self._items: dict[bytes, OutgoingObject] = {}
        self._repair: OrderedDict[tuple[bytes, int], tuple[int, list[bytes]]] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add_random(
        self,
        name: str,
        size_bytes: int,
        *,
        bundle_bytes: int,
        seed: int,
        priority: int = 0,
        weight: float = 1.0,
        staged_s: float = 0.0,
    ) -> SimulatedUpdate:
        """Make an update of random bytes: bundles of equal size, none larger than `bundle_bytes`."""
        num_bundles = max(1, math.ceil(size_bytes / bundle_bytes))
        sizes = [size_bytes // num_bundles + (number < size_bytes % num_bundles) for number in range(num_bundles)]
        makers = [
            _maker_of_random(max(size, PREFIX_SIZE + 1), (seed, hash_of(name), number))
            for number, size in enumerate(sizes)
        ]
        return self._add(name, makers, priority=priority, weight=weight, staged_s=staged_s)

    def add_files(self, name: str, bundles: Sequence[Path]) -> SimulatedUpdate:
        """Make an update of a depot's bundles; their bytes are the real ones."""
        return self._add(name, [path.read_bytes for path in bundles], priority=0, weight=1.0, staged_s=0.0)

    def _add(
        self, name: str, makers: Sequence[Callable[[], bytes]], *, priority: int, weight: float, staged_s: float
    ) -> SimulatedUpdate:
        digests: dict[bytes, bytes] = {}
        bundles, payload = [], 0
        for number, maker in enumerate(makers):
            data = maker()
            payload += len(data)
            bundles.append(self._take(data, number, digests))
        metadata = _metadata(name, [item.handle for item in bundles])
        items = [self._take(metadata, None, digests), *bundles]
        return SimulatedUpdate(
            name=name,
            objects=tuple(items),
            digests=digests,
            payload_bytes=payload,
            priority=priority,
            weight=weight,
            staged_s=staged_s,
        )

    def _take(self, data: bytes, bundle: int | None, digests: dict[bytes, bytes]) -> OutgoingObject:
        digest = hashlib.sha256(data).digest()
        item = OutgoingObject(
            handle=handle_of_digest(digest),
            num_symbols=symbols_needed(len(data), self._symbol_size),
            symbol_size=self._symbol_size,
            bundle=bundle,
        )
        digests[item.handle] = digest
        self._items[item.handle], self._offsets[item.handle] = item, self._size
        self._file.write(data.ljust(item.layout.padded_size, b"\0"))
        self._file.flush()
        self._size += item.layout.padded_size
        return item

    def item(self, handle: bytes) -> OutgoingObject:
        """An object."""
        return self._items[handle]

    def symbols(self, run: SymbolRun) -> list[bytes]:
        """The symbols of a run, in order."""
        item = self._items[run.handle]
        layout, size = item.layout, item.symbol_size
        num_source, end = layout.symbols_of(run.block), run.first_esi + run.count
        count = max(0, min(end, num_source) - run.first_esi)
        data = self._read(run.handle, layout.offset_of(run.block) + run.first_esi * size, count * size)
        result = [data[at : at + size] for at in range(0, len(data), size)]
        for esi in range(max(run.first_esi, num_source), end):
            result.append(self._repair_symbol(item, run.block, esi, end - esi))
        return result

    def _repair_symbol(self, item: OutgoingObject, block: int, esi: int, count: int) -> bytes:
        key = item.handle, block
        first, symbols = self._repair.get(key, (0, []))
        if not first <= esi < first + len(symbols):
            first, symbols = esi, self._make_repair(item, block, esi, count)
            self._repair[key] = first, symbols
            while len(self._repair) > _BATCHES_MAX:
                self._repair.popitem(last=False)
        self._repair.move_to_end(key)
        return symbols[esi - first]

    def _make_repair(self, item: OutgoingObject, block: int, esi: int, count: int) -> list[bytes]:
        layout = item.layout
        num_source = layout.symbols_of(block)
        count = max(count, _BATCH_SYMBOLS_MIN, (esi - num_source) // 4, num_source // 8)
        count = min(count, max(_BATCH_SYMBOLS_MIN, _BATCH_BYTES_MAX // item.symbol_size))
        data = self._read(item.handle, layout.offset_of(block), layout.size_of(block))
        return BlockEncoder(best_kind(), data, item.symbol_size).symbols(esi, count)

    def _read(self, handle: bytes, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, self._offsets[handle] + offset) if size else b""


def hash_of(name: str) -> int:
    """A number that a name always gives."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _maker_of_random(size: int, seed: tuple[int, ...]) -> Callable[[], bytes]:
    def make() -> bytes:
        prefix = object_prefix(ObjectKind.BUNDLE, size)
        return prefix + np.random.default_rng(seed).bytes(size - len(prefix))

    return make


def _metadata(name: str, bundles: Sequence[bytes]) -> bytes:
    body = len(bundles).to_bytes(4, "big") + b"".join(bundles)
    assert all(len(handle) == HANDLE_SIZE for handle in bundles)
    size = max(_METADATA_BYTES + _BUNDLE_ENTRY_BYTES * len(bundles), PREFIX_SIZE + len(body))
    filling = np.random.default_rng(hash_of(name)).bytes(size)
    return object_prefix(ObjectKind.METADATA, size) + (body + filling)[: size - PREFIX_SIZE]
