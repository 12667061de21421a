"""Which base `skyload stage` takes: what should be on board, never what was found missing or damaged there."""

from pathlib import Path

import pytest

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, ReceivedMessage
from groundsegment.packer.estimating import estimate
from groundsegment.staging import choice, forgetting
from groundsegment.staging.records import StageOptions
from groundsegment.staging.staging import prepare
from protocol.damage import DamageReport, LostRange
from protocol.message import MessageKind
from protocol.report import NO_HANDLE, Reason, UpdateState, UpdateStatus
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.staging import NOW, make_ground, report_serving, run, run_json

LATER = ("--no-canary", "--dry-run")


@pytest.fixture
def ground(tmp_path, monkeypatch):
    """v1 confirmed, then v2, which serves; v3 is v2 with a little change, far is another model."""
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "v1", seed=1)
    make_tiny_qwen2(tmp_path / "v2", seed=2)
    make_tiny_qwen2(tmp_path / "v3", seed=2, nudge=0.001)
    make_tiny_qwen2(tmp_path / "v4", seed=1, nudge=0.001)
    return tmp_path


@pytest.fixture
def digests(ground):
    found = {}
    for name in ("v1", "v2"):
        staged = run_json(name, "--no-canary", "--base", "none")
        found[name] = staged["release_digest"]
        set_state(staged, FlightState.CONFIRMED)
    report_serving(found["v2"], accepted=2)
    return found


def set_state(staged, state, reason=""):
    with Depot.open(Path("depot")) as depot:
        depot.set_update_state(bytes.fromhex(staged["update"]), state, reason=reason)


def test_what_serves_is_the_base_where_that_is_good_enough(digests):
    staged = run_json("v3", *LATER)
    assert staged["base_digest"] == digests["v2"]
    assert "reported serving" in staged["base_reason"]


def test_the_release_before_is_the_base_where_that_makes_the_update_smaller(digests):
    staged = run_json("v4", *LATER)
    assert staged["base_digest"] == digests["v1"]
    assert "confirmed before and keeps" in staged["base_reason"]
    assert "smaller than against what it serves" in staged["base_reason"]
    assert not staged["warnings"]
    assert run_json("v4", *LATER, "--base", "current")["base_digest"] == digests["v2"]


def reverting(digest):
    return f"`skyload revert {digest} --for SAT-1` has it serve without flying it again"


def test_what_is_still_on_board_need_not_fly_and_that_is_said(digests):
    first, later = (run_json(name, *LATER)["warnings"] for name in ("v1", "v3"))
    assert [reverting(digests["v1"][:16]) in warning for warning in first] == [True]
    assert not any("revert" in warning for warning in later)


def test_the_base_of_what_serves_is_on_board_though_nobody_staged_it(ground):
    staged = run_json("v2", "--no-canary", "--base", "v1")
    set_state(staged, FlightState.CONFIRMED)
    report_serving(staged["release_digest"])
    assert reverting(staged["base_digest"]) in run_json("v1", *LATER)["warnings"][0]


def test_what_was_forgotten_on_board_is_no_base_and_has_to_fly(digests):
    with Depot.open(Path("depot")) as depot:
        forgetting.mark_on_board(depot, bytes.fromhex(digests["v1"]), "SAT-1")
    assert not any("revert" in warning for warning in run_json("v1", *LATER)["warnings"])
    assert run_json("v4", *LATER)["base_digest"] == digests["v2"]


def test_comparing_bases_is_shown_and_each_is_estimated_once(digests, monkeypatch):
    asked, told = [], []

    def counted(plan, *words, **named):
        asked.append(plan.base_digest)
        return estimate(plan, *words, **named)

    monkeypatch.setattr(choice, "estimate", counted)
    with Depot.open(Path("depot")) as depot:
        prepare(depot, Path("v4"), StageOptions(satellite="SAT-1"), lambda *facts: told.append(facts))
    assert [digest.hex() for digest in asked] == [digests["v2"], digests["v1"]]
    compared = [(done, total) for phase, done, total in told if phase == "comparing"]
    assert [done for done, total in compared if done in {0, total}] == [0, compared[0][1], 0, compared[-1][1]]


def test_a_release_below_the_floor_is_no_base(digests, ground):
    staged = run_json("v3", "--no-canary", "--base", "none", "--floor", "2")
    set_state(staged, FlightState.CONFIRMED)
    report_serving(staged["release_digest"], sequence=2, accepted=3)
    make_tiny_qwen2(ground / "v5", seed=2, nudge=0.002)
    assert run_json("v5", *LATER)["base_digest"] == staged["release_digest"]
    make_tiny_qwen2(ground / "v6", seed=1, nudge=0.002)
    assert run_json("v6", *LATER)["base_digest"] == staged["release_digest"]


