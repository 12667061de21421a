import dataclasses
import itertools
import math

import pytest

from groundsegment.emulator.profile import load_profile, parse_profile, profile_names
from groundsegment.errors import InputError
from groundsegment.planner.contact_plan import (
    PlannedContact,
    always,
    from_profile,
    load_contact_plan,
    parse_contact_plan,
    periodic,
)
from groundsegment.planner.forecast import Load, Weather, forecast
from groundsegment.planner.quantities import (
    format_bytes,
    format_duration,
    format_rate,
    format_utc,
    parse_duration,
    parse_rate,
    parse_share,
    parse_utc,
)

T0 = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("2Mbit/s", 2e6),
        ("250 kbit/s", 250e3),
        ("1.5MB/s", 12e6),
        ("9600bit/s", 9600),
        ("1e6 bit/s", 1e6),
        ("2mbit/s", 2e6),
    ],
)
def test_rates_say_bits_or_bytes(text, bits):
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["2", "2M", "2Mb", "2Mbps", "fast", "", "-1Mbit/s", "0bit/s", "1..2bit/s"])
def test_a_rate_without_a_clear_unit_is_refused(text):
    with pytest.raises(InputError, match="not a rate") as caught:
        parse_rate(text)
    assert "Mbit/s" in caught.value.hint


def test_durations_shares_and_times_are_read():
    assert parse_duration("7min", option="--duration") == 420
    assert parse_share("10%", option="--loss") == parse_share("0.1", option="--loss") == 0.1
    assert parse_utc("2026-11-22T06:00:00Z", option="x") == parse_utc("2026-11-22 07:00:00+01:00", option="x")
    for read, text in ((parse_duration, "7"), (parse_share, "100%"), (parse_share, "x"), (parse_utc, "tomorrow")):
        with pytest.raises(InputError):
            read(text, option="--x")


def test_quantities_are_printed_for_people():
    assert [format_duration(s) for s in (7.25, 435, 20400, 266400, math.inf)] == [
        "7.2 s", "7 min 15 s", "5 h 40 min", "3 d 2 h", "without end",
    ]  # fmt: skip
    assert [format_bytes(n) for n in (999, 1500, 90e6, 5e12)] == ["999 B", "1.5 kB", "90.0 MB", "5000.0 GB"]
    assert format_rate(2e6) == "2 Mbit/s"
    assert format_utc(0) == "1970-01-01T00:00:00Z"


PLAN = {
    "epoch": "2026-11-22T06:00:00Z",
    "rate": "2Mbit/s",
    "contacts": [
        {"station": "b", "start_s": 100, "end_s": 200},
        {"station": "a", "start": "2026-11-22T06:00:00Z", "end": "2026-11-22T06:02:00Z", "rate": "1Mbit/s"},
        {"start_s": 500, "end_s": None},
    ],
}


def parsed(content):
    return parse_contact_plan(content, name="test", source="test.yaml", now_s=T0)


def test_contacts_come_in_order_and_never_overlap():
    epoch_s = parse_utc(PLAN["epoch"], option="").timestamp()
    found = list(parsed(PLAN).from_time(epoch_s - 10))

    assert [(c.station, c.start_s - epoch_s, c.end_s - epoch_s, c.rate_bps) for c in found] == [
        ("a", 0, 120, 1e6),
        ("b", 120, 200, 2e6),
        ("", 500, math.inf, 2e6),
    ]
    assert [c.station for c in parsed(PLAN).from_time(epoch_s + 150)] == ["b", ""]


def test_a_station_keeps_its_contacts_whole_though_others_see_the_satellite_too():
    epoch_s = parse_utc(PLAN["epoch"], option="").timestamp()
    plan = parsed(PLAN)

    assert plan.stations == ("a", "b")
    assert [(c.start_s - epoch_s, c.end_s - epoch_s) for c in plan.for_station("b").from_time(epoch_s)] == [(100, 200)]
    assert [c.station for c in plan.whole().from_time(epoch_s)] == ["a", "b", ""]
    assert [c.start_s - epoch_s for c in plan.whole().from_time(epoch_s)] == [0, 100, 500]
    assert {c.rate_bps for c in plan.for_station("b").at_rate(5e6).from_time(epoch_s)} == {5e6}
    assert list(plan.for_station("nobody").from_time(epoch_s)) == []


def test_rate_and_loss_are_the_contacts_own_then_the_stations_then_the_plans():
    stations = {"a": {"rate": "1Mbit/s", "loss": "5%"}, "b": {"loss": "20%"}}
    contacts = [
        {"station": "a", "start_s": 0, "end_s": 1},
        {"station": "a", "start_s": 1, "end_s": 2, "rate": "3Mbit/s", "loss": "50%"},
        {"station": "b", "start_s": 2, "end_s": 3},
        {"station": "c", "start_s": 3, "end_s": 4},
    ]
    plan = parsed({"epoch": "now", "rate": "2Mbit/s", "loss": "10%", "stations": stations, "contacts": contacts})

    found = [(c.rate_bps, c.loss) for c in plan.from_time(T0 - 1)]
    assert found == [(1e6, 0.05), (3e6, 0.5), (2e6, 0.2), (2e6, None)]
    assert [plan.for_station(name).loss for name in "abc"] == [0.05, 0.2, 0.1]


