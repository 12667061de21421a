"""The simulated satellite: real receiver, virtual time. What it reports would survive; what a kill takes is gone."""

import io
import struct

import msgpack
import pytest

from onboard.errors import ConfigError
from onboard.simulation.disk import ForgetfulDisk
from onboard.simulation.satellite import SatelliteOptions, SimulatedSatellite
from onboard.simulation.service import MESSAGE_SIZE_MAX, serve
from protocol.frame import FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.objects import ObjectKind, object_prefix
from protocol.report import Report, UpdateState
from tests.fakes.receiving import KEY, Source

UP, DOWN = FrameCodec(Direction.UP, KEY), FrameCodec(Direction.DOWN, KEY)
OPTIONS = SatelliteOptions(sync_interval_s=1.0, sync_delay_s=0.1, install_s=5.0)


def bundle(num_symbols=40, fill=b"b"):
    return object_prefix(ObjectKind.BUNDLE, 64 * num_symbols) + fill * (64 * num_symbols - 8)


def metadata(*sources):
    body = len(sources).to_bytes(4, "big") + b"".join(source.handle for source in sources)
    return object_prefix(ObjectKind.METADATA, 8 + len(body)) + body


def datagrams(frames):
    return [UP.encode(frame) for frame in frames]


def make_update(*bundles):
    sources = [Source(data) for data in bundles]
    return Source(metadata(*sources)), sources


def reports(satellite):
    """What went down since, decoded."""
    found = [Report.decode(DOWN.decode(data).payload) for _, data in satellite.outgoing]
    satellite.outgoing.clear()
    return found


@pytest.fixture
def satellite(tmp_path):
    return SimulatedSatellite(tmp_path, KEY, OPTIONS)


def test_an_update_that_came_whole_is_confirmed_after_its_installation(satellite):
    head, (body,) = make_update(bundle())
    satellite.receive(datagrams([*head.all_frames(), *body.all_frames()]), 1.0)
    satellite.advance(6.0)

    assert satellite.owner.num_whole == 1
    assert satellite.owner.confirmed() == []
    satellite.advance(8.0)

    assert satellite.owner.confirmed() == [head.handle]
    assert reports(satellite)[-1].state is UpdateState.CONFIRMED
    assert {arrival.handle for arrival in satellite.owner.arrivals} == {head.handle, body.handle}


def test_a_bundle_waits_for_its_metadata(satellite):
    head, (body,) = make_update(bundle())
    satellite.receive(datagrams(body.all_frames()), 1.0)
    satellite.advance(4.0)

    assert satellite.owner.arrivals == []
    satellite.receive(datagrams(head.all_frames()), 5.0)
    satellite.advance(8.0)

    assert satellite.owner.num_whole == 1


def test_what_is_reported_is_durable_and_the_rest_goes_with_the_power(satellite):
    _, (body,) = make_update(bundle())
    frames = body.all_frames()
    satellite.receive(datagrams(frames[:10]), 1.0)
    satellite.advance(2.0)
    (block,) = reports(satellite)[-1].open_blocks
    satellite.receive(datagrams(frames[10:25]), 3.0)
    satellite.kill(3.01)

    assert block.have == 10
    assert satellite.num_cut == 15
    assert satellite.useful.num_held == 10


def test_a_sync_counts_only_when_the_medium_is_through(satellite):
    _, (body,) = make_update(bundle())
    satellite.receive(datagrams(body.all_frames()[:10]), 1.0)
    satellite.kill(1.1)  # the sync began at 1.05, in silence, and takes a tenth of a second

    assert satellite.num_cut == 10


def test_a_satellite_that_was_killed_goes_on_from_what_it_has(satellite):
    head, (body,) = make_update(bundle())
    frames = body.all_frames()
    satellite.receive(datagrams([*head.all_frames(), *frames[:30]]), 1.0)
    satellite.advance(2.0)
    satellite.kill(2.0)
    satellite.receive(datagrams(frames[30:]), 3.0)
    satellite.advance(5.0)

    assert satellite.owner.num_whole == 1
    assert satellite.num_cut == 0


def test_a_damaged_frame_is_counted_and_changes_nothing(satellite):
    _, (body,) = make_update(bundle())
    good = datagrams(body.all_frames()[:2])
    satellite.receive([good[0][:-1] + bytes([good[0][-1] ^ 1]), good[1]], 1.0)

    assert satellite.useful.num_held == 1
    assert sum(satellite.statistics().frames_rejected.values()) == 1


def test_symbols_beyond_what_is_needed_are_not_useful(satellite):
    _, (body,) = make_update(bundle(num_symbols=20))
    satellite.receive(datagrams(body.frames(0, 0, 30)), 1.0)

    assert satellite.useful.num_held == 20
    assert satellite.useful.by_station == {0: 20}
    assert satellite.num_received == {0: 30}


def test_a_silent_satellite_says_nothing(tmp_path):
    satellite = SimulatedSatellite(tmp_path, KEY, SatelliteOptions(is_silent=True))
    _, (body,) = make_update(bundle())
    satellite.receive(datagrams(body.all_frames()), 1.0)
    satellite.advance(100.0)

    assert not satellite.outgoing


def test_power_takes_what_was_held_back_but_not_what_settled(tmp_path):
    disk = ForgetfulDisk()
    path = tmp_path / "log"
    handle = disk.open_log(path)
    disk.write(handle, b"first")
    disk.sync(handle)
    disk.write(handle, b"second")
    disk.hold()
    disk.sync(handle)
    held = disk.release()
    disk.write(handle, b"third")
    disk.close(handle)

    disk.lose_power(tmp_path)
    assert path.read_bytes() == b"first"

    handle = disk.open_log(path)
    disk.write(handle, b"second")
    disk.settle(held)
    disk.lose_power(tmp_path)
    assert path.read_bytes() == b"firstsecond"


def talk(*requests):
    """Ask the service; returns its answers."""
    packed = [msgpack.packb(request) for request in requests]
    answers = io.BytesIO()
    serve(io.BytesIO(b"".join(struct.pack(">I", len(data)) + data for data in packed)), answers)
    data, found = answers.getvalue(), []
    while data:
        size = struct.unpack(">I", data[:4])[0]
        found.append(msgpack.unpackb(data[4 : 4 + size], strict_map_key=False))
        data = data[4 + size :]
    return found


def test_the_service_answers_every_request(tmp_path):
    _, (body,) = make_update(bundle())
    frames = datagrams(body.all_frames()[:10])
    answers = talk(
        ["begin", str(tmp_path), KEY, {"sync_interval_s": 0.5}],
        ["step", 1.0, frames],
        ["step", 2.0, []],
        ["kill", 3.0],
        ["look"],
    )

    assert answers[0] == []
    assert answers[1][1] == 0
    assert all(FrameCodec(Direction.DOWN, KEY).decode(data).kind is FrameKind.REPORT for _, data in answers[2][0])
    assert answers[4][0]["symbols_held"] == 10
    assert answers[4][0]["boot_count"] == 2


@pytest.mark.parametrize("request_", [["step", 1.0, []], ["look"], ["dance"], {"op": "step"}, 7])
def test_the_service_refuses_what_is_not_its_own(request_):
    with pytest.raises(ConfigError):
        talk(request_)


@pytest.mark.parametrize("data", [b"\0", b"\xff\xff\xff\xff", struct.pack(">I", MESSAGE_SIZE_MAX + 1)])
def test_the_service_refuses_a_length_that_cannot_be(data):
    with pytest.raises(ConfigError):
        serve(io.BytesIO(data), io.BytesIO())
