"""Missions in virtual time, in one process: what they carry, count and believe; scenarios, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

from groundsegment.emulator.conditions import Contact, DirectionProfile, LinkProfile
from groundsegment.errors import InputError
from groundsegment.simulation.ad_hoc import of_plan, of_profile
from groundsegment.simulation.flying import mission_plan, scheme_of
from groundsegment.simulation.mission import Mission, MissionPlan, StationPlan
from groundsegment.simulation.payload import PayloadStore
from groundsegment.simulation.random_missions import MissionReport, summarize
from groundsegment.simulation.random_plan import random_mission
from groundsegment.simulation.scenario_file import load_scenario, parse_scenario, parse_size, scenario_names
from groundsegment.simulation.schemes import fly_bitmap_rounds, fly_carousel, fly_fixed_rate, fly_nak_per_pass
from groundsegment.simulation.weather import ContactWeather, make_weather
from tests.fakes.simulating import SatelliteHere

SYMBOL_SIZE = 64
RATE_BPS = 400_000.0  # some 600 frames a second
CONTACTS = tuple(Contact(start_s=number * 6000.0, end_s=number * 6000.0 + 12.0) for number in range(12))


def link(loss=0.1, *, contacts=CONTACTS, down_loss=0.1, one_way=False, name="here", delay_s=0.02):
    return LinkProfile(
        name=name,
        up=DirectionProfile(rate_bps=RATE_BPS, loss=loss, delay_s=delay_s),
        down=None if one_way else DirectionProfile(loss=down_loss, delay_s=delay_s),
        contacts=contacts,
    )


def fly(
    *links,
    sizes=(3000,),
    plan_options=None,
    update_options=({},),
    satellite_class=SatelliteHere,
    seed=1,
    bundle_symbols=1500,
):
    """Fly updates of so many symbols."""
    options = [*update_options, *[{}] * len(sizes)]
    plan = MissionPlan(
        stations=tuple(StationPlan(name=one.name, link=one, rate_bps=RATE_BPS) for one in links),
        until_s=80_000.0,
        satellite={"is_silent": all(one.is_one_way for one in links), "install_s": 1.0},
        seed=seed,
        **(plan_options or {}),
    )
    seen = []
    with PayloadStore(SYMBOL_SIZE) as store, satellite_class() as satellite:
        updates = [
            store.add_random(
                f"no-{number}", count * SYMBOL_SIZE, bundle_bytes=bundle_symbols * SYMBOL_SIZE, seed=seed, **given
            )
            for number, (count, given) in enumerate(zip(sizes, options, strict=False))
        ]
        result = Mission(plan, updates, store, satellite, on_contact=seen.append).fly()
    assert tuple(seen) == result.contacts
    return result


def test_a_mission_brings_everything_and_every_symbol_is_accounted_for():
    result = fly(link())

    (update,) = result.updates
    assert update.is_confirmed
    assert update.is_known
    assert update.wrong_bytes == 0
    assert result.contacts[-1].share_done == 1.0
    assert result.symbol_ratio < 1.05
    assert sum(row.symbols_useful for row in result.contacts) == result.totals.symbols_needed
    for row in result.contacts:
        assert row.symbols_useful + row.symbols_surplus + row.symbols_lost == row.symbols_sent
    assert sum(row.frames_sent for row in result.contacts) == result.totals.frames_sent


def test_a_mission_without_a_way_back_ends_when_all_is_on_board():
    result = fly(link(one_way=True))

    (update,) = result.updates
    assert update.on_board_s is not None
    assert not update.is_known
    assert result.done_s is None
    assert not any(row.was_heard for row in result.contacts)


def test_a_plan_that_is_too_short_leaves_the_update_on_the_ground():
    result = fly(link(contacts=CONTACTS[:1]), sizes=(30_000,))

    assert result.complete_s is None
    assert result.updates[0].on_board_s is None
    assert 0 < result.contacts[-1].share_done < 1


@pytest.mark.slow
def test_stations_share_a_transfer_and_send_nothing_twice():
    shifted = tuple(Contact(start_s=one.start_s + 5, end_s=one.end_s + 5) for one in CONTACTS)
    result = fly(link(name="near"), link(0.25, name="far", contacts=shifted), sizes=(9000,))

    assert result.updates[0].is_confirmed
    assert result.totals.symbols_repeated == 0
    assert {row.station for row in result.contacts if row.symbols_useful} == {"near", "far"}
    assert result.symbol_ratio < 1.05


@pytest.mark.slow
def test_an_urgent_update_overtakes():
    late = {"priority": 10, "staged_s": 6000.0}
    result = fly(link(), sizes=(25_000, 600), update_options=({}, late))

    model, adapter = result.updates
    assert adapter.on_board_s < 6012.0
    assert model.on_board_s > 12_000.0


@pytest.mark.slow
def test_kills_of_either_side_cost_what_was_not_durable():
    kills = {"ground_kills": ((4.0, 0), (6004.0, 0)), "satellite_kills": (5.03, 6006.5)}
    result = fly(link(), sizes=(12_000,), plan_options=kills)

    assert result.totals.num_kills == 4
    assert result.totals.symbols_cut > 0
    assert result.updates[0].is_confirmed
    assert result.updates[0].wrong_bytes == 0


def test_a_station_killed_in_a_later_contact_repeats_nothing():
    """What it had reserved in the first contact, and not used, must be written down again before it is used."""
    kills = {"ground_kills": ((6000.8, 0), (6001.9, 0))}
    result = fly(link(), sizes=(9000,), plan_options=kills, bundle_symbols=8000)

    assert result.totals.symbols_repeated == 0


def test_a_silence_in_mid_flight_only_costs():
    result = fly(link(), sizes=(9000,), plan_options={"silences": ((3.0, 6003.0),)})

    assert result.updates[0].is_confirmed
    assert result.totals.symbols_repeated == 0


class LyingSatellite(SatelliteHere):
    """Says of each object that it has other bytes."""

    def look(self):
        view = super().look()
        return replace(view, arrivals=dict.fromkeys(view.arrivals, bytes(32)))


def test_a_wrong_byte_is_found():
    result = fly(link(), satellite_class=LyingSatellite)

    assert result.wrong_bytes == len(result.updates) * 3  # metadata and two bundles


def test_a_result_is_json_of_plain_values():
    value = fly(link()).as_json()

    assert value["num_contacts"] == 1
    assert value["wrong_bytes"] == 0
    assert value["contacts"][0]["station"] == "here"


def test_a_real_run_is_a_scheme_among_others():
    result = fly(link())
    scheme = scheme_of("skyload", result)

    assert scheme.num_contacts == result.num_contacts
    assert scheme.shares[-1] == 1.0
    assert scheme.limit_ratio == pytest.approx(result.symbol_ratio, abs=0.01)


# Schemes


def clear(slots=1000, num_contacts=8, lost=()):
    """Weather in which only some slots are lost."""
    arrives = np.ones(slots * num_contacts, dtype=np.bool_)
    arrives[list(lost)] = False
    return [
        ContactWeather(start_s=number * 1000.0, duration_s=100.0, arrives=part)
        for number, part in enumerate(np.split(arrives, num_contacts))
    ]


def test_where_nothing_is_lost_every_scheme_sends_each_symbol_once():
    for result in (fly_carousel(clear(), 2500), fly_nak_per_pass(clear(), 2500), fly_fixed_rate(clear(), 2400, 0.0)):
        assert result.limit_ratio == 1
        assert result.num_contacts == 3


def test_a_carousel_waits_a_whole_round_for_one_lost_symbol():
    assert fly_carousel(clear(lost=[0]), 2500).frames_sent == 2501


def test_naks_bring_a_lost_symbol_first_in_the_next_contact():
    result = fly_nak_per_pass(clear(lost=[5]), 1500)

    assert result.frames_sent == 1501
    assert result.num_contacts == 2


def test_bitmap_rounds_go_round_once_more_for_what_was_lost():
    result = fly_bitmap_rounds(clear(lost=[300]), 1500)

    assert result.frames_sent == 1501


def test_a_fixed_rate_forgives_as_many_losses_as_it_has_repair():
    lossy = clear(lost=range(0, 400, 20))  # 5 % of the first slots

    assert fly_fixed_rate(lossy, 2000, 0.2).limit_ratio < fly_fixed_rate(lossy, 2000, 0.0).limit_ratio


def test_weather_is_that_of_the_channel():
    one = link(0.2)
    weather = make_weather([one], [RATE_BPS], until_s=80_000.0, frame_size=84, seed=3, most=10**9)
    arrives = np.concatenate([contact.arrives for contact in weather])

    assert len(weather) == len(CONTACTS)
    assert arrives.mean() == pytest.approx(0.8, abs=0.01)


# Scenarios


def test_every_shipped_scenario_is_valid_and_has_a_plan():
    for name in scenario_names():
        scenario = load_scenario(name)
        plan = mission_plan(scenario)
        assert scenario.description
        assert plan.stations
        assert scenario.payload_bytes < 200_000_000, "a scenario of seconds"
        assert load_scenario(name, is_full=True).payload_bytes > scenario.payload_bytes
        assert len(plan.ground_kills) == scenario.ground_kills


def test_a_scaled_scenario_keeps_its_contacts_and_shortens_them():
    full, small = load_scenario("adaspace", is_full=True), load_scenario("adaspace")
    longest = [max(contact.end_s - contact.start_s for contact in one.links[0].contacts) for one in (full, small)]

    assert len(full.links[0].contacts) == len(small.links[0].contacts)
    assert longest[0] / longest[1] == pytest.approx(small.scale)
    assert full.payload_bytes == 5_000_000_000
    assert small.links[0].up.rate_bps == full.links[0].up.rate_bps


GOOD = {"updates": [{"name": "one", "size": "1MB"}], "link": {"up": {"rate_bps": 1e6}}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"updates": []}, "updates"),
        ({"updates": [{"size": "1 parsec"}]}, "size"),
        ({"updates": [{"size": "1MB", "wait": 3}]}, "wait"),
        ({"scale": 0}, "scale"),
        ({"scale": True}, "scale"),
        ({"link": {"up": {"los": 0.1}}}, "los"),
        ({"link": []}, "link"),
        ({"passes": {"a": {"per_dy": 3}}}, "per_dy"),
        ({"kills": {"pilot": 1}}, "pilot"),
        ({"silences": [{"from_h": 3, "to_h": 2}]}, "ends before"),
        ({"silences": 3}, "silences"),
        ({"symbol_size": 63}, "symbol size"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_scenario_is_refused_by_the_name_of_its_key(change, said):
    with pytest.raises(InputError, match=said):
        parse_scenario({**GOOD, **change}, name="x", source="x.yaml", seed=None)


def test_a_good_scenario_is_read():
    scenario, scale = parse_scenario(GOOD, name="x", source="x.yaml", seed=5)

    assert scale == 1.0
    assert scenario.seed == 5
    assert scenario.updates[0].size_bytes == 1_000_000


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("64MiB", 64 << 20), ("1.5kB", 1500), ("7", 7)])
def test_sizes_are_read_with_their_units(text, size):
    assert parse_size(text, option="--size") == size


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "300TB", "0", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError):
        parse_size(text, option="--size")


def test_a_contact_plan_becomes_links_of_its_stations(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "epoch: 2026-11-22T06:00:00Z\nrate: 1Mbit/s\nloss: 7%\n"
        "contacts:\n  - {station: a, start_s: 50, end_s: 90}\n  - {station: b, start_s: 60, end_s: 99, rate: 2Mbit/s}\n"
    )
    first, second = of_plan(path, seed=None).links

    assert first.contacts == (Contact(start_s=0.0, end_s=40.0, station="a"),)
    assert second.contacts == (Contact(start_s=10.0, end_s=49.0, station="b"),)
    assert (first.up.rate_bps, second.up.rate_bps) == (1e6, 2e6)
    assert first.up.loss == 0.07


def test_a_profile_becomes_a_link():
    (one,) = of_profile("s-band", seed=3).links

    assert one.up.rate_bps == 2e6


def test_a_link_without_a_rate_cannot_be_flown():
    scenario, _ = parse_scenario({**GOOD, "link": {}}, name="x", source="x.yaml", seed=None)

    with pytest.raises(InputError, match="rate"):
        mission_plan(scenario)


# Random missions


def test_random_missions_differ_and_are_the_same_for_the_same_seed():
    some = [random_mission(seed) for seed in range(30)]

    assert random_mission(7) == some[7]
    assert len({len(mission.plan.stations) for mission in some}) == 3
    assert len({len(mission.updates) for mission in some}) == 3
    assert any(mission.has_return_path for mission in some)
    assert any(mission.plan.is_one_way for mission in some)
    assert any(mission.plan.silences for mission in some)


def test_a_summary_says_the_worst():
    common = {"num_symbols": 5, "num_contacts": 2, "num_kills": 1, "days": 1.0, "seed": 1}
    good = MissionReport(has_return_path=True, symbol_ratio=1.01, problems=(), **common)
    bad = MissionReport(has_return_path=True, symbol_ratio=1.2, problems=("too much",), **common)
    summary = summarize([good, bad, replace(good, has_return_path=False, symbol_ratio=math.nan)])

    assert summary["failed"] == 1
    assert summary["symbol_ratio_max"] == 1.2
    assert summary["with_return_path"] == 2
