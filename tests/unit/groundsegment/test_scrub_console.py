"""`skyload scrub` and what `skyload status` says of damage that the ground has to undo."""

import json

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.damage import damage_of
from groundsegment.depot.records import CommandState, ReceivedMessage
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from protocol.command import Command, Operation
from protocol.damage import DamageReport, LostRange
from protocol.message import MessageKind
from protocol.report import NO_HANDLE
from protocol.trust import command_keys
from tests.fakes.depots import NOW, make_depot, stage_bytes

SATELLITE = "SAT-1"

LOST = (LostRange(file=1, offset=4096, size=4096), LostRange(file=1, offset=12288, size=8192))


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


def run(depot, *arguments):
    return CliRunner().invoke(app, [*arguments, "--depot", str(depot.path)])


def say(depot, counter, release, lost):
    body = DamageReport(release=release, lost=lost).to_body()
    depot.journal.add_message(
        ReceivedMessage(
            satellite=SATELLITE,
            counter=counter,
            kind=str(MessageKind.DAMAGE),
            re=NO_HANDLE,
            body=body,
            received_utc=NOW,
            data=b"",
        )
    )


@pytest.mark.parametrize("digest", [None, "ab" * 32])
def test_without_a_link_the_command_waits_for_the_next_contact(depot, digest):
    result = run(depot, "scrub", *([digest] if digest else []), "--for", SATELLITE, "--now", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sent"] is False
    (queued,) = depot.journal.commands(SATELLITE, CommandState.QUEUED)
    keys = command_keys((depot.keys_path / "root.json").read_bytes())
    command = Command.open(queued.data, public_keys=keys, satellite=SATELLITE)
    assert command.operation is Operation.SCRUB
    assert command.args == {"release": bytes.fromhex(digest) if digest else None, "now": True}


def test_damage_is_what_was_said_last_of_each_release(depot):
    say(depot, 1, b"a" * 32, LOST)
    say(depot, 2, b"b" * 32, LOST[:1])
    say(depot, 3, b"a" * 32, LOST[1:])
    assert [(known.report.release, known.report.lost) for known in damage_of(depot, SATELLITE)] == [
        (b"a" * 32, LOST[1:]),
        (b"b" * 32, LOST[:1]),
    ]
    say(depot, 4, b"a" * 32, ())
    assert [known.report.release for known in damage_of(depot, SATELLITE)] == [b"b" * 32]


def test_status_shows_what_is_lost_where(depot):
    digest = stage_bytes(depot, [20_000]).update.release_digest
    say(depot, 1, digest, LOST)
    (satellite,) = json.loads(run(depot, "status", "--json").stdout)["satellites"]
    (damage,) = satellite["damage"]
    assert damage["release"] == digest.hex()
    assert damage["num_bytes"] == 12288
    assert damage["lost"][0] == {"file": 1, "offset": 4096, "size": 4096}
    text = run(depot, "status").stdout
    assert "damaged:" in text
    assert digest.hex()[:16] in text


def test_a_message_that_is_none_is_passed_over(depot):
    depot.journal.add_message(
        ReceivedMessage(
            satellite=SATELLITE, counter=1, kind="damage", re=NO_HANDLE, body={"release": 5}, received_utc=NOW, data=b""
        )
    )
    assert damage_of(depot, SATELLITE) == ()
