import json

import pytest

from groundsegment.depot.records import CommandState, FlightState
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.uplink.flight.command_flight import AGAIN_S, GIVEN_UP, WORD_S, CommandFlight
from groundsegment.uplink.flight.update_flight import CANCELLED_HERE
from protocol.command import Command, Operation
from protocol.message import MessageKind
from protocol.objects import object_handle
from protocol.report import Report
from protocol.trust import command_keys
from tests.fakes.depots import IDENTITY, LINK_KEY, NOW, make_depot, stage_bytes
from tests.fakes.satellite import FakeSatellite
from tests.fakes.satellite_process import SatelliteOnUdp
from tests.unit.groundsegment.test_sending_console import Operator, run

SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


def a_flying_update(depot):
    staged = stage_bytes(depot, [20_000])
    depot.set_update_state(staged.update.handle, FlightState.FLYING)
    return staged


def cancel(depot, handle, *options, text=None):
    return run(depot, "cancel", handle.hex()[:8], "--for", "SAT-1", *options, text=text)


def a_sky(operator):
    satellite = FakeSatellite(
        LINK_KEY, identity=SIGNER, sync_interval_s=0.02, report_interval_s=0.02, keep_symbols=True
    )
    return SatelliteOnUdp(satellite, on_command=operator)


def test_an_update_that_was_never_sent_is_cancelled_in_the_depot_alone(depot):
    staged = stage_bytes(depot, [20_000])
    result = cancel(depot, staged.update.handle, "--yes", "--json", "--link", "127.0.0.1:9")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["on_board"] == "never sent"
    assert depot.update(staged.update.handle).state is FlightState.CANCELLED
    assert depot.journal.commands("SAT-1") == ()


def test_the_satellite_is_told_at_once_where_there_is_a_link(depot):
    staged = a_flying_update(depot)
    operator = Operator(depot, {"ok": True, "text": "update is cancelled"})
    with a_sky(operator) as sky:
        result = cancel(depot, staged.update.handle, "--yes", "--link", sky.address)

    assert result.exit_code == 0, result.output
    assert "SAT-1 has dropped it" in result.stdout
    assert [command.args for command in operator.commands] == [{"update": staged.update.handle}]
    assert depot.update(staged.update.handle).reason == CANCELLED_HERE
    assert depot.journal.commands("SAT-1")[0].state is CommandState.DONE


@pytest.mark.parametrize("options", [[], ["--link", "127.0.0.1:9", "--timeout", "0.2"]])
def test_without_a_contact_the_command_waits_for_the_next_uplink(depot, options):
    staged = a_flying_update(depot)
    result = cancel(depot, staged.update.handle, "--yes", *options)

    assert result.exit_code == 0, result.output
    assert "will be told at the next contact" in result.stdout
    (queued,) = depot.journal.commands("SAT-1", CommandState.QUEUED)
    keys = command_keys(KeyStore(depot.keys_path).root())
    command = Command.open(queued.data, public_keys=keys, satellite="SAT-1")
    assert (command.operation, command.args["update"]) == (Operation.CANCEL, staged.update.handle)
    assert depot.update(staged.update.handle).state is FlightState.CANCELLED


def test_a_satellite_that_never_had_it_says_so(depot):
    staged = a_flying_update(depot)
    with a_sky(Operator(depot, {"ok": False, "text": "no unfinished update"})) as sky:
        result = cancel(depot, staged.update.handle, "--yes", "--link", sky.address, "--json")
    assert (result.exit_code, json.loads(result.stdout)["on_board"]) == (0, "not on board")


def test_a_satellite_that_had_decided_before_is_an_error(depot):
    staged = a_flying_update(depot)

    def confirmed(satellite, handle, data, now):
        depot.set_update_state(staged.update.handle, FlightState.CONFIRMED)  # as its receipt says, heard by an uplink
        satellite.say(MessageKind.RESULT, handle, {"ok": False, "text": "ended first: CONFIRMED"}, now)

    with a_sky(confirmed) as sky:
        result = cancel(depot, staged.update.handle, "--yes", "--link", sky.address, "--json")
    values = json.loads(result.stdout)
    assert (result.exit_code, values["on_board"], values["state"]) == (1, "decided before", "confirmed")


def test_nothing_is_done_without_consent_or_in_a_dry_run(depot):
    staged = a_flying_update(depot)
    for result, code in (
        (cancel(depot, staged.update.handle, text="n\n"), 1),
        (cancel(depot, staged.update.handle, "--dry-run"), 0),
        (cancel(depot, staged.update.handle, text=""), 3),
    ):
        assert result.exit_code == code, result.output
    assert depot.update(staged.update.handle).state is FlightState.FLYING
    assert depot.journal.commands("SAT-1") == ()


