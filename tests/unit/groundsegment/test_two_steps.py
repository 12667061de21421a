"""Dangerous commands from the ground: armed, heard, fired; interrupted anywhere, the same call goes on."""

import json
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.depot.records import CommandState, FlightState, ReceivedMessage
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.uplink.flight.outcome import json_body
from groundsegment.uplink.wire import exchange, two_steps
from groundsegment.uplink.wire.exchange import Answer, NoAnswerError
from groundsegment.uplink.wire.link_socket import Endpoint
from protocol.arming import BLIND_GAP, intent_digest
from protocol.command import Command, Operation
from protocol.link_keys import derive_station_key
from protocol.message import MessageKind
from protocol.trust import command_keys
from tests.fakes.depots import IDENTITY, LINK_KEY, NOW, make_depot, stage_bytes
from tests.fakes.satellite import FakeSatellite
from tests.fakes.satellite_process import SatelliteOnUdp

SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)
DIGEST = bytes(range(100, 132))
NOWHERE = Endpoint.parse("127.0.0.1:9")
REVERT, NONE = Operation.REVERT, {"digest": None}


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


class Armory:
    """A satellite's side of both steps: arms, remembers what it answered, obeys what brings it back, each once."""

    def __init__(self, depot):
        self.keys = command_keys(KeyStore(depot.keys_path).root())
        self.reply, self.expires_s = {"ok": True, "text": "release old serves"}, 600
        self.armed, self.fired, self.used, self.num_arms = {}, [], set(), 0

    def obey(self, data):
        command = Command.open(data, public_keys=self.keys, satellite="SAT-1")
        if command.counter in self.used:
            return None
        self.used.add(command.counter)
        return self.arm(command) if command.operation is Operation.ARM else self.fire(command)

    def arm(self, command):
        self.num_arms += 1
        nonce = bytes([self.num_arms]) * 16
        self.armed[command.counter] = command.args["intent"], nonce
        return {"ok": True, "armed": command.counter, "nonce": nonce, "expires_s": self.expires_s}

    def fire(self, command):
        intent = intent_digest("SAT-1", command.operation, command.args)
        if self.armed.pop(command.arm, None) != (intent, command.nonce):
            return {"ok": False, "text": "not armed", "refusal": "not-armed"}
        self.fired.append(command)
        return self.reply

    def __call__(self, satellite, handle, data, now):
        body = self.obey(data)
        if body is not None:
            satellite.say(MessageKind.RESULT, handle, body, now)


class Link:
    """Stands for `send_kept`: no socket, no waiting. Cut before or after a step of some kind has crossed it."""

    def __init__(self, armory, utc):
        self.armory, self.utc, self.sent = armory, utc, []
        self.up_is_cut_for = self.down_is_cut_for = None
        self.error = KeyboardInterrupt()

    def __call__(self, depot, command, endpoint, *, timeout_s, tell):
        if command.operation == self.up_is_cut_for:
            raise self.error
        self.sent.append((command.operation, command.counter))
        body = self.armory.obey(command.data)
        if body is not None:
            depot.journal.add_message(
                ReceivedMessage(
                    satellite="SAT-1", counter=len(self.sent), kind="result", re=command.handle, body=json_body(body),
                    received_utc=self.utc(),
                )
            )  # fmt: skip
        if command.operation == self.down_is_cut_for:
            raise self.error
        depot.journal.set_command_state(command.handle, CommandState.DONE)
        (*_, message) = depot.journal.messages("SAT-1", re=command.handle)
        return Answer(message=message, seconds=0.5, is_on_board_s=0.25)


@pytest.fixture
def link(depot):
    from datetime import UTC, datetime

    return Link(Armory(depot), lambda: datetime.now(UTC))


def fire(depot, link, args=None, operation=REVERT):
    return two_steps.fire(depot, "SAT-1", NOWHERE, operation, NONE if args is None else args, timeout_s=1.0, send=link)


def test_it_is_armed_and_fired_with_the_answer(depot, link):
    fired = fire(depot, link)

    assert (fired.body["ok"], fired.arm, fired.fire, fired.is_resumed) == (True, 1, 2, False)
    assert link.sent == [("arm", 1), ("revert", 2)]
    assert [command.arm for command in link.armory.fired] == [1]


