"""The real receiver on real sockets under fire: counters move, memory does not, and the flight beside it goes on."""

import asyncio
import contextlib
import random
import resource

import pytest

from onboard.receiver import shell
from onboard.receiver.hellos import Hellos
from onboard.receiver.shell import ReceiverOptions
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.report import Report
from tests.unit.onboard.test_receiver_shell import QUICK, UP, Ground, flies, source_of, station

FORGER = FrameCodec(Direction.UP, b"?" * 32)


def frame_of(rng, **how):
    values = {
        "kind": FrameKind.RAPTORQ,
        "handle": rng.randbytes(6),
        "num_symbols": rng.randint(1, 65536),
        "payload": bytes(8 * rng.randint(1, 200)),
        "block": 0,
        "esi": rng.randrange(1000),
        "station": rng.randrange(16),
    }
    return Frame(**values | how)


def forged(rng, source):
    return FORGER.encode(frame_of(rng), is_short=rng.random() < 0.5)


def forged_in_the_name_of_the_flight(rng, source):
    payload = rng.randbytes(source.symbol_size)
    frame = frame_of(rng, handle=source.handle, num_symbols=source.num_symbols, payload=payload, station=0)
    return FORGER.encode(frame, is_short=rng.random() < 0.5)


def truncated(rng, source):
    data = UP.encode(source.first_frame)
    return data[: rng.randrange(len(data))]


def noise(rng, source):
    return rng.randbytes(rng.randrange(1500))


def unfinished(rng, source):
    """An authentic frame of an object that will never be whole."""
    return UP.encode(frame_of(rng))


def replayed(rng, source):
    return UP.encode(source.first_frame)


class Attacker(Ground):
    """Sends its datagrams from an address of its own."""

    def fire(self, make, rng, source, num):
        for _ in range(num):
            self.send_bytes(make(rng, source))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "causes"),
    [
        (forged, {"checksum", "unknown"}),
        (forged_in_the_name_of_the_flight, {"checksum", "unknown"}),
        (truncated, {"truncated", "malformed", "checksum"}),
        (noise, {"truncated", "malformed", "checksum", "version", "unknown"}),
        (unfinished, set()),
        (replayed, set()),
    ],
)
def test_a_flood_moves_nothing_but_counters(tmp_path, make, causes):
    async def fly():
        rng, source = random.Random(1), source_of(400_000, symbol_size=1280)
        source.first_frame, *frames = source.frames()
        sent_frames = [source.first_frame, *frames, *source.frames(first=source.num_symbols, count=4 * len(frames))]
        async with station(tmp_path, options=QUICK) as flying:
            attacker, num_fired = Attacker(flying.receiver.address), 0
            for number, frame in enumerate(sent_frames):
                if flying.sink.consumed:
                    break
                attacker.fire(make, rng, source, 20)
                num_fired += 20
                await flying.ground.send(frame)
                if number % 2:
                    await asyncio.sleep(0.001)
            await flying.until(lambda: flying.sink.consumed)
            attacker.listen()
            attacker.close()
            return flying, num_fired, source, attacker

    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flying, num_fired, source, attacker = asyncio.run(fly())
    statistics = flying.receiver.statistics()

    assert flying.sink.consumed == {source.handle: source.data}
    assert set(statistics.frames_rejected) <= causes
    if causes:
        assert sum(statistics.frames_rejected.values()) > num_fired / 2
        assert statistics.frames_received <= 5 * source.num_symbols
    if make is replayed:
        assert not attacker.reports, "whoever repeats frames does not draw reports to himself"
    assert statistics.open_objects <= 64
    assert statistics.objects_poisoned == statistics.solver_deaths == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 60_000


@flies
async def test_a_station_that_moves_is_followed(tmp_path):
    async with station(tmp_path) as flying:
        frames, moved = source_of().frames(), Attacker(flying.receiver.address)
        await flying.ground.send(frames[0])
        await flying.until(lambda: flying.ground.reports)
        await moved.send(frames[1])
        await flying.until(lambda: moved.listen() or moved.reports)
        moved.close()