def test_the_stations_of_a_profile_have_plans_of_their_own():
    text = """
up: {rate_bps: 1e6, loss: 0.1}
time_scale: 2
stations:
  far: {up: {rate_bps: 2e6, loss: 0.3}, contacts: {period_s: 100, duration_s: 10, first_s: 4}}
  near: {down: null, contacts: [{start_s: 6, end_s: null}]}
"""
    plan = from_profile(parse_profile(text, name="two", source="two.yaml"), epoch_s=T0)
    far, near = plan.for_station("far"), plan.for_station("near")

    first, second = itertools.islice(far.from_time(T0), 2)
    assert (first.station, first.start_s - T0, second.start_s - T0) == ("far", 2, 52)
    assert (first.rate_bps, far.loss) == (4e6, pytest.approx(0.3))
    assert [(c.start_s - T0, c.rate_bps) for c in near.from_time(T0)] == [(3, 2e6)]
    assert [(c.station, c.start_s - T0) for c in itertools.islice(plan.from_time(T0), 2)] == [("far", 2), ("near", 7)]
    assert not plan.is_one_way


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stations": ["a"]}, "stations must be a mapping"),
        ({"stations": {"a": {"rates": 1}}}, "stations: a: unknown key"),
        ({"stations": {"a": {"loss": "lots"}}}, "stations: a: loss"),
        ({"contacts": []}, "at least one contact"),
        ({"contact": []}, "unknown key 'contact'"),
        ({"rate": "2"}, "test.yaml: rate"),
        ({"contacts": [{"start_s": 0}]}, "contact 1: needs either end_s or end"),
        ({"contacts": [{"start_s": 9, "end_s": 3}]}, "contact 1: ends before it starts"),
        ({"contacts": [{"start_s": 0, "end_s": "soon"}]}, "contact 1: end_s"),
        ({"contacts": [{"start_s": 0, "end_s": 3, "statoin": "x"}]}, "unknown key 'statoin'"),
        ({"epoch": "noon"}, "epoch"),
        ({"contacts": ["x"]}, "must be a mapping"),
    ],
)
def test_a_bad_plan_names_the_place(change, words):
    with pytest.raises(InputError, match=words):
        parsed({**PLAN, **change})


def test_a_plan_is_read_from_a_file(tmp_path):
    path = tmp_path / "today.yaml"
    path.write_text(
        "epoch: now\ncontacts:\n  - {start_s: 1, end_s: 2}\n  - {start: 2027-01-15T08:00:00Z, end_s: 1e9}\n"
    )
    with pytest.raises(InputError, match="end_s"):  # YAML 1.1 reads 1e9 as text: say so rather than guess
        load_contact_plan(path, now_s=T0)
    path.write_text("contacts: [\n")
    with pytest.raises(InputError, match=r"today.yaml:2: not YAML"):
        load_contact_plan(path, now_s=T0)
    with pytest.raises(InputError, match="no such contact plan"):
        load_contact_plan(tmp_path / "none.yaml", now_s=T0)


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_a_contact_plan(name):
    plan = from_profile(load_profile(name), epoch_s=T0)
    found = [contact for _, contact in zip(range(5), plan.from_time(T0), strict=False)]

    assert found
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(found))


def test_a_profile_in_fast_forward_is_faster_on_the_wall():
    real = load_profile("s-band")
    fast = dataclasses.replace(real, time_scale=60.0)
    (first, second) = (next(from_profile(p, epoch_s=T0).from_time(T0)) for p in (real, fast))

    assert second.rate_bps == 60 * first.rate_bps
    assert second.end_s - T0 == pytest.approx((first.end_s - T0) / 60)


def test_periodic_contacts_go_on_where_time_is():
    plan = periodic(per_day=4, duration_s=400, rate_bps=1e6, start_s=T0)

    later = next(plan.from_time(T0 + 500 * 21600 + 1000))

    assert later.start_s == pytest.approx(T0 + 501 * 21600)
    with pytest.raises(InputError, match="overlap"):
        periodic(per_day=300, duration_s=400, rate_bps=1e6, start_s=T0)


def contacts_of(frames, load, *, rate_bps=2e6, gap_s=1000.0):
    at = T0
    for count in frames:
        length_s = count * load.frame_size * 8 / rate_bps
        yield PlannedContact(station="", start_s=at, end_s=at + length_s, rate_bps=rate_bps, guard_s=0.0)
        at += length_s + gap_s


def test_without_loss_the_last_frame_decides():
    load = Load(bundle_sizes=(1_280_000,), extra_bytes=0)
    need = load.symbols
    result = forecast(load, contacts_of([need - 1, 1, 5], load), Weather(loss=0.0), start_s=T0)

    assert [row.p_done for row in result.contacts] == [0.0, 1.0]
    assert result.contacts[0].total_share == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_the_probability_is_the_binomial_one(loss):
    load = Load(bundle_sizes=(1_280_000,), extra_bytes=0)
    need = load.symbols
    frames = [int(need / (1 - loss)) - 20, 15, 15, 15]
    result = forecast(load, contacts_of(frames, load), Weather(loss=loss), start_s=T0)

    total = 0
    for row, count in zip(result.contacts, frames, strict=False):
        total += count
        assert row.p_done == pytest.approx(_at_least(need, total, 1 - loss), abs=0.04)


