"""Profiles: the shipped ones, and what is said about broken ones."""

import itertools
import math
from pathlib import Path

import pytest

from groundsegment.emulator.conditions import BurstLoss, Contact, DirectionProfile, LinkProfile, PeriodicContacts
from groundsegment.emulator.profile import PROFILE_BYTES_MAX, load_profile, parse_profile, profile_names, profile_text
from groundsegment.errors import InputError

EVERYTHING = """
description: All keys.
up:
  rate_bps: 2e6
  delay_s: 0.027
  jitter_s: 0.004
  loss: 0.01
  burst: {p_good_to_bad: 0.001, p_bad_to_good: 0.05, loss_good: 0.002, loss_bad: 0.8}
  bit_error_rate: 1e-6
  duplicate: 0.01
  reorder: {probability: 0.02, delay_s: 0.1}
  queue_bytes_max: 262_144
down: null
contacts:
  - {start_s: 0, end_s: 420, station: svalbard}
  - {start_s: 5700, end_s: null}
time_scale: 60
"""


def refusal_of(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_profile(text, name="mine", source="mine.yaml")
    assert caught.value.hint
    return caught.value


def test_every_key_is_read() -> None:
    burst = BurstLoss(p_good_to_bad=0.001, p_bad_to_good=0.05, loss_good=0.002, loss_bad=0.8)
    assert parse_profile(EVERYTHING, name="mine", source="mine.yaml") == LinkProfile(
        name="mine",
        description="All keys.",
        up=DirectionProfile(
            rate_bps=2_000_000,
            delay_s=0.027,
            jitter_s=0.004,
            loss=0.01,
            burst=burst,
            bit_error_rate=1e-6,
            duplicate=0.01,
            reorder=0.02,
            reorder_delay_s=0.1,
            queue_bytes_max=262_144,
        ),
        down=None,
        contacts=(
            Contact(start_s=0, end_s=420, station="svalbard"),
            Contact(start_s=5700, end_s=math.inf),
        ),
        time_scale=60,
    )


def test_what_is_left_out_does_no_harm() -> None:
    assert parse_profile("up: {}", name="x", source="x.yaml") == LinkProfile(name="x")


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("up:\n  rate_bps: fast", "mine.yaml:2: up.rate_bps", "a number"),
        ("up:\n  rate_bps: 0", "mine.yaml:2: up.rate_bps", "more than 0"),
        ("up:\n  rate_bps: .inf", "mine.yaml:2: up.rate_bps", "a number"),
        ("up:\n  loss: [1]", "mine.yaml:2: up.loss", "a number"),
        ("up:\n\n  loss: 10", "mine.yaml:3: up.loss", "between 0 and 1"),
        ("down:\n  delay_s: -1", "mine.yaml:2: down.delay_s", "0 or more"),
        ("up:\n  los: 0.1", "mine.yaml:2: up.los", "unknown key"),
        ("up:\n  loss: 0.1\n  loss: 0.2", "mine.yaml:3: up.loss", "twice"),
        ("up: 7", "mine.yaml:1: up", "mapping"),
        ("up: null", "mine.yaml:1: up", "mapping"),
        ("up:\n  queue_bytes_max: 1.5", "mine.yaml:2: up.queue_bytes_max", "whole number"),
        ("up:\n  burst:\n    p_good_to_bad: 0.1", "mine.yaml:3: up.burst", "'p_bad_to_good'"),
        ("up:\n  reorder: {probability: 0.1}", "mine.yaml:2: up.reorder", "'delay_s'"),
        ("contacts: 5", "mine.yaml:1: contacts", "list"),
        ("contacts:\n- {start_s: 0, end_s: 1}\n- {start_s: 5}", "mine.yaml:3: contacts[1]", "'end_s'"),
        ("contacts:\n- {start_s: 5, end_s: 5}", "mine.yaml:2: contacts[0]", "not after its start"),
        ("contacts: {period_s: 5, duration_s: 5}", "mine.yaml:1: contacts", "no gap"),
        ("contacts: {period_s: 5, duration_s: 1, count: 0}", "mine.yaml:1: contacts.count", "at least 1"),
        ("time_scale: 0", "mine.yaml:1: time_scale", "more than 0"),
        ("description: [a]", "mine.yaml:1: description", "text"),
        ("- up", "mine.yaml:1", "mapping"),
        ("up: {loss: [}", "mine.yaml:1", "not YAML"),
        ("up: \x00", "mine.yaml", "not YAML"),
        ("", "mine.yaml", "empty"),
        ("a: 1\n---\nb: 2", "mine.yaml:2", "not YAML"),
    ],
)
def test_a_broken_profile_is_refused_by_key_and_line(text: str, place: str, problem: str) -> None:
    message = str(refusal_of(text))
    assert message.startswith(place)
    assert problem in message


def test_a_misspelt_key_is_met_with_the_right_one() -> None:
    assert "'rate_bps'" in refusal_of("up: {rate_bp: 5}").hint


def test_a_misspelt_name_is_met_with_the_right_one() -> None:
    with pytest.raises(InputError) as caught:
        load_profile("s-bnad")
    assert "did you mean s-band" in caught.value.hint


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "mars.yaml"
    path.write_text("up: {delay_s: 1200}")
    assert load_profile(path).name == "mars"
    assert load_profile(str(path)).up.delay_s == 1200


