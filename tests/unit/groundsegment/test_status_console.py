"""`skyload status`: what is newest counts, whichever way it came."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.depot.records import FlightState, ReceivedMessage, ReceivedReport
from groundsegment.uplink.flight.outcome import settle_by_report
from protocol.report import NO_HANDLE, Reason, Report, UpdateState, UpdateStatus
from tests.fakes.depots import NOW, make_depot, stage_bytes

OLD, NEW = b"\x0a" * 32, b"\x0b" * 32


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        yield depot


def status(depot):
    """The satellite as --json shows it, and the text."""
    words = ["status", "--depot", str(depot.path)]
    shown = [CliRunner().invoke(app, words + more).stdout for more in (["--json"], [])]
    return json.loads(shown[0])["satellites"][0], " ".join(shown[1].split())


def report_of(staged, state, *, reason=Reason.NONE, ranges=(), **values):
    entry = UpdateStatus(handle=staged.update.handle, state=state, reason=reason, bundle_ranges=ranges)
    return Report(updates=(entry,), serving=OLD[:6], root_version=1, **values)


def hear(depot, report):
    depot.journal.record_report(
        ReceivedReport(satellite="SAT-1", session=b"sessio", sequence=1, received_utc=NOW, report=report)
    )


def say(depot, kind, body, *, re=bytes(6), counter=1):
    depot.journal.add_message(
        ReceivedMessage(satellite="SAT-1", counter=counter, kind=kind, re=re, body=body, received_utc=NOW)
    )


@pytest.mark.parametrize("state", [UpdateState.TRIAL, UpdateState.RECEIVING, UpdateState.BLOCKED])
def test_a_receipt_that_ends_an_update_wins_over_a_report_that_knows_nothing_of_it(depot, state):
    staged = stage_bytes(depot, [20_000])
    handle = staged.update.handle
    hear(depot, report_of(staged, state))
    say(depot, "receipt", {"state": "accepted", "reason": "none"}, re=handle, counter=1)
    assert f"update {handle.hex()}: {state.name}" in status(depot)[1]
    say(depot, "receipt", {"state": "confirmed", "reason": "none", "release": NEW.hex()}, re=handle, counter=2)

    values, text = status(depot)

    assert f"serving {NEW.hex()[:16]}; update {handle.hex()}: CONFIRMED, by its receipt" in text
    assert values["report"]["serving"] == NEW.hex()
    assert (values["report"]["state"], values["report"]["updates"][0]["said_by"]) == ("CONFIRMED", "receipt")


def test_a_rejection_by_receipt_says_why_and_changes_nothing_of_what_serves(depot):
    staged = stage_bytes(depot, [20_000])
    hear(depot, report_of(staged, UpdateState.TRIAL))
    body = {"state": "rejected", "reason": "canary_failed", "release": NEW.hex()}
    say(depot, "receipt", body, re=staged.update.handle)

    text = status(depot)[1]

    assert ": REJECTED (CANARY_FAILED), by its receipt" in text
    assert f"serving {OLD[:6].hex()};" in text


def test_what_a_report_says_of_an_update_that_has_ended_needs_no_receipt(depot):
    staged = stage_bytes(depot, [20_000])
    hear(depot, report_of(staged, UpdateState.CANCELLED))
    say(depot, "receipt", {"state": "rejected", "reason": "canary_failed"}, re=staged.update.handle)
    assert ": CANCELLED root" in status(depot)[1]


def test_a_satellite_that_takes_nothing_says_so_of_every_update(depot):
    staged = stage_bytes(depot, [20_000])
    blocked = [
        UpdateStatus(handle=handle, state=UpdateState.BLOCKED, reason=Reason.DISK_FAILED)
        for handle in (staged.update.handle, NO_HANDLE)
    ]
    hear(depot, Report(updates=tuple(blocked), serving=OLD[:6], root_version=1))
    text = status(depot)[1]
    assert f"; update {staged.update.handle.hex()}: BLOCKED (DISK_FAILED); every update: BLOCKED (DISK_FAILED)" in text


def test_a_root_that_the_satellite_says_it_trusts_is_the_one_that_is_shown(depot):
    staged = stage_bytes(depot, [20_000])
    hear(depot, report_of(staged, UpdateState.RECEIVING))
    assert "root 1," in status(depot)[1]
    for counter, version in enumerate((2, 3), start=1):
        text = f"a new root is trusted version={version}"
        say(depot, "event", {"name": "root_rotated", "severity": "activity", "text": text}, counter=counter)
    say(depot, "event", {"name": "boot", "severity": "activity", "text": "up version=9"}, counter=7)

    values, text = status(depot)

    assert "root 3," in text
    assert values["report"]["root_version"] == 3


def test_what_a_report_that_was_carried_by_hand_says_is_in_the_table_too(depot):
    staged = stage_bytes(depot, [20_000, 3000])
    receiving = report_of(staged, UpdateState.RECEIVING, ranges=((1, 1),))
    hear(depot, receiving)
    settle_by_report(depot, "SAT-1", receiving)
    (some,) = status(depot)[0]["updates"]
    assert (some["state"], some["blocks_solved"], some["blocks"]) == ("staged", 1, 2)

    trial = report_of(staged, UpdateState.VERIFIED, reason=Reason.HELD)
    hear(depot, trial)
    settle_by_report(depot, "SAT-1", trial)
    (all_of_it,) = status(depot)[0]["updates"]
    assert (all_of_it["state"], all_of_it["reason"], all_of_it["share_on_board"]) == ("complete", "HELD", 1.0)

    depot.set_update_state(staged.update.handle, FlightState.CANCELLED)
    settle_by_report(depot, "SAT-1", trial)  # it comes late
    assert status(depot)[0]["updates"][0]["state"] == "cancelled"


@pytest.mark.parametrize(
    ("loss", "deviation", "words"),
    [(0.1, 0.02, "10.0% ± 2.0%"), (0.94, 0.3, " - "), (None, None, " - "), (0.123, None, "12.3%")],
)
def test_the_loss_of_a_contact_is_shown_with_how_sure_it_is_and_not_at_all_where_it_is_not_known(
    depot, loss, deviation, words
):
    log = depot.journal.begin_contact("SAT-1", "inuvik", NOW)
    depot.journal.save_contact(dataclasses.replace(log, loss=loss, loss_deviation=deviation, loss_down=0.5))
    result = CliRunner().invoke(app, ["status", "--depot", str(depot.path)], env={"COLUMNS": "160"})
    (line,) = [line for line in result.stdout.splitlines() if "inuvik" in line]
    assert words in line
    assert ("94" in line) is False
    shown = json.loads(CliRunner().invoke(app, ["status", "--json", "--depot", str(depot.path)]).stdout)
    assert shown["satellites"][0]["contacts"][0]["loss_deviation"] == deviation


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (
            "receipt",
            {"state": "accepted", "reason": "none", "text": "its metadata is trusted"},
            "accepted: its metadata",
        ),
        ("receipt", {"state": "rejected", "reason": "canary", "text": ""}, "rejected (canary)"),
        ("event", {"name": "reverted", "severity": "activity", "text": "done"}, "reverted: done"),
        ("event", {"name": "slow", "severity": "warning_lo", "text": "hm"}, "warning: slow: hm"),
    ],
)
def test_a_message_reads_as_words(depot, kind, body, words):
    say(depot, kind, body)
    result = CliRunner().invoke(app, ["status", "--depot", str(depot.path)], env={"COLUMNS": "160"})
    assert words in result.stdout
    assert "activity" not in result.stdout


def test_a_report_in_another_layout_is_as_good_as_none(depot):
    staged = stage_bytes(depot, [20_000])
    hear(depot, report_of(staged, UpdateState.RECEIVING))
    with depot._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE reports SET data = x'ff00ff00'")
    result = CliRunner().invoke(app, ["status", "--depot", str(depot.path)])
    assert result.exit_code == 0, result.output
    assert "never heard" in result.stdout
    hear(depot, report_of(staged, UpdateState.RECEIVING))
    assert "RECEIVING" in CliRunner().invoke(app, ["status", "--depot", str(depot.path)]).stdout
