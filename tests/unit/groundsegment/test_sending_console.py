import json
import re
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.console.output import out
from groundsegment.depot.records import BlockProgress, CommandState, FlightState, ReceivedMessage, ReceivedReport
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.command import Command, Operation
from protocol.link_keys import Direction
from protocol.message import MessageKind
from protocol.report import SOLVED, Report, UpdateState, UpdateStatus
from protocol.trust import command_keys
from tests.fakes.depots import IDENTITY, LINK_KEY, NOW, make_depot, stage_bytes
from tests.fakes.satellite import FakeSatellite
from tests.fakes.satellite_process import SatelliteOnUdp

SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)
DIGEST = bytes(range(100, 132))


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


def run(depot, *arguments, text=None):
    return CliRunner().invoke(app, [*arguments, "--depot", str(depot.path)], input=text)


def armed(counter):
    return {"ok": True, "text": "armed", "armed": counter, "nonce": b"n" * 16, "expires_s": 600}


class Operator:
    """Answers commands as a satellite would: verified, once."""

    def __init__(self, depot, reply, delay_s=0.0):
        self.keys = command_keys(KeyStore(depot.keys_path).root())
        self.reply, self.delay_s, self.commands = reply, delay_s, []

    def __call__(self, satellite, handle, data, now):
        command = Command.open(data, public_keys=self.keys, satellite="SAT-1")
        if command.operation is Operation.ARM:
            satellite.say(MessageKind.RESULT, handle, armed(command.counter), now)
            return
        self.commands.append(command)
        kind = MessageKind.ANSWER if command.operation is Operation.ASK else MessageKind.RESULT
        satellite.say(kind, handle, self.reply, now)


def a_sky(operator, loss=0.0, **options):
    values = {"sync_interval_s": 0.02, "report_interval_s": 0.02, "keep_symbols": True}
    satellite = FakeSatellite(LINK_KEY, identity=SIGNER, **{**values, **options})
    return SatelliteOnUdp(satellite, loss=loss, on_command=operator)


ANSWER = {"text": " Paris. ", "release": DIGEST, "tokens": 3, "seconds_milli": 250}


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_ask_prints_the_answer_and_who_gave_it(depot, loss):
    operator = Operator(depot, ANSWER)
    with a_sky(operator, loss) as sky:
        result = run(depot, "ask", "Capital of France?", "--for", "SAT-1", "--link", sky.address, "--max-tokens", "7")

    assert result.exit_code == 0, result.output
    assert result.stdout == "Paris.\n"
    assert f"answered by {DIGEST.hex()[:16]}: 3 tokens, 0.2 s on board" in result.stderr
    (command,) = operator.commands
    assert command.operation is Operation.ASK
    assert command.args == {
        "messages": [{"role": "user", "content": "Capital of France?"}],
        "max_tokens": 7,
        "temperature_milli": 0,
        "seed": 0,
    }
    (queued,) = depot.journal.commands("SAT-1")
    assert queued.state is CommandState.DONE
    assert [message.kind for message in depot.journal.messages("SAT-1")] == ["answer"]
    if not loss:
        assert len(sky.satellite.outbox) == 0  # the answer was acknowledged


def test_ask_prints_json(depot):
    with a_sky(Operator(depot, ANSWER)) as sky:
        result = run(depot, "ask", "x", "--for", "SAT-1", "--link", sky.address, "--json")

    values = json.loads(result.stdout)
    assert (values["text"], values["release"], values["tokens"]) == (" Paris. ", DIGEST.hex(), 3)


def test_ask_tells_when_the_satellite_cannot_answer(depot):
    with a_sky(Operator(depot, {"error": "no model is loaded"})) as sky:
        result = run(depot, "ask", "x", "--for", "SAT-1", "--link", sky.address)

    assert result.exit_code == 1
    assert "could not answer: no model is loaded" in result.stderr
    assert "hint:" in result.stderr


def test_ask_finds_an_answer_that_a_running_uplink_heard(depot):
    """The satellite's answer goes to the uplink's socket; ask reads it from the depot."""

    def stolen(satellite, handle, data, now):
        depot.journal.add_message(
            ReceivedMessage(
                satellite="SAT-1", counter=1, kind="answer", re=handle, body={"text": "Bern"}, received_utc=NOW
            )
        )

    with a_sky(stolen) as sky:
        result = run(depot, "ask", "x", "--for", "SAT-1", "--link", sky.address, "--timeout", "45")

    assert result.stdout == "Bern\n"