def test_what_is_decided_or_another_satellite_s_cannot_be_cancelled(depot):
    staged = a_flying_update(depot)
    depot.set_update_state(staged.update.handle, FlightState.CONFIRMED)
    result = cancel(depot, staged.update.handle, "--yes")
    assert result.exit_code == 3
    assert "skyload revert" in result.stderr
    assert run(depot, "cancel", "ffff", "--for", "SAT-1", "--yes").exit_code == 5


def test_a_queued_command_is_sent_until_the_satellite_signed_a_word_about_it(depot):
    staged = a_flying_update(depot)
    flight = CommandFlight(depot, "SAT-1")
    flight.look(0.0)
    assert not flight.has_work(0.0)
    cancel(depot, staged.update.handle, "--yes")
    (queued,) = depot.journal.commands("SAT-1")

    flight.look(1.0)
    assert {frame.handle for frame in flight.frames_to_send(1.0)} == {queued.handle}
    assert not flight.frames_to_send(1.1)
    flight.begin_contact(1.2)
    assert flight.frames_to_send(1.2)
    flight.answered(object_handle(b"x"))
    assert flight.has_work(1e9)
    flight.answered(queued.handle)
    flight.look(2.0)

    assert not flight.has_work(2.0)
    assert not flight.frames_to_send(1e9)
    assert depot.journal.commands("SAT-1")[0].state is CommandState.DONE


def test_a_false_report_makes_no_command_void(depot):
    staged = a_flying_update(depot)
    cancel(depot, staged.update.handle, "--yes")
    flight = CommandFlight(depot, "SAT-1")
    flight.look(0.0)
    assert flight.frames_to_send(0.0)
    (queued,) = depot.journal.commands("SAT-1")
    flight.heard(Report(complete=(object_handle(b"x"),)), 0.0)
    assert flight.has_work(1e9)

    flight.heard(Report(complete=(queued.handle,)), 0.0)
    flight.look(0.5)
    assert flight.has_work(WORD_S - 0.1)  # its word may be on its way
    assert not flight.has_work(WORD_S)  # an uplink may end
    assert not flight.frames_to_send(AGAIN_S - 1)
    for again in range(1, 4):  # and if it was a lie, once a minute is enough to arrive
        assert flight.frames_to_send(again * AGAIN_S)
        flight.heard(Report(complete=(queued.handle,)), again * AGAIN_S)
        assert not flight.frames_to_send((again + 1) * AGAIN_S - 1)
    assert depot.journal.commands("SAT-1")[0].state is CommandState.QUEUED
    other = CommandFlight(depot, "SAT-1")
    other.look(0.0)
    assert other.frames_to_send(0.0)  # so does the next uplink


def test_a_command_whose_answer_was_lost_is_not_sent_for_ever(depot):
    staged = a_flying_update(depot)
    cancel(depot, staged.update.handle, "--yes")
    (queued,) = depot.journal.commands("SAT-1")
    for age, state in ((GIVEN_UP, CommandState.QUEUED), (2 * GIVEN_UP, CommandState.DONE)):
        flight = CommandFlight(depot, "SAT-1", lambda age=age: queued.created_utc + age)
        flight.look(0.0)
        flight.heard(Report(complete=(queued.handle,)), 0.0)
        assert depot.journal.commands("SAT-1")[0].state is state


def test_a_command_that_another_process_brought_home_is_dropped(depot):
    staged = a_flying_update(depot)
    cancel(depot, staged.update.handle, "--yes")
    flight = CommandFlight(depot, "SAT-1")
    flight.look(0.0)
    depot.journal.set_command_state(depot.journal.commands("SAT-1")[0].handle, CommandState.DONE)
    flight.look(1.0)

    assert not flight.has_work(1.0)
    assert not flight.frames_to_send(1e9)


@pytest.mark.parametrize("words", ["newest", "second"])
def test_an_update_is_named_as_status_shows_it(depot, words):
    older, newer = (stage_bytes(depot, [20_000], seed=seed).update for seed in (1, 2))
    depot.set_update_state(older.handle, FlightState.CANCELLED)
    words = newer.release_name if words == "second" else words
    result = run(depot, "cancel", words, "--for", "SAT-1", "--yes", "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["update"] == newer.handle.hex()