@flies
async def test_who_repeats_frames_as_they_come_draws_no_reports(tmp_path):
    source = source_of(100_000, symbol_size=1280)
    async with station(tmp_path) as flying:
        repeater = Attacker(flying.receiver.address)
        for frame in source.frames()[:60]:
            flying.ground.send_bytes(UP.encode(frame))
            for _ in range(5):
                repeater.send_bytes(UP.encode(frame))
            await asyncio.sleep(0.001)
        await flying.until(lambda: len(flying.ground.reports) > 1)
        repeater.listen()
        assert not repeater.reports
        repeater.close()


def hello(sequence, session=b"uplink"):
    return Frame(kind=FrameKind.REPORT, handle=session, num_symbols=0, payload=Report().encode(), sequence=sequence)


@flies
async def test_who_repeats_a_hello_through_a_gap_holds_no_address(tmp_path):
    with pytest.MonkeyPatch.context() as machine:
        machine.setattr(shell, "_SILENCE_S", 1e9)  # there is a gap where this test makes one, however slow the machine
        await repeat_a_hello_through_a_gap(tmp_path)


async def repeat_a_hello_through_a_gap(tmp_path):
    async with station(tmp_path) as flying:
        ground, repeater = flying.ground, Attacker(flying.receiver.address)
        for sequence in (1, 2):
            await ground.send(hello(sequence))
            await flying.until(lambda: ground.reports)
            ground.reports.clear()
        with contextlib.ExitStack() as gap:
            gap.enter_context(pytest.MonkeyPatch.context()).setattr(shell, "_SILENCE_S", 0.0)
            await repeater.send(hello(2))
            await flying.until(lambda: repeater.listen() or repeater.reports)
        ground.listen()
        ground.reports.clear()

        await repeater.send(hello(2), hello(1))  # he keeps on, while the station has nothing to send
        await asyncio.sleep(0.01)
        await ground.send(hello(3))
        await flying.until(lambda: ground.reports)
        await asyncio.sleep(0.03)
        repeater.listen()
        repeater.reports.clear()
        ground.listen()
        ground.reports.clear()
        await repeater.send(hello(3))
        await flying.until(lambda: ground.reports)
        repeater.listen()
        assert not repeater.reports
        repeater.close()


def test_a_hello_is_new_once_and_a_session_proves_itself_with_its_second():
    hellos = Hellos()
    said = [hellos.is_new(0, b"one", sequence) for sequence in (4, 5, 5, 4, 7, 6)]

    assert said == [False, True, False, False, True, False]
    assert not hellos.is_new(1, b"one", 8), "each station has sessions of its own"
    assert not hellos.is_new(0, b"two", 9)
    for number in range(100):  # others are forgotten first
        hellos.is_new(0, b"%d" % number, 1)
        assert hellos.is_new(0, b"two", 10 + number)


@flies
async def test_at_rest_nothing_wakes_up(tmp_path):
    async with station(tmp_path) as flying:
        loop = asyncio.get_running_loop()
        run_once, wakeups = loop._run_once, []
        loop._run_once = lambda: (wakeups.append(1), run_once())
        for _ in range(20):  # a busy machine may still be starting the receiver
            wakeups.clear()
            await asyncio.sleep(0.15)
            if len(wakeups) <= 3:
                break
        loop._run_once = run_once

        assert len(wakeups) <= 3, "our own sleep"
        assert flying.receiver._timer is None


@flies
async def test_a_silent_receiver_has_no_timer_once_all_is_durable(tmp_path):
    async with station(tmp_path, options=ReceiverOptions(is_silent=True, sync_interval_s=0.02)) as flying:
        await flying.ground.send(*source_of().frames()[:5])
        await flying.until(lambda: flying.receiver.statistics().syncs == 1 and flying.receiver._timer is None)


@pytest.mark.slow
def test_no_frame_is_dropped_by_our_own_socket_at_twenty_thousand_a_second(tmp_path):
    from bench.receiver_speed import Options, fly

    # A receiver that is too slow drops each time; one that a busy machine kept from its turn for long, now and then.
    tries = (fly(Options(payload_bytes=64 << 20, symbol_size=1280, frames_per_s=20_000)) for _ in range(6))

    assert any(result["drops"] == 0 for result in tries)