def test_what_is_no_profile_at_all_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="not text"):
        load_profile(path)
    path.write_bytes(bytes(PROFILE_BYTES_MAX + 1))
    with pytest.raises(InputError, match="larger"):
        load_profile(path)


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_are_valid_and_say_what_they_are(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert len(profile.description) > 20
    assert parse_profile(profile_text(name), name=name, source=name) == profile


def test_shipped_profiles_keep_the_promises_of_their_names() -> None:
    assert profile_names() == ["clear", "degraded", "demo", "one-way", "s-band", "three-stations", "x-band"]
    assert load_profile("s-band").up.rate_bps == 2e6
    assert load_profile("x-band").up.rate_bps == 10e6
    assert load_profile("one-way").is_one_way
    assert load_profile("degraded").up.mean_loss == pytest.approx(0.1, abs=0.002)
    assert load_profile("degraded").up.bit_error_rate > 0
    clear = load_profile("clear")
    assert (clear.up, clear.contacts) == (DirectionProfile(), ())
    demo = load_profile("demo")
    assert demo.up.mean_loss == pytest.approx(0.10)
    assert demo.down is not None
    assert demo.down.mean_loss == pytest.approx(0.05)
    windows = demo.contact_windows(1000)
    assert [after[0] - before[1] for before, after in itertools.pairwise(windows)] == [3, 3, 3]
    assert windows[-1][1] == 1000


def test_windows_are_cut_off_at_the_time_asked_for() -> None:
    profile = LinkProfile(contacts=PeriodicContacts(period_s=10, duration_s=4, first_s=1, count=3))
    assert profile.contact_windows(1) == []
    assert profile.contact_windows(12) == [(1, 5), (11, 12)]
    assert profile.contact_windows(1e9) == [(1, 5), (11, 15), (21, 25)]


def test_an_empty_list_of_contacts_is_a_link_that_is_always_up() -> None:
    assert LinkProfile().contact_windows(60) == [(0, 60)]
    assert LinkProfile().contact_at(1e9) == (True, math.inf)


def test_periodic_contacts_begin_and_end_to_the_ulp_however_far_out() -> None:
    contacts = PeriodicContacts(period_s=0.3, duration_s=0.1, first_s=0.1, count=5000)
    profile = LinkProfile(contacts=contacts)
    for start_s, end_s in profile.contact_windows(1e9):
        assert profile.contact_at(math.nextafter(start_s, 0)) == (False, start_s)
        assert profile.contact_at(start_s) == (True, end_s)
        assert profile.contact_at(math.nextafter(end_s, 0)) == (True, end_s)
        assert not profile.contact_at(end_s)[0]
    assert profile.contact_at(1e9) == (False, math.inf)


def test_contacts_of_two_stations_that_overlap_are_one_window() -> None:
    contacts = (Contact(start_s=5, end_s=9, station="b"), Contact(start_s=0, end_s=6, station="a"))
    assert LinkProfile(contacts=contacts).contact_windows(60) == [(0, 9)]


def test_bit_errors_make_long_frames_lossier() -> None:
    conditions = DirectionProfile(loss=0.1, bit_error_rate=1e-5)
    assert conditions.frame_loss(0) == pytest.approx(0.1)
    assert conditions.frame_loss(1250) == pytest.approx(1 - 0.9 * math.exp(-0.1), rel=1e-4)


STATIONS = """
up: {rate_bps: 2e6, loss: 0.1}
contacts:
  - {start_s: 0, end_s: 100, station: svalbard}
  - {start_s: 50, end_s: 150, station: awarua}
stations:
  svalbard: {up: {loss: 0.02}}
  awarua: {down: null}
  inuvik: {contacts: [{start_s: 200, end_s: 300}]}
"""


def test_a_station_has_what_it_says_and_else_what_all_have() -> None:
    svalbard, awarua, inuvik = parse_profile(STATIONS, name="mine", source="mine.yaml").stations
    assert [link.name for link in (svalbard, awarua, inuvik)] == ["svalbard", "awarua", "inuvik"]
    assert (svalbard.up.loss, svalbard.up.rate_bps) == (0.02, None)  # a direction is given whole
    assert (awarua.up.loss, awarua.up.rate_bps, awarua.is_one_way) == (0.1, 2e6, True)
    assert [link.contact_windows(1e9) for link in (svalbard, awarua, inuvik)] == [[(0, 100)], [(50, 150)], [(200, 300)]]


def test_contacts_without_names_are_everybodys() -> None:
    text = "contacts: [{start_s: 1, end_s: 2}]\ntime_scale: 60\nstations: {a: {}, b: {}}"
    for link in parse_profile(text, name="mine", source="mine.yaml").stations:
        assert link.contact_windows(9) == [(1, 2)]
        assert link.time_scale == 60


@pytest.mark.parametrize(
    ("stations", "words"),
    [
        ("{svalbard: {los: 0.1}}", "stations.svalbard.los: unknown key"),
        ("{'../x': {}}", "cannot be a station's name"),
        ("{a: {}, a: {}}", "given twice"),
        ("[a]", "must be a mapping"),
        ("{a: {time_scale: 2}}", "unknown key"),
        ("{b: {}}\ncontacts: [{start_s: 0, end_s: 1, station: a}]", "no contact bears its name"),
        (f"{{{', '.join(f's{number}: {{}}' for number in range(16))}}}", "16 stations"),
    ],
)
def test_a_bad_station_names_its_place(stations: str, words: str) -> None:
    assert words in str(refusal_of(f"stations: {stations}"))
