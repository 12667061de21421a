"""A withdrawn station key is void: at once, across restarts, for symbols that were flowing; others' are not."""

import asyncio

import pytest

from onboard.errors import UnknownError
from onboard.receiver.intake import Intake
from onboard.store.record import OnboardRecord, RecordStore
from onboard.telemetry import Telemetry
from onboard.withdrawal import GENERATION_STEP_MAX, StationKeys
from protocol.errors import DecodeError
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction, derive_station_key
from tests.fakes.contacts import contact_key

MASTER = bytes(range(32))


def frames(station, generation=0, first=0, count=4, is_short=False):
    codec = FrameCodec(Direction.UP, contact_key(MASTER, station, 0, generation), station=station)
    return [
        codec.encode(
            Frame(kind=FrameKind.PLAIN, handle=b"object", num_symbols=64, esi=first + n, payload=bytes([n]) * 64),
            is_short=is_short,
        )
        for n in range(count)
    ]


class Link:
    """Codec and intake of a satellite, as the receiver joins them."""

    def __init__(self, path):
        self.codec = FrameCodec(Direction.UP, MASTER)
        self.intake = Intake(self.codec)
        self.store = RecordStore(path)
        if self.store.load() is None:
            self.store.create(OnboardRecord())
        self.keys = StationKeys(self.store, self.apply, Telemetry(lambda: 0.0))
        self.keys.start()

    def apply(self, station, generation):
        self.codec.set_generation(station, generation)
        self.intake.forget_station(station)

    def withdraw(self, **args):
        return asyncio.run(self.keys.withdraw(args))

    def taken(self, datagrams):
        batch = self.intake.sort([(data, None) for data in datagrams])
        return sum(len(run.esis) for run in batch.runs), sum(batch.rejected.values())


@pytest.fixture
def link(tmp_path):
    return Link(tmp_path / "record")


@pytest.mark.parametrize("is_short", [False, True])
def test_frames_under_the_old_key_are_void_even_in_mid_flow(link, is_short):
    assert link.taken(frames(2)) == (4, 0)
    link.withdraw(station=2, generation=1)

    batch = link.intake.sort([(data, None) for data in frames(2, first=8, is_short=is_short)])
    assert (batch.runs, batch.rejected) == ([], {"unknown" if is_short else "checksum": 4})
    assert link.taken(frames(2, generation=1, first=16)) == (4, 0)


def test_other_stations_go_on(link):
    assert link.taken(frames(3)) == (4, 0)
    link.withdraw(station=2, generation=1)

    assert link.taken(frames(3, first=8)) == (4, 0)
    assert link.taken(frames(0)) == (4, 0)


def test_a_restart_does_not_bring_the_old_key_back(link, tmp_path):
    link.withdraw(station=2, generation=5)
    again = Link(tmp_path / "record")

    assert again.taken(frames(2)) == (0, 4)
    assert again.taken(frames(2, generation=5)) == (4, 0)


def test_the_generation_is_durable_before_the_link_hears_of_it(link, tmp_path):
    seen = []
    link.keys._apply = lambda station, generation: seen.append(
        RecordStore(tmp_path / "record").load().stations[station]
    )
    link.withdraw(station=2, generation=3)

    assert seen == [3]


def test_it_only_rises_and_the_same_again_is_no_error(link):
    link.withdraw(station=2, generation=3)
    assert link.withdraw(station=2, generation=3)["ok"]
    with pytest.raises(UnknownError, match="has generation 3 already"):
        link.withdraw(station=2, generation=2)


@pytest.mark.parametrize("args", [{"station": 0, "generation": 1}, {"station": 16, "generation": 1}, {"station": 1}])
def test_home_and_stations_that_are_none_are_not_withdrawn(link, args):
    with pytest.raises(DecodeError):
        link.withdraw(**args)


def test_keys_of_generations_say_nothing_of_each_other():
    keys = {derive_station_key(MASTER, station, generation) for station in range(16) for generation in range(20)}

    assert len(keys) == 16 * 20


def test_a_stolen_command_key_takes_no_station_out_of_use_for_ever(link):
    link.withdraw(station=2, generation=GENERATION_STEP_MAX)
    with pytest.raises(UnknownError, match="too far ahead"):
        link.withdraw(station=2, generation=2 * GENERATION_STEP_MAX + 1)
    link.withdraw(station=2, generation=GENERATION_STEP_MAX + 1)
    assert link.store.record.stations[2] == GENERATION_STEP_MAX + 1