def test_no_word_is_a_link_error_and_the_command_is_dropped(depot):
    result = run(depot, "ask", "x", "--for", "SAT-1", "--link", "127.0.0.1:9", "--timeout", "0.2")

    assert result.exit_code == 6
    assert "no word from SAT-1" in result.stderr
    assert "hint:" in result.stderr
    assert depot.journal.commands("SAT-1")[0].state is CommandState.DROPPED


def test_a_satellite_that_has_the_question_and_says_nothing_is_told_apart(depot):
    with a_sky(lambda *_: None) as sky:
        for timeout in ("1", "5", "25"):  # a busy machine may take longer to say that it is there
            result = run(depot, "ask", "x", "--for", "SAT-1", "--link", sky.address, "--timeout", timeout)
            if "has the command" in result.stderr:
                break

    assert result.exit_code == 6
    assert "has the command, but did not answer" in result.stderr


def test_counters_of_commands_are_never_used_twice(depot):
    operator = Operator(depot, ANSWER)
    with a_sky(operator) as sky:
        for _ in range(2):
            run(depot, "ask", "x", "--for", "SAT-1", "--link", sky.address)

    assert [command.counter for command in operator.commands] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ask", "x", "--for", "SAT-9", "--link", "a:1"], 5, "SAT-9: no such satellite"),
        (["ask", "x", "--for", "SAT-1", "--link", "nowhere"], 3, "is not HOST:PORT"),
        (["ask", "", "--for", "SAT-1", "--link", "a:1"], 3, "a question of 0 characters"),
        (["revert", "xyz", "--for", "SAT-1", "--link", "a:1", "--yes"], 5, "'xyz': no such release"),
        (["revert", "abcd", "--for", "SAT-1", "--link", "a:1", "--yes"], 5, "'abcd': no such release"),
        (["uplink", "--for", "SAT-1", "--link", "a:1", "--rate", "2"], 3, "is not a rate"),
        (["uplink", "--for", "SAT-1", "--link", "a:1", "--epoch", "7"], 3, "--epoch belongs to --profile"),
        (["uplink", "--for", "SAT-1", "--link", "a:1"], 5, "nothing to fly"),
        (["uplink", "--for", "SAT-1", "--link", "a:1", "--profile", "demo", "--contacts", "x"], 3, "two answers"),
        (["uplink", "--for", "SAT-1", "--link", "a:1", "--profile", "dmeo"], 3, "no link profile"),
        (["plan"], 3, "which update?"),
        (["plan", "ff"], 5, "no such update"),
        (["plan", "ff", "--for", "SAT-1"], 5, "no such update"),
        (["scrub", "xyz", "--for", "SAT-1"], 5, "'xyz': no such release"),
        (["simulate", "--profile", "demo", "--update", "xyz"], 5, "'xyz': no such update"),
        (["plan", "--for", "SAT-1"], 5, "nothing is staged"),
        (["status", "--for", "SAT-9"], 5, "no such satellite"),
    ],
)
def test_errors_say_what_to_do(depot, arguments, code, words):
    result = run(depot, *arguments)

    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "hint:" in result.stderr


def test_revert_asks_first_and_sends_nothing_if_told_not_to(depot):
    operator = Operator(depot, {"ok": True, "text": "release old serves"})
    with a_sky(operator) as sky:
        refused = run(depot, "revert", "--for", "SAT-1", "--link", sky.address, text="n\n")
        assert refused.exit_code == 1
        assert operator.commands == []
        done = run(depot, "revert", "--for", "SAT-1", "--link", sky.address, text="y\n")

    assert done.exit_code == 0, done.output
    assert "release old serves" in done.stdout
    assert operator.commands[0].args == {"digest": None}


def test_revert_to_a_digest_that_the_satellite_lacks_fails(depot):
    operator = Operator(depot, {"ok": False, "text": "not on board"})
    with a_sky(operator) as sky:
        result = run(depot, "revert", DIGEST.hex(), "--for", "SAT-1", "--link", sky.address, "--yes")

    assert result.exit_code == 1
    assert "did not revert: not on board" in result.stderr
    assert operator.commands[0].args == {"digest": DIGEST}


def test_status_of_a_satellite_never_heard(depot):
    result = run(depot, "status")

    assert result.exit_code == 0
    assert "SAT-1" in result.stdout
    assert "never heard" in result.stdout


