"""The intake is the codec, only faster: whatever comes in, in whatever batches, the same comes out and is refused."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onboard.receiver.intake import Intake
from protocol.errors import ChecksumError, DecodeError, TruncatedError, UnknownObjectError, UnsupportedVersionError
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction

KEYS = {"key": bytes(range(32)), "crc": None}
RQ, PLAIN = FrameKind.RAPTORQ, FrameKind.PLAIN
OBJECTS = [(b"abcde1", RQ, 1, 8), (b"fghij1", RQ, 300, 64), (b"klmno2", PLAIN, 65536, 64), (b"fghij1", RQ, 300, 72)]
CAUSES = [
    (TruncatedError, "truncated"),
    (UnsupportedVersionError, "version"),
    (UnknownObjectError, "unknown"),
    (ChecksumError, "checksum"),
    (DecodeError, "malformed"),
]

DAMAGES = ["", "", "", "", "bit", "bit", "cut", "grow", "random", "first"]


def any_frame(rng):
    """Mostly of one object: what is fast is a frame that is like the one before."""
    station = rng.choice([0, 0, 0, 0, 7, 15])
    if rng.random() < 0.1:
        payload = rng.randbytes(rng.randint(1, 40))
        return Frame(kind=FrameKind.REPORT, handle=b"sessn!", payload=payload, station=station)
    handle, kind, num_symbols, size = OBJECTS[rng.choice([1, 1, 1, 1, 0, 2, 3])]
    return Frame(
        kind=kind,
        handle=handle,
        num_symbols=num_symbols,
        payload=rng.randbytes(size),
        block=rng.choice([0, 0, 1, 15]),
        esi=rng.choice([rng.randrange(2**20), rng.randrange(300)]),
        station=station,
    )


def damaged(data, how, rng):
    match how:
        case "bit":
            at = rng.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case "cut":
            return data[: rng.randrange(len(data))]
        case "grow":
            return data + rng.randbytes(rng.choice([1, 8]))
        case "random":
            return rng.randbytes(rng.randrange(120))
        case "first":
            return bytes([rng.randrange(256)]) + data[1:]
    return data


def decode_all(codec, datagrams):
    """What the codec makes of them, one by one."""
    good, rejected = Counter(), Counter()
    for data in datagrams:
        try:
            frame = codec.decode(data)
        except DecodeError as error:
            rejected[next(cause for kind, cause in CAUSES if isinstance(error, kind))] += 1
        else:
            good[frame] += 1
    return good, rejected


def sort_all(intake, batches):
    """What the intake makes of them, batch by batch."""
    good, rejected, heard = Counter(), Counter(), Counter()
    for batch in batches:
        found = intake.sort((data, number) for number, data in enumerate(batch))
        rejected.update(found.rejected)
        good.update(found.reports)
        for run in found.runs:
            for esi, symbol in zip(run.esis, run.symbols, strict=True):
                frame = Frame(
                    kind=run.kind,
                    handle=run.handle,
                    num_symbols=run.num_symbols,
                    payload=symbol,
                    block=run.block,
                    esi=esi,
                    station=run.station,
                )
                good[frame] += 1
        for station, (echo, address, num) in found.heard.items():
            heard[station] += num
            check_echo(found, station, echo, address)
    assert heard == Counter(frame.station for frame in good.elements())
    return good, rejected


def check_echo(found, station, echo, address):
    positions = {(run.handle, run.block, esi) for run in found.runs if run.station == station for esi in run.esis}
    assert (echo in positions) if positions else (echo is None)
    assert isinstance(address, int)


@pytest.mark.parametrize("name", KEYS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), batch_size=st.integers(1, 17))
def test_it_takes_and_refuses_what_the_codec_does(name, seed, batch_size):
    rng, ground = random.Random(seed), FrameCodec(Direction.UP, KEYS[name])
    sent = [ground.encode(any_frame(rng), is_short=rng.random() < 0.5) for _ in range(rng.randint(1, 60))]
    datagrams = [damaged(data, rng.choice(DAMAGES), rng) for data in sent]
    batches = [datagrams[i : i + batch_size] for i in range(0, len(datagrams), batch_size)]

    expected = decode_all(FrameCodec(Direction.UP, KEYS[name]), datagrams)

    assert sort_all(Intake(FrameCodec(Direction.UP, KEYS[name])), batches) == expected


def test_the_echo_is_the_last_symbol_of_each_station_though_runs_are_sorted_by_block():
    ground = FrameCodec(Direction.UP, bytes(32))
    order = [(0, 0, 5), (7, 1, 1), (0, 1, 6), (0, 0, 7), (7, 0, 2)]
    datagrams = [
        ground.encode(
            Frame(
                kind=FrameKind.RAPTORQ,
                handle=b"abcdef",
                num_symbols=9000,
                payload=bytes(8),
                block=block,
                esi=esi,
                station=station,
            )
        )
        for station, block, esi in order
    ]

    batch = Intake(FrameCodec(Direction.UP, bytes(32))).sort((data, at) for at, data in enumerate(datagrams))

    assert batch.heard == {0: ((b"abcdef", 0, 7), 3, 3), 7: ((b"abcdef", 0, 2), 4, 2)}
    assert [(run.station, run.block, run.esis) for run in batch.runs] == [
        (0, 0, [5, 7]),
        (7, 1, [1]),
        (0, 1, [6]),
        (7, 0, [2]),
    ]


def test_what_is_remembered_is_bounded_whoever_sends():
    codec = FrameCodec(Direction.UP, bytes(32))
    intake, ground, rng = Intake(codec), FrameCodec(Direction.UP, bytes(32)), random.Random(1)
    for _ in range(40):
        datagrams = []
        for _ in range(64):
            frame = Frame(
                kind=FrameKind.RAPTORQ,
                handle=rng.randbytes(6),
                num_symbols=rng.randint(1, 65536),
                payload=bytes(8 * rng.randint(1, 100)),
                station=rng.randrange(16),
            )
            datagrams.append((ground.encode(frame), None))
        assert sum(len(run.esis) for run in intake.sort(datagrams).runs) == 64

    assert len(intake._flows) <= 512
    assert sum(map(len, intake._slots)) <= 128
    assert len(codec._ciphers) <= 64


def test_an_object_that_is_heard_is_not_forgotten_though_many_others_come():
    ground = FrameCodec(Direction.UP, bytes(32))
    intake = Intake(FrameCodec(Direction.UP, bytes(32)))

    def come(handle, *, is_short=False):
        frame = Frame(kind=RQ, handle=handle, num_symbols=9, payload=bytes(8), esi=3)
        return len(intake.sort([(ground.encode(frame, is_short=is_short), None)]).runs)

    for number in range(30):
        assert come(b"honest")
        assert come(b"%04d_t" % number)  # of the same slot

    assert come(b"honest", is_short=True)
    assert not come(b"0000_t", is_short=True)


def test_an_object_found_at_the_start_is_known_by_its_short_header():
    frame = Frame(kind=FrameKind.RAPTORQ, handle=b"abcdef", num_symbols=9, payload=bytes(8), esi=3)
    data = FrameCodec(Direction.UP, bytes(32)).encode(frame, is_short=True)
    intake = Intake(FrameCodec(Direction.UP, bytes(32)))
    assert intake.sort([(data, None)]).rejected == {"unknown": 1}

    intake.remember(FrameKind.RAPTORQ, b"abcdef", 9)

    (run,) = intake.sort([(data, None)]).runs
    assert (run.handle, run.esis) == (b"abcdef", [3])
