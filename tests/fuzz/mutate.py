"""Hostile input from good input: values of the wrong kind or size, keys left out or twice, bytes spoiled, cut.

A seed is laid out once: its bytes, and where each value lies in them. A case is then a splice or a few, which costs
microseconds whatever the size of the seed; so are messages with a key twice, which no encoder would write.
"""

import random
from collections.abc import Iterable, Iterator

from tests.fuzz.layout import Layout, layouts_of
from tests.fuzz.target import Form, Target

_ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_ODD_NUMBERS = tuple(
    number.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for number in (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1)
    for order in ("big", "little")
)
_NUM_SPLICES = (1, 1, 1, 1, 2, 4)
_NUM_SPOILS = (1, 1, 2, 4, 16)


class Mutator:
    """Makes input for one target, the same for the same seed."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self._size_max, self._seeds = target.size_max, target.seeds
        self._rng, self._random = rng, rng.random
        self._layouts = [layouts_of(target.form, seed) for seed in target.seeds]
        self._is_laid_out = target.form is not Form.BYTES

    def inputs(self, count: int) -> Iterator[bytes]:
        """Yield so many."""
        draw, size_max = self._random, self._size_max
        for _ in range(count):
            kind = draw()
            if kind < 0.01 or not self._seeds:
                yield self._rng.randbytes(int(draw() ** 3 * size_max))
            elif kind < 0.85 and self._is_laid_out:
                data = self._spliced()
                yield data if len(data) <= size_max else data[:size_max]
            else:
                yield self._spoiled()

    def _spliced(self) -> bytes:
        draw = self._random
        layouts = self._layouts[int(draw() * len(self._layouts))]
        layout = layouts.as_it_is if draw() < 0.6 else layouts.varied(draw)
        count = _NUM_SPLICES[int(draw() * len(_NUM_SPLICES))]
        if count == 1:
            return self._with_odd(layout)
        spans = layout.spans
        chosen = sorted({int(draw() * len(spans)) for _ in range(count)}, key=lambda at: -spans[at][0])
        data, free = layout.data, len(layout.data)
        for at in chosen:
            start, end, odd = spans[at]
            if end <= free:
                data, free = data[:start] + odd[int(draw() * len(odd))] + data[end:], start
        return data

    def _with_odd(self, layout: Layout) -> bytes:
        draw, data, spans = self._random, layout.data, layout.spans
        start, end, odd = spans[int(draw() * len(spans))]
        if draw() < 0.1:  # what stands elsewhere
            from_, to, _ = spans[int(draw() * len(spans))]
            return data[:start] + data[from_:to] + data[end:]
        return data[:start] + odd[int(draw() * len(odd))] + data[end:]

    def _spoiled(self) -> bytes:
        draw, seeds = self._random, self._seeds
        data = bytearray(seeds[int(draw() * len(seeds))])
        for _ in range(_NUM_SPOILS[int(draw() * 5)]):
            self._spoil(data)
        del data[self._size_max :]
        return bytes(data)

    def _spoil(self, data: bytearray) -> None:
        draw, randbytes = self._random, self._rng.randbytes
        at = int(draw() * (len(data) + 1))
        if draw() < 0.25:
            at = min(at, int(draw() * 64))  # heads say more than what follows
        kind = int(draw() * 12)
        if kind < 3:
            if at < len(data):
                data[at] ^= 1 << int(draw() * 8)
        elif kind < 5:
            if at < len(data):
                data[at] = _ODD_BYTES[int(draw() * 6)] if kind == 3 else int(draw() * 256)
        elif kind == 5:
            number = _ODD_NUMBERS[int(draw() * len(_ODD_NUMBERS))]
            data[at : at + len(number)] = number
        elif kind == 6:
            number = randbytes(1 + int(draw() * 8))
            data[at : at + len(number)] = number
        elif kind == 7:
            del data[at : at + 1 + int(draw() * 15)]
        elif kind == 8:
            data[at:at] = randbytes(1 + int(draw() * 15))
        elif kind == 9:
            run = data[at : at + 1 + int(draw() * 31)]
            data[at:at] = run * (1, 1, 2, 64)[int(draw() * 4)]
        elif kind == 10:
            other = self._seeds[int(draw() * len(self._seeds))]
            data[at:] = other[int(draw() * (len(other) + 1)) :]
        elif draw() < 0.5:
            del data[at:]
        else:
            data += randbytes(1 + int(draw() * 63))


def cases(target: Target, *, seed: int, batch: int, count: int) -> Iterable[bytes]:
    """A batch of input: whoever has its number makes the same again."""
    return Mutator(target, random.Random(f"{seed} {batch}")).inputs(count)