@pytest.mark.parametrize("where", ["up", "down"])
@pytest.mark.parametrize("operation", ["arm", "revert"])
def test_interrupted_anywhere_the_same_call_goes_on_and_fires_once(depot, link, operation, where):
    setattr(link, f"{where}_is_cut_for", operation)
    with pytest.raises(KeyboardInterrupt):
        fire(depot, link)
    link.up_is_cut_for = link.down_is_cut_for = None
    fired = fire(depot, link)

    assert (fired.body["ok"], fired.is_resumed) == (True, True)
    assert (len(link.armory.fired), link.armory.num_arms) == (1, 1)
    assert depot.journal.commands("SAT-1")[-1].counter == 2


def test_interrupted_between_the_steps_it_only_fires(depot, link):
    keep = two_steps.keep_command
    link.up_is_cut_for = "revert"
    with pytest.raises(KeyboardInterrupt):
        fire(depot, link)
    assert keep is two_steps.keep_command
    link.up_is_cut_for = None
    fire(depot, link)

    assert [operation for operation, _ in link.sent] == ["arm", "revert"]


def test_a_command_that_arrived_and_was_lost_to_a_restart_is_given_up(depot, link):
    link.down_is_cut_for = "revert"
    link.error = NoAnswerError("no answer", hint="again", has_arrived=True)
    with pytest.raises(NoAnswerError):
        fire(depot, link)
    assert depot.journal.commands("SAT-1")[-1].state is CommandState.DROPPED
    link.down_is_cut_for = None
    assert fire(depot, link).is_resumed is False
    assert link.armory.num_arms == 2


def test_an_arm_that_the_satellite_forgot_is_made_anew(depot, link):
    link.up_is_cut_for = "revert"
    with pytest.raises(KeyboardInterrupt):
        fire(depot, link)
    link.up_is_cut_for = None
    link.armory.armed.clear()  # two reboots
    fired = fire(depot, link)

    assert (fired.body["ok"], link.armory.num_arms, len(link.armory.fired)) == (True, 2, 1)


def test_an_arm_that_was_answered_too_long_ago_is_not_fired(depot, link):
    utc = link.utc
    link.utc = lambda: utc() - timedelta(seconds=596)
    link.down_is_cut_for = "arm"
    with pytest.raises(KeyboardInterrupt):
        fire(depot, link)
    depot.journal.set_command_state(depot.journal.commands("SAT-1")[0].handle, CommandState.DONE)
    link.down_is_cut_for, link.utc = None, utc
    fired = fire(depot, link)

    assert (fired.is_resumed, link.armory.num_arms) == (False, 2)


def test_what_was_armed_for_something_else_is_not_fired(depot, link):
    link.up_is_cut_for = "revert"
    with pytest.raises(KeyboardInterrupt):
        fire(depot, link)
    link.up_is_cut_for = None
    fired = fire(depot, link, {"digest": DIGEST})

    assert (fired.body["ok"], fired.is_resumed, link.armory.num_arms) == (True, False, 2)
    assert link.armory.fired[0].args == {"digest": DIGEST}


def test_a_revert_that_is_done_is_not_taken_for_the_next_one(depot, link):
    for _ in range(2):
        fire(depot, link)

    assert len(link.armory.fired) == 2
    assert [operation for operation, _ in link.sent] == ["arm", "revert", "arm", "revert"]


def test_an_arm_that_is_refused_is_not_fired_and_says_why(depot, link):
    link.armory.arm = lambda command: {"ok": False, "text": "malformed: x", "refusal": "malformed"}
    fired = fire(depot, link)

    assert (fired.refusal, fired.fire) == ("malformed", 0)
    assert link.armory.fired == []


def run(depot, *arguments, text=None):
    return CliRunner().invoke(app, [*arguments, "--depot", str(depot.path)], input=text)


def test_blind_both_steps_wait_for_the_uplink_far_apart(depot):
    result = run(depot, "revert", "--for", "SAT-1", "--blind", "--yes", "--json")

    assert json.loads(result.stdout)["blind"] is True
    arm, fire = depot.journal.commands("SAT-1", CommandState.QUEUED)
    assert (arm.operation, fire.operation) == ("arm", "revert")
    assert fire.counter == arm.counter + BLIND_GAP
    command = Command.open(fire.data, public_keys=Armory(depot).keys, satellite="SAT-1")
    assert (command.arm, command.nonce) == (arm.counter, b"")


def test_without_a_way_to_it_nothing_is_sent(depot):
    result = run(depot, "revert", "--for", "SAT-1", "--yes")

    assert result.exit_code == 3
    assert "--blind" in result.stderr