def test_status_shows_updates_the_last_word_messages_and_contacts(depot):
    staged = stage_bytes(depot, [20_000])
    report = Report(
        updates=(UpdateStatus(handle=staged.update.handle, state=UpdateState.RECEIVING),),
        serving=DIGEST[:6],
        boot_count=3,
    )
    depot.journal.record_report(
        ReceivedReport(
            satellite="SAT-1", session=b"sessio", sequence=1, station="inuvik", received_utc=NOW, report=report
        )
    )
    depot.journal.save_progress(
        "SAT-1", [BlockProgress(handle=staged.bundle_handles[0], block=0, next_esi=16, have=SOLVED)]
    )
    depot.journal.add_message(
        ReceivedMessage(
            satellite="SAT-1", counter=1, kind="event", re=bytes(6), body={"name": "BOOT"}, received_utc=NOW
        )
    )
    depot.journal.begin_contact("SAT-1", "inuvik", NOW)

    values = json.loads(run(depot, "status", "--for", "SAT-1", "--json").stdout)["satellites"][0]
    text = run(depot, "status").stdout

    assert values["report"]["serving"] == DIGEST[:6].hex()
    assert values["report"]["boot_count"] == 3
    assert values["updates"][0]["blocks_solved"] == 1
    assert values["contacts"][0]["station"] == "inuvik"
    assert values["messages"][0]["body"] == {"name": "BOOT"}
    for words in ("RECEIVING", "inuvik", "release-1", "staged", "BOOT", " 1/1 "):
        assert words in text


def test_status_says_which_update_a_receipt_is_for_and_shows_contacts_as_they_came(depot):
    handle = bytes.fromhex("1f2e3d4c5b6a")
    body = {"state": "confirmed", "reason": "none"}
    depot.journal.add_message(
        ReceivedMessage(satellite="SAT-1", counter=2, kind="receipt", re=handle, body=body, received_utc=NOW)
    )
    report = ReceivedReport(
        satellite="SAT-1", session=b"sessio", sequence=1, station="by hand", received_utc=NOW, report=Report()
    )
    depot.journal.record_report(report)
    for station, hours in (("svalbard", 2), ("inuvik", 1)):  # a letter of the second came later
        depot.journal.begin_contact("SAT-1", station, NOW + timedelta(hours=hours))
    text = run(depot, "status").stdout

    assert f"{handle.hex()} confirmed" in text
    assert "ago by hand," in text
    assert text.index("inuvik") < text.index("svalbard")


def test_all_of_a_confirmed_update_is_there_though_nobody_told_of_its_last_blocks(depot):
    staged = stage_bytes(depot, [20_000, 3000])
    handle = staged.bundle_handles[0]
    depot.journal.save_progress("SAT-1", [BlockProgress(handle=handle, block=0, next_esi=20, have=9)])
    depot.set_update_state(staged.update.handle, FlightState.FLYING)
    flying = json.loads(run(depot, "status", "--json").stdout)["satellites"][0]["updates"][0]
    depot.set_update_state(staged.update.handle, FlightState.CONFIRMED)
    (confirmed,) = json.loads(run(depot, "status", "--json").stdout)["satellites"][0]["updates"]

    assert 0 < flying["share_on_board"] < 1
    assert (confirmed["share_on_board"], confirmed["blocks_solved"]) == (1.0, confirmed["blocks"])


def test_status_and_plan_need_no_more_than_eighty_columns(depot, monkeypatch):
    staged = stage_bytes(depot, [40_000_000])
    body = {"text": "a sentence of an answer " * 20, "release": DIGEST}
    depot.journal.add_message(
        ReceivedMessage(satellite="SAT-1", counter=1, kind="answer", re=bytes(6), body=body, received_utc=NOW)
    )
    depot.journal.add_message(
        ReceivedMessage(
            satellite="SAT-1",
            counter=2,
            kind="receipt",
            re=bytes(6),
            body={"state": "confirmed", "reason": "none"},
            received_utc=NOW,
        )
    )
    monkeypatch.setattr(out, "_width", 80)
    commands = (["status"], ["plan", "--for", "SAT-1", "--profile", "demo"])
    shown = {arguments[0]: run(depot, *arguments).stdout for arguments in commands}

    assert staged.update.handle.hex() in shown["status"]
    assert "confirmed" in shown["status"]
    assert "confirmed none" not in shown["status"]
    assert "P(done)" in shown["plan"]
    assert "done with 50, 90, 99 % certainty" in shown["plan"]
    for text in shown.values():
        assert max(map(len, text.splitlines())) <= 80, text