@pytest.mark.parametrize("told", ["by the depot", "by the last report"])
@pytest.mark.parametrize("reason", [Reason.BASE_MISSING, Reason.BASE_DAMAGED])
def test_a_base_that_was_found_damaged_is_not_used_again_and_that_is_told(digests, reason, told):
    first = run_json("v3", "--no-canary")
    assert first["base_digest"] == digests["v2"]
    if told == "by the depot":
        set_state(first, FlightState.FLYING, reason.name)
    else:
        status = UpdateStatus(handle=bytes.fromhex(first["update"]), state=UpdateState.BLOCKED, reason=reason)
        report_serving(digests["v2"], sequence=2, accepted=3, updates=(status,))
    words = {"BASE_MISSING": "is not on board", "BASE_DAMAGED": "is damaged on board"}[reason.name]
    other = run_json("v4", *LATER)
    assert other["base_digest"] == digests["v1"]
    assert words in other["base_reason"]
    assert first["update"] in other["base_reason"]
    code, _, err = run("v4", *LATER, "--base", "current", "--forbid-full-fallback")
    assert code == 3
    assert words in err


def test_a_base_that_the_satellite_found_damaged_itself_is_passed_over_until_it_is_whole(digests):
    def say(counter, *lost):
        body = DamageReport(release=bytes.fromhex(digests["v2"]), lost=lost).to_body()
        with Depot.open(Path("depot")) as depot:
            depot.journal.add_message(
                ReceivedMessage(
                    satellite="SAT-1",
                    counter=counter,
                    kind=str(MessageKind.DAMAGE),
                    re=NO_HANDLE,
                    body=body,
                    received_utc=NOW,
                    data=b"",
                )
            )

    say(1, LostRange(file=0, offset=0, size=4096))
    staged = run_json("v3", *LATER)
    assert staged["base_digest"] == digests["v1"]
    assert "is damaged on board, as its scrub found" in staged["base_reason"]
    say(2)
    assert run_json("v3", *LATER)["base_digest"] == digests["v2"]


@pytest.mark.parametrize("end", [FlightState.CANCELLED, FlightState.REJECTED, FlightState.EXPIRED])
def test_how_the_update_that_found_it_ended_does_not_make_a_base_whole(digests, end):
    first = run_json("v3", "--no-canary")
    set_state(first, FlightState.FLYING, Reason.BASE_DAMAGED.name)
    set_state(first, end, "for another reason")
    staged = run_json("v3", *LATER)
    assert staged["base_digest"] == digests["v1"]
    assert "is damaged on board" in staged["base_reason"]


def test_without_any_base_left_a_full_update_is_told_or_forbidden(digests, ground):
    for name in ("v3", "v4"):
        staged = run_json(name, "--no-canary")
        set_state(staged, FlightState.FLYING, Reason.BASE_DAMAGED.name)
    make_tiny_qwen2(ground / "v5", seed=2, nudge=0.002)
    code, _, err = run("v5", *LATER, "--forbid-full-fallback")
    assert code == 3
    assert "forbidden" in err
    assert "--base DIR" in err
    staged = run_json("v5", *LATER)
    assert staged["base_digest"] is None
    assert staged["base_reason"].startswith("full update: ")
    assert staged["base_reason"].count("is damaged on board") == 2


def test_a_base_that_was_sent_again_is_good_again(digests):
    first = run_json("v3", "--no-canary")
    set_state(first, FlightState.CANCELLED, Reason.BASE_DAMAGED.name)
    assert run_json("v3", *LATER)["base_digest"] != digests["v2"]
    report_serving("77" * 32, sequence=2, accepted=3)
    again = run_json("v2", "--no-canary", "--base", "none")
    set_state(again, FlightState.CONFIRMED)
    report_serving(digests["v2"], sequence=3, accepted=4)
    assert run_json("v3", *LATER)["base_digest"] == digests["v2"]


def test_no_report_and_no_release_are_forbidden_too(ground):
    code, _, err = run("v1", *LATER, "--forbid-full-fallback")
    assert code == 3
    assert "no report" in err
    code, _, err = run("v1", *LATER, "--forbid-full-fallback", "--base", "none")
    assert code == 3
    assert "exclude each other" in err
    assert run("v3", *LATER, "--forbid-full-fallback", "--base", "v2")[0] == 0


def test_a_base_that_knows_next_to_nothing_is_told(ground, tmp_path):
    make_tiny_qwen2(tmp_path / "wide", seed=1, hidden=48, intermediate=112)
    warnings = run_json("wide", *LATER, "--base", "v1")["warnings"]
    assert any("nearly a full update" in warning for warning in warnings)
    assert not run_json("v3", *LATER, "--base", "v2")["warnings"]