def test_over_a_real_link_activate_names_the_update_and_says_each_step(depot, monkeypatch):
    monkeypatch.setattr(exchange, "FAREWELL_PAUSE_S", 0.01)
    monkeypatch.setattr(exchange, "LOOK_PERIOD_S", 0.01)
    staged = stage_bytes(depot, [20_000])
    depot.set_update_state(staged.update.handle, FlightState.COMPLETE, reason="HELD")
    armory = Armory(depot)
    satellite = FakeSatellite(
        LINK_KEY, identity=SIGNER, sync_interval_s=0.01, report_interval_s=0.01, keep_symbols=True
    )
    with SatelliteOnUdp(satellite, on_command=armory) as sky:
        words = ("activate", staged.update.handle.hex()[:6], "--for", "SAT-1", "--link", sky.address)
        result = run(depot, *words, text="y\n")

    assert result.exit_code == 0, result.output
    for words in ("arming: activate", "SAT-1 is armed (1); firing"):
        assert words in result.stderr
    assert [(command.operation, command.args) for command in armory.fired] == [
        (Operation.ACTIVATE, {"update": staged.update.handle})
    ]
    assert depot.update(staged.update.handle).reason == ""  # an uplink may wait for how it ends


@pytest.mark.parametrize("state", [FlightState.CONFIRMED, FlightState.REJECTED])
def test_what_has_ended_is_not_activated_and_nothing_is_sent(depot, state):
    update = stage_bytes(depot, [20_000]).update
    depot.set_update_state(update.handle, state)
    words = ("activate", update.release_name, "--for", "SAT-1", "--link", "127.0.0.1:9", "--yes")
    result = run(depot, *words)

    assert result.exit_code == 3
    assert f"is {state}: there is nothing to activate" in result.stderr
    assert depot.journal.commands("SAT-1") == ()


def test_rotating_a_station_withdraws_its_key_on_board_and_changes_it_at_home(depot, link, monkeypatch):
    depot.add_station("SAT-1", "inuvik", added_utc=NOW)
    before = depot.station_key("SAT-1", 1)
    monkeypatch.setattr(two_steps.fire, "__kwdefaults__", {**two_steps.fire.__kwdefaults__, "send": link})
    words = ("station", "rotate", "inuvik", "--for", "SAT-1", "--link", "127.0.0.1:9", "--yes", "--json")
    values = [json.loads(run(depot, *words).stdout) for _ in range(2)]

    assert [entry["generation"] for entry in values] == [1, 2]
    assert [command.args for command in link.armory.fired] == [
        {"station": 1, "generation": 1},
        {"station": 1, "generation": 2},
    ]
    assert depot.station_key("SAT-1", 1) == derive_station_key(LINK_KEY, 1, 2) != before


def test_a_restored_depot_catches_up_with_the_generation_on_board(depot, link, monkeypatch):
    depot.add_station("SAT-1", "inuvik", added_utc=NOW)
    monkeypatch.setattr(two_steps.fire, "__kwdefaults__", {**two_steps.fire.__kwdefaults__, "send": link})
    words = ("station", "rotate", "inuvik", "--for", "SAT-1", "--link", "127.0.0.1:9", "--yes", "--json")
    values = json.loads(run(depot, *words, "--generation", "8").stdout)

    assert values["generation"] == depot.station_generation("SAT-1", 1) == 8
    assert link.armory.fired[-1].args == {"station": 1, "generation": 8}
    again = run(depot, *words, "--generation", "8")
    assert again.exit_code == 3
    assert "--generation 9" in again.stderr
    assert len(link.armory.fired) == 1
    assert json.loads(run(depot, *words).stdout)["generation"] == 9


def test_a_station_whose_rotation_was_refused_keeps_its_key(depot, link, monkeypatch):
    depot.add_station("SAT-1", "inuvik", added_utc=NOW)
    link.armory.reply = {"ok": False, "text": "no"}
    monkeypatch.setattr(two_steps.fire, "__kwdefaults__", {**two_steps.fire.__kwdefaults__, "send": link})
    result = run(depot, "station", "rotate", "inuvik", "--for", "SAT-1", "--link", "127.0.0.1:9", "--yes")

    assert result.exit_code == 1
    assert "--generation N+1" in result.stderr
    assert depot.station_key("SAT-1", 1) == derive_station_key(LINK_KEY, 1)
