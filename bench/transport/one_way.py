"""How many symbols it takes without any return path: the uplink's real core against a channel, many seeds.

No bytes are made and none decoded: a block is complete when as many of its symbols arrived as it has source symbols,
or one more (a solve with exactly K fails about once in 300). The core hears nothing at all, so it never stops; the
count ends with the symbol that completes the last block. The figure is what suffices for 99 % of the seeds.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bench.transport.link import Loss
from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from protocol.blocks import symbols_needed
from protocol.frame import HANDLE_SIZE

Mask = NDArray[np.bool_]
METADATA_BYTES = 2500
FRAMES_PER_TURN = 256
RATE_FPS = 2000
ONE_MORE_SHARE = 1 / 300  # measured over K = 1024 .. 8000


def worst_of_99_percent(ratios: Iterable[float]) -> float:
    """The ratio that suffices for 99 % of the flights."""
    known = sorted(ratios)
    return known[min(len(known) - 1, math.ceil(0.99 * len(known)) - 1)]


def one_flight(bundle_sizes: list[int], symbol_size: int, loss: Loss, seed: int, rate_fps: int = RATE_FPS) -> float:
    """Symbols sent until the last block is complete, the metadata's among them, by K / (1 - p)."""
    rng = np.random.default_rng(seed)
    objects = [_object(METADATA_BYTES, symbol_size, None, rng)]
    objects += [_object(size, symbol_size, number, rng) for number, size in enumerate(bundle_sizes)]
    missing = {
        (item.handle, block): item.layout.symbols_of(block) + int(rng.random() < ONE_MORE_SHARE)
        for item in objects
        for block in range(item.layout.num_blocks)
    }
    limit = sum(item.num_symbols for item in objects[1:]) / (1 - loss.share)
    core = Uplink(UplinkOptions())
    core.add_update(objects)
    core.begin_contact(0.0)
    arrivals = _Arrivals(loss, rng)
    num_sent, now = 0, 0.0
    while True:
        now += FRAMES_PER_TURN / rate_fps
        for run in core.frames_to_send(now, FRAMES_PER_TURN):
            arrived = arrivals.take(run.count)
            needed = missing.get((run.handle, run.block), 0)
            if needed:
                enough = np.flatnonzero(arrived)[needed - 1 : needed]
                left = needed - int(arrived.sum())
                if left > 0:
                    missing[run.handle, run.block] = left
                else:
                    del missing[run.handle, run.block]
                    if not missing:
                        return (num_sent + int(enough[0]) + 1) / limit
            num_sent += run.count
        while core.next_event() is not None:
            pass
        if core.has_unsaved_progress:
            core.progress()


class _Arrivals:
    """Which of the next frames arrive."""

    _CHUNK = 1 << 15

    def __init__(self, loss: Loss, rng: np.random.Generator) -> None:
        self._loss, self._rng, self._left = loss, rng, np.zeros(0, bool)

    def take(self, count: int) -> Mask:
        """The next so many."""
        while len(self._left) < count:
            self._left = np.concatenate([self._left, self._more()])
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def _more(self) -> Mask:
        share, burst = self._loss.share, self._loss.burst_packets
        if not burst:
            return self._rng.random(self._CHUNK) >= share
        # Bursts and the calm between them are both geometric: whole ones are drawn, so the chain needs no state.
        begins = share / burst / (1 - share)
        calm = self._rng.geometric(begins, self._CHUNK // 16)
        bad = self._rng.geometric(1 / burst, self._CHUNK // 16)
        lengths = np.stack([calm, bad], axis=1).ravel()
        return np.repeat(np.tile([True, False], len(calm)), lengths)


def _object(size_bytes: int, symbol_size: int, bundle: int | None, rng: np.random.Generator) -> OutgoingObject:
    return OutgoingObject(
        handle=rng.bytes(HANDLE_SIZE),
        num_symbols=symbols_needed(size_bytes, symbol_size),
        symbol_size=symbol_size,
        bundle=bundle,
    )
