"""`skyload receipt`: verified again from what the depot keeps, and anywhere else from a file and a public key."""

import json

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.downlink import MessageReceived
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.uplink.flight.flights import Flights
from groundsegment.uplink.flight.outcome import Receipt, record_message
from groundsegment.uplink.sender.core import UplinkOptions
from protocol.message import Message, MessageKind
from protocol.objects import object_handle
from tests.fakes.depots import IDENTITY, NOW, make_depot, stage_bytes
from tests.unit.protocol.test_receipt import BODY, STRANGER

PUBLIC = IDENTITY.public_key().public_bytes_raw()


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


@pytest.fixture
def update(depot):
    return stage_bytes(depot, [20_000]).update


def hear(depot, update, counter=1, key=IDENTITY, **changes):
    message = Message(
        satellite="SAT-1", counter=counter, kind=MessageKind.RECEIPT, re=update.handle, body={**BODY, **changes}
    )
    data = message.seal(public_key=key.public_key().public_bytes_raw(), sign=key.sign)
    record_message(depot, "SAT-1", MessageReceived(message=message, handle=object_handle(data), data=data))
    return data


def run(*arguments):
    return CliRunner().invoke(app, ["receipt", *map(str, arguments)])


def test_what_was_heard_is_listed_and_verified_again(depot, update):
    hear(depot, update, state="accepted")
    hear(depot, update, counter=2)
    result = run("list", "--depot", depot.path, "--json")

    found = json.loads(result.stdout)["receipts"]
    assert [(entry["state"], entry["verdict"]) for entry in found] == [("accepted", "good"), ("confirmed", "good")]
    assert "confirmed" in run("list", "--depot", depot.path).stdout


def test_a_depot_that_was_tampered_with_is_found_out(depot, update):
    hear(depot, update, key=STRANGER)
    result = run("verify", update.handle.hex()[:6], "--depot", depot.path, "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == "forged"


def test_an_exported_receipt_verifies_with_the_public_key_alone(depot, update, tmp_path, monkeypatch):
    hear(depot, update, state="accepted")
    data = hear(depot, update, counter=2)
    done = run(
        "export", update.handle.hex(), "--out", tmp_path / "out", "--key-out", tmp_path / "SAT-1.pub",
        "--depot", depot.path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "out").iterdir())
    monkeypatch.chdir(tmp_path)  # there is no depot here
    key = ("--key", "SAT-1.pub")

    results = [run("verify", path, *key, "--for", "SAT-1") for path in files]
    assert [result.exit_code for result in results] == [0, 0]
    assert any(path.read_bytes() == data for path in files)
    shown = run("show", files[1], *key)
    for words in ("confirmed", update.handle.hex(), "boot          3", "2026-11"):
        assert words in shown.stdout


@pytest.mark.parametrize(
    ("spoil", "options", "verdict"),
    [
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), (), "altered"),
        (lambda data: data[:-1], (), "not-a-receipt"),
        (lambda data: data, ("--for", "SAT-9"), "other-satellite"),
        (lambda data: data[:8] + bytes(8) + data[16:], (), "forged"),
    ],
)
def test_a_file_that_is_not_what_was_signed_has_a_verdict_and_fails(depot, update, tmp_path, spoil, options, verdict):
    path, key = tmp_path / "receipt.ska", tmp_path / "key"
    path.write_bytes(spoil(hear(depot, update)))
    key.write_text(PUBLIC.hex())
    result = run("verify", path, "--key", key, "--json", *options)

    assert result.exit_code == 1
    assert json.loads(result.stdout)["verdict"] == verdict


def test_a_file_is_verified_with_the_keys_of_the_depot_too(depot, update, tmp_path):
    path = tmp_path / "receipt.ska"
    path.write_bytes(hear(depot, update))

    assert run("verify", path, "--depot", depot.path).exit_code == 0
    path.write_bytes(hear(depot, update, counter=3, key=STRANGER))
    assert run("verify", path, "--depot", depot.path).stdout.startswith("forged: ")


def test_an_update_is_named_as_status_shows_it(depot, update):
    hear(depot, update)
    at = ("--depot", depot.path)

    assert run("verify", update.release_name, *at).exit_code == 0
    assert run("verify", "newest", "--for", "SAT-1", *at).exit_code == 0
    assert run("export", update.release_name, "--out", depot.path.parent / "out", *at).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("verify", "nothing.ska"), 3, "no such file"),
        (("verify", "abcdef"), 5, "no such update"),
        (("verify", "x.ska", "--key", "no.pub"), 3, "No such file"),
        (("list", "--for", "SAT-9"), 5, "no such satellite"),
    ],
)
def test_errors_say_what_to_do(depot, arguments, code, words):
    result = run(*arguments, *(() if "--key" in arguments else ("--depot", depot.path)))

    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "hint:" in result.stderr


def test_an_update_without_a_receipt_says_so(depot, update):
    result = run("verify", update.handle.hex(), "--depot", depot.path)

    assert result.exit_code == 5
    assert "no receipt has come yet" in result.stderr


class Flight:
    """An update in flight, as far as receipts go."""

    def __init__(self):
        self.taken = []

    def take_receipt(self, receipt):
        self.taken.append(receipt.state)


def test_a_flight_takes_the_receipt_of_its_end_only(depot, update):
    flights = Flights(depot, "SAT-1", 0, UplinkOptions(), executor=None)
    flight = flights.flying[update.handle] = Flight()
    for state in ("accepted", "refused", "serving", "rejected"):
        flights.take_receipt(Receipt.of_body(update.handle, {"state": state}))

    assert flight.taken == ["rejected"]


def test_one_that_is_accepted_does_not_end_the_update(depot, update):
    hear(depot, update, state="accepted")
    assert depot.update(update.handle).state.is_open
    hear(depot, update, counter=2)
    assert str(depot.update(update.handle).state) == "confirmed"


def test_what_the_trial_came_to_is_said_in_words_and_of_the_newest_update_too(depot, update, tmp_path):
    hear(depot, update, canary={"agreeing": 55, "expected": 56, "permille": 982, "swap_ms": 0.3456})
    shown = run("show", "newest", "--for", "SAT-1", "--depot", depot.path)
    assert "55 of 56 tokens as signed, swapped in 0.35 ms" in shown.stdout
    out = tmp_path / "out"
    result = run("export", "newest", "--for", "SAT-1", "--out", out, "--depot", depot.path)
    assert result.exit_code == 0, result.output
    assert len(list(out.iterdir())) == 1
