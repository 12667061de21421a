"""A station's key that is replaced blind, or by who is cut off: home never goes by a key that is not on board."""

import json

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.depot.records import CommandState, ReceivedMessage
from groundsegment.errors import LinkError
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from tests.fakes.depots import NOW
from tests.fakes.stations import Homestead

NAMED = ("svalbard", "--for", "SAT-1")


@pytest.fixture
def homestead(tmp_path):
    with Homestead(tmp_path, "svalbard") as place:
        create_trust(KeyStore(place.depot.keys_path), utc=NOW)
        yield place


def run(homestead, *words, code=0, text=None):
    result = CliRunner().invoke(app, ["station", *words, "--depot", str(homestead.depot.path)], input=text)
    assert result.exit_code == code, result.output
    return result


def rotation(homestead):
    (row,) = json.loads(run(homestead, "list", "--json").stdout)["stations"]
    return row["generation"], row["rotation"] and row["rotation"]["state"]


def answer(homestead, *, ok, text=""):
    """The satellite's signed answer to what was queued, as an uplink keeps it."""
    fire = homestead.depot.journal.commands("SAT-1", CommandState.QUEUED)[-1]
    homestead.depot.journal.add_message(
        ReceivedMessage(
            satellite="SAT-1", counter=1, kind="result", re=fire.handle, body={"ok": ok, "text": text},
            received_utc=NOW,
        )
    )  # fmt: skip


def test_home_goes_by_the_old_key_until_the_satellite_has_signed_that_it_obeyed(homestead):
    station = homestead.export("svalbard")
    told = run(homestead, "rotate", *NAMED, "--blind", "--yes").stderr
    assert "until SAT-1 answers" in told
    assert rotation(homestead) == (0, "queued")
    homestead.exchange()
    assert not homestead.sync(station).problems  # it can still read what home writes, and bring the command up
    assert homestead.exchange()["svalbard"].problem == ""
    assert "no answer of SAT-1 yet" in run(homestead, "list").stdout

    answer(homestead, ok=True)
    homestead.exchange()
    assert homestead.sync(station).problems  # what home writes now is for the next directory
    assert rotation(homestead) == (1, "done")
    assert rotation(homestead) == (1, "done")  # however often it is looked at
    assert "export it again" in run(homestead, "show", *NAMED).stdout
    second = homestead.export("svalbard", to="second")
    assert rotation(homestead) == (1, None)
    homestead.exchange()
    assert not homestead.sync(second).problems


def test_a_blind_rotation_that_was_refused_leaves_the_key_and_says_why(homestead):
    run(homestead, "rotate", *NAMED, "--blind", "--yes")
    answer(homestead, ok=False, text="blind-forbidden")

    assert rotation(homestead) == (0, "refused")
    assert "refused (blind-forbidden)" in run(homestead, "list").stdout
    assert "refused: blind-forbidden" in run(homestead, "rotate", *NAMED, "--done", code=3).stderr


def test_where_no_answer_can_come_a_person_says_that_it_is_done(homestead):
    assert "no rotation" in run(homestead, "rotate", *NAMED, "--done", code=3).stderr
    run(homestead, "rotate", *NAMED, "--blind", "--yes")
    told = run(homestead, "rotate", *NAMED, "--done").stderr

    assert "station export" in told
    assert rotation(homestead) == (1, "done")


@pytest.mark.parametrize("obeyed", [False, True])
def test_who_was_cut_off_between_the_steps_sees_it_and_the_same_command_goes_on(homestead, monkeypatch, obeyed):
    generations = []

    def obey(depot, satellite, operation, args, **_):
        generations.append(args["generation"])
        return {"ok": True, "text": "void", "satellite": satellite}

    def cut_off(*words, **options):
        if obeyed:
            obey(*words, **options)
        raise LinkError("no word", hint="again")

    words = ("rotate", *NAMED, "--link", "127.0.0.1:9", "--yes")
    with monkeypatch.context() as patch:
        patch.setattr("groundsegment.console.dangerous.command_dangerously", cut_off)
        run(homestead, *words, code=6)
    assert rotation(homestead) == (0, "begun")
    assert "the same `skyload station rotate` goes on" in run(homestead, "list").stdout

    monkeypatch.setattr("groundsegment.console.dangerous.command_dangerously", obey)
    run(homestead, *words)
    assert rotation(homestead) == (1, "done")
    assert set(generations) == {1}


def test_a_station_whose_key_is_being_replaced_is_given_no_more_contacts(homestead):
    station = homestead.export("svalbard")
    run(homestead, "rotate", *NAMED, "--blind", "--yes")
    station.depot.raise_contact("SAT-1", 1, 3 * 64)
    homestead.sync(station)
    homestead.exchange()
    homestead.sync(station)

    assert max(station.depot.batches("SAT-1", 1)) == 4


def test_who_says_no_has_begun_nothing(homestead):
    run(homestead, "rotate", *NAMED, "--blind", code=1, text="n\n")
    assert rotation(homestead) == (0, None)