def test_plan_prints_a_table_and_json(depot):
    staged = stage_bytes(depot, [3_000_000, 3_000_000])
    arguments = ("--rate", "100kbit/s", "--duration", "435s", "--loss", "10%", "--deadline", "2100-01-01T00:00:00Z")

    text = run(depot, "plan", staged.update.handle.hex()[:6], *arguments)
    values = json.loads(run(depot, "plan", "--for", "SAT-1", *arguments, "--json").stdout)

    assert text.exit_code == 0, text.output
    assert "done with 99 % certainty: 20" in text.stdout
    assert "100 kbit/s" in text.stdout
    assert values["payload_bytes"] == 6_000_000
    # 7 min 15 s at 100 kbit/s are 5.4 MB of frames, 4.77 MB of payload at 10 % loss: two contacts.
    assert len(values["contacts"]) == 2
    assert values["contacts"][0]["carried_bytes"] == pytest.approx(4.75e6, rel=0.02)
    assert values["p_deadline"] == 1.0
    assert values["link_bytes"] == pytest.approx(6e6 / 0.9 * 1312 / 1280, rel=0.01)


def test_plan_leaves_out_what_is_on_board(depot):
    staged = stage_bytes(depot, [3_000_000, 3_000_000])
    depot.journal.save_progress(
        "SAT-1", [BlockProgress(handle=staged.bundle_handles[0], block=0, next_esi=9999, have=SOLVED)]
    )

    values = json.loads(run(depot, "plan", "--for", "SAT-1", "--rate", "2Mbit/s", "--json").stdout)

    assert values["symbols_to_deliver"] == pytest.approx(3_000_000 / 1280, rel=0.02)


def test_a_plan_with_long_station_names_loses_no_digit_on_eighty_columns(depot, tmp_path, monkeypatch):
    stage_bytes(depot, [30_000_000])
    contacts = "[{station: punta-arenas-south, start_s: 0, end_s: 10}, {station: inuvik, start_s: 4000, end_s: 4435}]"
    (tmp_path / "plan.yaml").write_text(f"epoch: now\nrate: 2Mbit/s\ncontacts: {contacts}\n")
    monkeypatch.setattr(out, "_width", 80)

    text = run(depot, "plan", "--for", "SAT-1", "--contacts", str(tmp_path / "plan.yaml")).stdout

    line = next(line for line in text.splitlines() if line.startswith("2"))
    assert re.search(r"T\d\d:\d\d:\d\dZ +7 min 15 s +\d+\.\d MB +0 +100\.0% +100\.0%", line), text


def test_plan_follows_a_profile(depot):
    stage_bytes(depot, [30_000_000])

    values = json.loads(run(depot, "plan", "--for", "SAT-1", "--profile", "demo", "--json").stdout)

    assert [contact["station"] for contact in values["contacts"]][:1] == ["svalbard"]
    assert values["loss"] == pytest.approx(0.1)


@pytest.mark.slow
def test_uplink_prints_its_summary_as_json(depot):
    staged = stage_bytes(depot, [100_000])
    satellite = FakeSatellite(
        LINK_KEY, staged.update.handle, staged.bundle_handles, sync_interval_s=0.05, install_s=0.1, identity=SIGNER
    )
    with SatelliteOnUdp(satellite) as sky:
        result = run(depot, "uplink", "--for", "SAT-1", "--link", sky.address, "--rate", "20Mbit/s", "--json")

    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["state"] == "confirmed"
    assert values["payload_bytes"] == 100_000
    assert values["bytes_sent"] == sky.bytes_up
    assert values["contacts_used"] == 1
    assert values["updates"][0]["receipt"]["state"] == "CONFIRMED"
    assert "on board: CONFIRMED" in result.stderr


@pytest.mark.slow
def test_a_rejected_update_is_exit_code_1(depot):
    staged = stage_bytes(depot, [20_000])
    satellite = FakeSatellite(
        LINK_KEY, staged.update.handle, staged.bundle_handles, sync_interval_s=0.05, install_s=0.1,
        verdict=UpdateState.REJECTED, identity=SIGNER,
    )  # fmt: skip
    with SatelliteOnUdp(satellite) as sky:
        result = run(depot, "uplink", "--for", "SAT-1", "--link", sky.address, "--rate", "20Mbit/s", "--quiet")

    assert result.exit_code == 1
    assert "CANARY_FAILED" in result.stdout
    assert depot.update(staged.update.handle).state is FlightState.REJECTED


