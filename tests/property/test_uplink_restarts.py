"""Whatever is killed, however long the gap, whatever the clock says: the sender goes on, and sends little twice.

At most a second of what came is lost on board when the power goes there; a ground process loses nothing that it sent.
"""

import random

import pytest

from groundsegment.uplink.sender.core import UplinkOptions
from tests.fakes.sky import FIFTY_MB, one_station, several_stations

SMALL = (2000, 2000, 2000)
WEEK_S = 7 * 86400.0


def drawn(seed):
    """A loss, and when somebody dies."""
    rng = random.Random(seed)
    return rng.choice([0.0, 0.1, 0.3]), sorted(rng.uniform(0.1, 8.0) for _ in range(1 + seed % 4))


def arrived(sky):
    """Symbols of bundles that came, as a share of those that were needed and of those that a power cut took."""
    return sky.ratio * sky.num_source / (sky.num_source + sky.satellite.num_cut)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("delay_s", [0.02, 0.4])
def test_a_ground_process_that_dies_sends_nothing_twice_nor_what_is_in_flight(seed, delay_s):
    mean, kills = drawn(seed)
    sky = one_station(mean, seed=seed, bundles=SMALL, delay_s=delay_s, loss_down=0.3, keep_used=True)
    (station,) = sky.stations
    for time_s in kills:
        sky.run(time_s)
        station.kill(clock_s=1000.0 * time_s)

    assert sky.run(200)
    assert station.num_repeated == 0
    assert arrived(sky) <= 1.025


@pytest.mark.parametrize("seed", range(8))
def test_a_satellite_that_loses_its_power_costs_a_second_each_time(seed):
    mean, kills = drawn(seed)
    sky = one_station(mean, seed=seed, bundles=SMALL)
    for time_s in kills:
        sky.run(time_s)
        sky.satellite.kill()

    assert sky.run(200)
    assert sky.satellite.num_cut <= len(kills) * 1.1 * 1000
    assert arrived(sky) <= 1.02


@pytest.mark.parametrize("gap_s", [5400.0, WEEK_S])
@pytest.mark.parametrize("dies", ["nobody", "ground", "satellite", "both"])
def test_a_gap_costs_nothing(gap_s, dies):
    contacts = ((0.0, 3.0), (gap_s, gap_s + 2.5), (2 * gap_s, 1e9))
    sky = one_station(0.1, bundles=SMALL, contacts=contacts, delay_s=0.1, keep_used=True)
    (station,) = sky.stations
    for number in (1, 2):
        sky.run(contacts[number - 1][1] + 2.0)  # what was in flight is synced
        if dies in {"ground", "both"}:
            station.kill(clock_s=-sky.now)
        if dies in {"satellite", "both"}:
            sky.satellite.kill()
        sky.skip(contacts[number][0] - 1.0)

    assert sky.run(2 * gap_s + 100.0)
    assert station.num_repeated == 0
    assert sky.satellite.num_cut == 0
    assert sky.ratio <= 1.015


def test_what_is_in_flight_when_a_report_comes_late_is_not_sent_again():
    options = UplinkOptions(silence_s=12.0)
    sky = one_station(0.1, bundles=(3000,), delay_s=2.0, satellite={"report_s": 3.0}, options=options)

    assert sky.run(200)
    assert sky.ratio <= 1.02


def test_the_loss_of_the_last_contact_is_where_the_next_one_begins():
    sky = one_station(0.3, bundles=SMALL, contacts=((0.0, 4.0), (100.0, 1e9)), loss_down=0.4)
    (station,) = sky.stations
    sky.run(6.0)
    station.kill()

    assert station.core.loss.mean == pytest.approx(0.3, abs=0.05)
    assert station.core.loss.weight <= 400
    assert station.core.loss_down.mean == pytest.approx(0.4, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_fifty_megabytes_through_many_kills_of_both_ends_come_near_the_limit(seed):
    sky = one_station(0.1, seed=seed, bundles=FIFTY_MB, loss_down=0.3, delay_s=0.2, keep_used=True)
    for number in range(1, 11):
        sky.run(4.0 * number - 0.05 * seed)
        sky.satellite.kill() if number % 2 else sky.stations[0].kill()

    assert sky.run(600)
    assert sky.stations[0].num_repeated == 0
    assert arrived(sky) <= 1.01


@pytest.mark.slow
def test_stations_that_come_go_and_die_still_send_hardly_anything_too_much():
    specs = (
        {"mean": 0.05, "contacts": ((0.0, 20.0), (3000.0, 3030.0)), "keep_used": True},
        {"mean": 0.1, "contacts": ((10.0, 30.0), (3010.0, 1e9)), "keep_used": True},
        {"mean": 0.3, "contacts": ((15.0, 35.0), (3020.0, 1e9)), "keep_used": True},
    )
    sky = several_stations([{**spec, "rate_fps": 400, "delay_s": 0.1, "loss_down": 0.2} for spec in specs])
    sky.run(18.0)
    sky.stations[1].kill()
    sky.run(40.0)
    sky.stations[0].kill()
    sky.satellite.kill()
    sky.skip(2999.0)

    assert sky.run(3600.0)
    used = [station.used for station in sky.stations]
    assert sum(map(len, used)) == len(set.union(*used))
    assert arrived(sky) <= 1.01
