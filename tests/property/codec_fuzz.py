"""Decodes spoiled streams and golden segments under a limit of memory; the program behind test_codec_fuzz.py.

python -m tests.property.codec_fuzz SEED COUNT
"""

import resource
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from protocol.codec import streams
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.codec.rebuild import rebuild
from protocol.errors import DecodeError
from protocol.limits import MIB
from tests.vectors import make_codec

ADDRESS_SPACE = 512 * MIB  # above what is mapped at the start
GROWTH_MAX = 48 * MIB
TIME_MAX_S = 5.0
DTYPES = (np.uint8, np.uint16, np.uint32)


def main() -> None:
    """Decode COUNT streams made from SEED; exits with an error if anything but DecodeError comes of one."""
    seed, count = (int(word) for word in sys.argv[1:3])
    rng = np.random.default_rng(seed)
    good = [
        sample(rng, dtype, size) for dtype in DTYPES for size in (1, 2, 255, 256, 257, 3000, 20_000) for _ in range(3)
    ]
    golden = list(make_codec.read((Path(make_codec.__file__).parent / "codec.json").read_text()).values())
    for stream, dtype in good:
        streams.decode(stream, dtype, stream.count)
    limit = mapped_bytes() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before, outcomes, slowest_s = peak_bytes(), Counter(), 0.0
    for number in range(count):
        if number % 4 == 0:
            decode = spoiled_segment(rng, golden[rng.integers(len(golden))])
        else:
            stream, dtype = good[rng.integers(len(good))]
            stream = spoil(rng, stream) if rng.random() < 0.8 else made_up(rng)
            decode = partial(streams.decode, stream, dtype, stream.count)
        started = time.process_time()
        try:
            decode()
            outcomes["decoded"] += 1
        except DecodeError:
            outcomes["refused"] += 1
        slowest_s = max(slowest_s, time.process_time() - started)
    growth = peak_bytes() - before
    took = f"{growth / MIB:.1f} MiB more, slowest {slowest_s * 1000:.0f} ms"
    print(f"{count} streams and segments, {took}: {dict(outcomes)}")
    assert growth < GROWTH_MAX
    assert slowest_s < TIME_MAX_S


def sample(rng, dtype, size):
    """Return a good PCO stream and its dtype."""
    while True:
        width = int(rng.integers(1, 8 * np.dtype(dtype).itemsize))
        values = (rng.standard_normal(size) * 2.0**width).astype(np.int64).astype(dtype)
        stream = streams.encode(values)
        if stream.coder is Coder.PCO or size < 256:
            # As short as it is, pcodec might have made it.
            return Stream(coder=Coder.PCO, count=size, data=streams._encode_pco(values, 10)), dtype


def spoil(rng, stream):
    """Return a stream with some bytes changed, most of them in its head; perhaps cut, longer or of another count."""
    data = bytearray(stream.data)
    for _ in range(rng.integers(0, 5)):
        reach = min(len(data), int(rng.choice([4, 12, 60, len(data)])))
        data[rng.integers(reach)] = rng.integers(256)
    if rng.random() < 0.2:
        data = data[: rng.integers(len(data) + 1)]
    if rng.random() < 0.1:
        data += rng.bytes(rng.integers(1, 30))
    count = stream.count if rng.random() < 0.8 else int(rng.choice([0, 1, 256, 4 * MIB, rng.integers(1, 10_000)]))
    return replace(stream, data=bytes(data), count=count)


def spoiled_segment(rng, segment):
    """Return what decodes a golden segment with some bytes changed."""
    data = bytearray(segment.payload)
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(min(len(data), int(rng.choice([40, 120, len(data)]))))] ^= int(rng.integers(1, 256))
    raw_size = sum(len(run) for _, run in segment.runs)
    return partial(rebuild, bytes(data), raw_size, lambda file, offset, size: segment.base[offset : offset + size])


def made_up(rng):
    """Return a stream whose head says what it likes: size of the tables, bins, and whatever follows."""
    head = int(rng.integers(16)) << 8 | int(rng.choice([1, 2, 2**14, 2**15 - 1, rng.integers(2**15)])) << 12
    data = head.to_bytes(4, "little") + (
        rng.bytes(rng.integers(3000)) if rng.random() < 0.5 else bytes(rng.integers(3000))
    )
    return Stream(coder=Coder.PCO, count=int(rng.choice([1, 300, 100_000, 4 * MIB])), data=data)


def peak_bytes():
    """Return the most memory that was resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mapped_bytes():
    """Return the size of the address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