@pytest.mark.slow
def test_once_flies_one_contact_and_says_what_is_missing(depot, tmp_path):
    staged = stage_bytes(depot, [4_000_000])
    plan = tmp_path / "plan.yaml"
    plan.write_text("rate: 1Mbit/s\ncontacts:\n  - {start_s: 0, end_s: 2}\n  - {start_s: 100, end_s: 200}\n")
    satellite = FakeSatellite(LINK_KEY, staged.update.handle, staged.bundle_handles)
    with SatelliteOnUdp(satellite) as sky:
        result = run(depot, "uplink", "--for", "SAT-1", "--link", sky.address, "--contacts", str(plan), "--once")

    assert result.exit_code == 6
    assert "that contact was not enough" in result.stderr
    assert "hint:" in result.stderr


@pytest.mark.slow
def test_ask_works_beside_a_running_uplink(depot):
    staged = stage_bytes(depot, [6_000_000])
    satellite = FakeSatellite(
        LINK_KEY, staged.update.handle, staged.bundle_handles, sync_interval_s=0.05, keep_symbols=True, identity=SIGNER
    )
    with SatelliteOnUdp(satellite, on_command=Operator(depot, ANSWER)) as sky:
        # A process, as in life: only a main thread can handle signals.
        skyload = str(Path(sys.executable).parent / "skyload")
        uplink = subprocess.Popen(
            [
                skyload,
                "uplink",
                "--for",
                "SAT-1",
                "--link",
                sky.address,
                "--rate",
                "16Mbit/s",
                "--depot",
                str(depot.path),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + 60
        while satellite.received < 50 and time.monotonic() < deadline_s:
            threading.Event().wait(0.05)
        result = run(depot, "ask", "x", "--for", "SAT-1", "--link", sky.address, "--timeout", "60")
        assert result.stdout == "Paris.\n"
        assert uplink.wait(120) == 0


def test_a_plan_counts_in_what_flies_before_and_beside(depot):
    first = stage_bytes(depot, [3_000_000])
    urgent = stage_bytes(depot, [1_000_000], seed=2, priority=5)
    beside = stage_bytes(depot, [9_000_000], seed=3, beside=True, weight=0.5)
    later = stage_bytes(depot, [9_000_000], seed=4)

    def planned(staged):
        handle = staged.update.handle.hex()
        text = run(depot, "plan", handle, "--rate", "2Mbit/s")
        assert text.exit_code == 0, text.output
        return json.loads(run(depot, "plan", handle, "--rate", "2Mbit/s", "--json").stdout), text.stdout

    alone, _ = planned(urgent)
    assert (alone["before"], alone["beside"]) == ([], [])
    both, words = planned(first)
    assert (both["before"], both["beside"]) == ([urgent.update.handle.hex()], [beside.update.handle.hex()])
    # A share of one half beside one of three million bytes is a million and a half.
    assert both["symbols_to_deliver"] == pytest.approx((3e6 + 1e6 + 1.5e6) / 1280, rel=0.01)
    assert "1 other update flies before it" in words
    assert first.update.handle.hex() in planned(later)[0]["before"]


def test_status_shows_priority_weight_and_what_is_believed_of_each_link(depot):
    depot.add_station("SAT-1", "inuvik", added_utc=NOW)
    stage_bytes(depot, [20_000], priority=7, weight=2.0, beside=True)
    depot.journal.save_loss("SAT-1", 1, Direction.UP, LossEstimate(lost=100, arrived=900).to_dict(), utc=NOW)

    values = json.loads(run(depot, "status", "--json").stdout)["satellites"][0]
    text = run(depot, "status").stdout

    assert (values["updates"][0]["priority"], values["updates"][0]["weight"]) == (7, 2.0)
    home, inuvik = values["links"]
    assert (home["up"], inuvik["down"], inuvik["station"]) == (None, None, "inuvik")
    assert inuvik["up"]["loss"] == pytest.approx(0.1)
    assert inuvik["up"]["deviation"] == pytest.approx(0.0095, rel=0.01)
    assert "7*2" in text
    assert re.search(r"inuvik +1 +10\.0% ± 0\.9% +unknown", text), text
