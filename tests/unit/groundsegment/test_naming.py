"""What people call an update or a release: what could mean several is an error that lists them."""

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.depot.records import FORGOTTEN_HERE, FlightState, ReceivedMessage
from groundsegment.errors import InputError, UnknownError
from groundsegment.naming import find_release, find_release_on_board, find_update
from tests.fakes.depots import NOW, Satellite, make_depot, stage_bytes


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        depot.add_satellite(Satellite(name="SAT-2", identity_public=b"i" * 32, release_public=b"r" * 32, added_utc=NOW))
        yield depot


@pytest.fixture
def updates(depot):
    """Two of one name, and one for another satellite."""
    rows = ((1, "release-7", "SAT-1"), (2, "release-7", "SAT-1"), (3, "release-8", "SAT-2"))
    made = [(stage_bytes(depot, [20_000], seed=seed, name=name).update, called) for seed, called, name in rows]
    return [depot._set_update(update.handle, release_name=called) for update, called in made]


def is_open(update):
    return update.state.is_open


def test_digits_a_name_and_newest_mean_an_update(depot, updates):
    first, _, other = updates
    assert find_update(depot, first.handle.hex()[:8].upper()).handle == first.handle
    assert find_update(depot, "release-8").handle == other.handle
    assert find_update(depot, "newest", satellite="SAT-2").handle == other.handle


def test_a_name_of_several_is_an_error_that_lists_them(depot, updates):
    with pytest.raises(UnknownError, match="2 updates could be meant") as caught:
        find_update(depot, "release-7")
    for update in updates[:2]:
        assert update.handle.hex() in caught.value.hint
    with pytest.raises(UnknownError, match="2 releases could be meant") as caught:
        find_release(depot, "release-7")
    assert updates[0].release_digest.hex()[:16] in caught.value.hint


def test_of_several_with_one_name_the_one_that_is_wanted_is_meant(depot, updates):
    depot.set_update_state(updates[0].handle, FlightState.CANCELLED)
    assert find_update(depot, "release-7", is_wanted=is_open).handle == updates[1].handle
    depot.set_update_state(updates[1].handle, FlightState.CONFIRMED)
    with pytest.raises(UnknownError, match="2 updates could be meant"):
        find_update(depot, "release-7", is_wanted=is_open)


def test_digits_mean_what_has_ended_too(depot, updates):
    depot.set_update_state(updates[0].handle, FlightState.CONFIRMED)
    assert find_update(depot, updates[0].handle.hex(), is_wanted=is_open).handle == updates[0].handle


def test_a_name_that_is_another_updates_digits_is_an_error(depot):
    first = stage_bytes(depot, [20_000], seed=1).update
    second = stage_bytes(depot, [20_000], seed=2, salt=b"x").update
    depot._set_update(second.handle, release_name=first.handle.hex()[:4])
    with pytest.raises(UnknownError, match="2 updates could be meant"):
        find_update(depot, first.handle.hex()[:4])


def test_an_update_of_another_satellite_is_said_so(depot, updates):
    with pytest.raises(UnknownError, match="is for SAT-2"):
        find_update(depot, "release-8", satellite="SAT-1")


@pytest.mark.parametrize("text", ["", "zz"])
def test_what_is_nothing_is_unknown(depot, updates, text):
    with pytest.raises(UnknownError, match="no such update"):
        find_update(depot, text)
    with pytest.raises(UnknownError, match="no such release"):
        find_release(depot, text)


def test_newest_needs_a_satellite_and_something_wanted(depot, updates):
    with pytest.raises(InputError, match="which satellite"):
        find_update(depot, "newest")
    with pytest.raises(UnknownError, match="has no update"):
        find_update(depot, "newest", satellite="SAT-1", is_wanted=lambda update: False)


BEFORE_LAUNCH = "5a" * 32


def a_receipt(depot, serving):
    body = {"state": "accepted", "release": None, "serving": serving}
    receipt = ReceivedMessage(
        satellite="SAT-1", counter=1, kind="receipt", re=b"\0" * 6, body=body, received_utc=NOW, data=b""
    )
    depot.journal.add_message(receipt)


def test_a_release_on_board_is_meant_by_digits_and_by_its_name(depot, updates):
    first, second, _ = updates
    depot._set_update(second.handle, release_name="release-9")
    for text in ("release-9", second.release_digest.hex()[:12].upper(), second.release_digest.hex()):
        assert find_release_on_board(depot, text, satellite="SAT-1") == second.release_digest
    with pytest.raises(UnknownError, match="no such release") as caught:
        find_release_on_board(depot, "release-8", satellite="SAT-1")  # it was staged for another satellite
    assert f"{first.release_digest.hex()[:16]} release-7" in caught.value.hint


def test_a_release_of_before_launch_is_known_by_what_the_satellite_signed(depot):
    with pytest.raises(UnknownError, match="no such release"):
        find_release_on_board(depot, "5a5a", satellite="SAT-1")
    a_receipt(depot, BEFORE_LAUNCH)
    assert find_release_on_board(depot, "5a5a", satellite="SAT-1").hex() == BEFORE_LAUNCH


def test_what_could_mean_several_releases_on_board_is_an_error_that_lists_them(depot, updates):
    with pytest.raises(UnknownError, match="2 releases could be meant") as caught:
        find_release_on_board(depot, "release-7", satellite="SAT-1")
    assert updates[1].release_digest.hex()[:16] in caught.value.hint


def test_all_digits_are_believed_and_nothing_is_no_release(depot):
    assert find_release_on_board(depot, "AB" * 32, satellite="SAT-1") == b"\xab" * 32
    for text in ("", "z" * 64):
        with pytest.raises(UnknownError):
            find_release_on_board(depot, text, satellite="SAT-1")


@pytest.mark.parametrize("words", [["release-8"], ["release-8", "--for", "SAT-2"], ["newest", "--for", "SAT-2"]])
def test_plan_takes_an_update_as_all_others_do(depot, updates, words):
    result = CliRunner().invoke(app, ["plan", *words, "--rate", "2Mbit/s", "--json", "--depot", str(depot.path)])
    assert result.exit_code == 0, result.output
    assert updates[2].handle.hex() in result.stdout
    assert updates[0].handle.hex() not in result.stdout


def test_an_update_that_has_ended_is_neither_planned_nor_flown_in_a_simulation_if_its_files_are_gone(depot, updates):
    depot.set_update_state(updates[2].handle, FlightState.CONFIRMED, reason=FORGOTTEN_HERE)
    place = ["--depot", str(depot.path)]
    planned = CliRunner().invoke(app, ["plan", "release-8", "--rate", "2Mbit/s", *place])
    assert planned.exit_code == 3
    assert "is confirmed: nothing of it will fly" in planned.stderr
    flown = CliRunner().invoke(app, ["simulate", "--profile", "demo", "--update", "release-8", *place])
    assert flown.exit_code == 5
    assert "was forgotten" in flown.stderr