def _at_least(need, trials, p):
    """Exact tail of the binomial distribution."""
    log_p, log_q = math.log(p), math.log(1 - p)
    return sum(
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * log_p
            + (trials - k) * log_q
        )
        for k in range(need, trials + 1)
    )


def test_missed_contacts_are_counted_as_they_come():
    load = Load(bundle_sizes=(12_800_000,), extra_bytes=0)
    enough = load.symbols  # two contacts of this size do at 10 % loss, one does not
    weather = Weather(loss=0.1, p_missed=0.2)
    result = forecast(load, contacts_of([enough] * 12, load), weather, start_s=T0)

    for number, row in enumerate(result.contacts, start=1):
        exact = _at_least(2, number, 0.8) if number >= 2 else 0.0
        assert row.p_done == pytest.approx(exact, abs=0.005)


def test_quantiles_fall_inside_the_contact_that_reaches_them():
    load = Load(bundle_sizes=(12_800_000,) * 4, extra_bytes=0)
    need = load.symbols
    result = forecast(load, contacts_of([need // 2] * 10, load), Weather(loss=0.1), start_s=T0)
    (p50, p90, p99) = result.done_s
    third = result.contacts[2].contact

    assert third.start_s < p50 < p90 < p99 < third.end_s
    expected_s = third.start_s + (need / 0.9 - need) * load.frame_size * 8 / 2e6
    assert p50 == pytest.approx(expected_s, abs=0.5)


def test_a_deadline_has_its_probability():
    load = Load(bundle_sizes=(12_800_000,), extra_bytes=0)
    plan = list(contacts_of([load.symbols] * 4, load))
    weather = Weather(loss=0.1)

    def by(deadline_s):
        return forecast(load, plan, weather, start_s=T0, deadline_s=deadline_s).p_deadline

    assert by(plan[0].end_s) == pytest.approx(0.0, abs=1e-6)
    assert by(plan[1].end_s) == pytest.approx(1.0, abs=1e-6)
    assert by(T0 - 5) == 0.0


def test_bundles_are_assigned_to_contacts_in_order():
    load = Load(bundle_sizes=(12_800_000,) * 4, extra_bytes=0)
    frames = load.symbols // 2 / 0.9
    result = forecast(load, contacts_of([frames] * 3, load), Weather(loss=0.1), start_s=T0)

    assert result.contacts[0].bundles == (0, 1)
    assert result.contacts[1].bundles[1] == 3


def test_a_link_that_is_always_there_finishes():
    load = Load(bundle_sizes=(12_800_000,))
    result = forecast(load, always(2e6).from_time(T0), Weather(loss=0.1), start_s=T0)

    assert result.done_s[0] - T0 == pytest.approx(load.symbols / 0.9 * load.frame_size * 8 / 2e6, rel=0.01)


def test_what_is_there_already_is_left_out():
    whole = Load(bundle_sizes=(12_800_000,))
    half = Load(bundle_sizes=(12_800_000,), already=5000)

    assert whole.symbols - half.symbols == pytest.approx(5000, rel=0.01)
    assert Load(bundle_sizes=(), extra_bytes=0).symbols >= 0


def test_a_contact_with_a_loss_of_its_own_carries_by_that_loss():
    load = Load(bundle_sizes=(12_800_000,), extra_bytes=0)
    clear, lossy = (
        [dataclasses.replace(contact, loss=loss) for contact in contacts_of([4000, 100_000], load)]
        for loss in (0.0, 0.5)
    )
    results = [forecast(load, contacts, Weather(loss=0.1), start_s=T0) for contacts in (clear, lossy)]

    assert results[0].contacts[0].carried_bytes == pytest.approx(2 * results[1].contacts[0].carried_bytes)
    assert [result.frames for result in results] == [load.symbols, pytest.approx(2 * load.symbols, abs=1)]


def test_a_plans_losses_can_be_set_or_filled_in_by_station():
    bare = {"epoch": "now", "contacts": [
        {"station": "a", "start_s": 0, "end_s": 9},
        {"station": "b", "start_s": 5, "end_s": 14, "loss": "20%"},
        {"station": "c", "start_s": 20, "end_s": 29},
    ]}  # fmt: skip
    plan = parsed(bare).whole()

    def losses(plan):
        return [contact.loss for contact in plan.from_time(T0)]

    assert losses(plan.with_losses({"a": 0.05, "b": 0.5})) == [0.05, 0.2, None]
    assert (losses(plan.at_loss(0.3)), plan.at_loss(0.3).loss) == ([None] * 3, 0.3)
    assert losses(parsed({**bare, "loss": "10%"}).with_losses({"a": 0.05})) == [
        None,
        0.2,
        None,
    ]  # the plan's word counts
    assert losses(plan.with_losses({"a": 0.05}).for_station("a")) == [0.05]
