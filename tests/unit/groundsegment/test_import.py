"""`skyload import`: what comes down as files is believed for its signature or seal alone, and only once."""

import json
import os
import random
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from groundsegment.console import import_ as console
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState
from groundsegment.file_export import export, items_of
from protocol.file_names import object_file_name, report_file_name
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.link_keys import Direction
from protocol.message import Message, MessageKind
from protocol.objects import ObjectKind, object_handle
from protocol.report import Report, UpdateState, UpdateStatus
from tests.fakes.depots import IDENTITY, LINK_KEY, make_depot, stage_bytes
from tests.fakes.receiving import make_object
from tests.fakes.updates import FakeGround

APP = typer.Typer()
APP.command()(console.import_)
STRANGER = FakeGround()


@pytest.fixture
def staged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKYLOAD_DEPOT", raising=False)
    (tmp_path / "stick").mkdir()
    with make_depot(tmp_path / "depot") as depot:
        return stage_bytes(depot, (3000,))


def run(*words, code=0):
    result = CliRunner().invoke(APP, [str(word) for word in words])
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def outcomes(*words, code=0):
    said = json.loads(run(*words, "--json", code=code)[0])["files"]
    return {Path(entry["path"]).name: entry["outcome"] for entry in said}


def receipt(update, state="confirmed", counter=1, satellite="SAT-1", identity=IDENTITY):
    body = {"state": state, "reason": "none", "release": bytes(32), "sequence": 1, "text": ""}
    message = Message(satellite=satellite, counter=counter, kind=MessageKind.RECEIPT, re=update.handle, body=body)
    return message.seal(public_key=identity.public_key().public_bytes_raw(), sign=identity.sign)


def put_message(data):
    path = Path("stick") / object_file_name(ObjectKind.MESSAGE, object_handle(data))
    path.write_bytes(data)
    return path


def put_report(report, session=b"session"[:6], sequence=1, key=LINK_KEY):
    frame = Frame(kind=FrameKind.REPORT, handle=session, sequence=sequence, payload=report.encode())
    path = Path("stick") / report_file_name(session, sequence)
    path.write_bytes(FrameCodec(Direction.DOWN, key).encode(frame))
    return path


def test_a_report_says_where_an_update_stands(staged):
    entry = UpdateStatus(handle=staged.update.handle, state=UpdateState.TRIAL)
    put_report(Report(updates=(entry,)))
    put_message(receipt(staged.update, state="accepted"))
    assert set(outcomes("stick").values()) == {"new"}
    assert state_of(staged) is FlightState.COMPLETE


def last_report():
    with Depot.open(Path("depot")) as depot:
        received = depot.journal.last_report("SAT-1")
        return received and received.report


def state_of(staged):
    with Depot.open(Path("depot")) as depot:
        return depot.update(staged.update.handle).state


def test_a_receipt_settles_its_update_once(staged):
    path = put_message(receipt(staged.update))
    assert outcomes("stick") == {path.name: "new"}
    assert state_of(staged) is FlightState.CONFIRMED
    assert outcomes("stick", "--for", "SAT-1") == {path.name: "already known"}


def test_a_report_is_kept_if_it_is_newer_than_all_that_were_heard(staged):
    old = put_report(Report(boot_count=1, free_mib=1), b"first!", 9)
    new = put_report(Report(boot_count=2, free_mib=2), b"again!", 1)
    assert outcomes("stick") == {old.name: "new", new.name: "new"}
    assert last_report().free_mib == 2
    assert outcomes("stick") == {old.name: "already known", new.name: "already known"}
    unheard = put_report(Report(boot_count=1, free_mib=3), b"older!", 5)
    assert outcomes(unheard) == {unheard.name: "already known"}
    assert last_report().free_mib == 2


@pytest.mark.parametrize("what", ["flipped", "stranger", "other satellite", "cut", "huge", "bundle", "link", "fifo"])
def test_what_is_not_the_satellites_own_word_is_refused(staged, what):
    data = receipt(staged.update)
    match what:
        case "flipped":
            data = data[:-1] + bytes([data[-1] ^ 1])
        case "stranger":
            data = receipt(staged.update, identity=STRANGER._ed25519("x"))
        case "other satellite":
            data = receipt(staged.update, satellite="SAT-2")
        case "cut":
            data = data[: len(data) // 2]
        case "huge":
            data += bytes(MESSAGE_SIZE_MAX)
        case "bundle":
            data = make_object(random.Random(1), 500)
    path = put_message(data)
    if what == "link":
        path.rename("elsewhere")
        path.symlink_to(Path("elsewhere").resolve())
    elif what == "fifo":
        path.unlink()
        os.mkfifo(path)
    good = put_report(Report(boot_count=1))
    assert outcomes("stick", code=3) == {path.name: "refused", good.name: "new"}
    assert state_of(staged) is FlightState.STAGED


@pytest.mark.parametrize("what", ["flipped", "other key", "way up", "empty", "symbol"])
def test_a_report_that_is_not_sealed_by_the_link_is_refused(staged, what):
    path = put_report(Report(free_mib=7), key=bytes(32) if what == "other key" else LINK_KEY)
    data = path.read_bytes()
    match what:
        case "flipped":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "way up":
            frame = Frame(kind=FrameKind.REPORT, handle=b"sessio", sequence=1, payload=Report().encode())
            path.write_bytes(FrameCodec(Direction.UP, LINK_KEY).encode(frame))
        case "empty":
            path.write_bytes(b"")
        case "symbol":
            frame = Frame(kind=FrameKind.RAPTORQ, handle=bytes(6), num_symbols=1, payload=bytes(64))
            path.write_bytes(FrameCodec(Direction.DOWN, LINK_KEY).encode(frame))
    assert outcomes("stick", code=3) == {path.name: "refused"}
    assert last_report() is None


def test_what_skyload_put_on_the_stick_itself_is_passed_over(staged):
    with Depot.open(Path("depot")) as depot:
        items = items_of(depot, staged.update)
        export(staged.update, items, items, Path("stick"), on_bytes=lambda _: None)
    assert len(list(Path("stick").iterdir())) == 4
    assert "no message or report there" in run("stick", code=3)[1]  # only what goes up
    path = put_message(receipt(staged.update))
    assert outcomes("stick") == {path.name: "new"}
    said = run("stick")[0]
    assert "passed over    2 files of updates" in said
    assert "refused" not in said
    assert json.loads(run(*Path("stick").glob("*.sk?"), "--json")[0])["num_passed_over"] == 2
    path.write_bytes(Path("stick", items[1].name).read_bytes())  # a bundle that says it is a message
    assert outcomes("stick", code=3) == {path.name: "refused"}


def test_mistakes_are_told(staged):
    Path("stick/holiday.jpg").write_bytes(b"\xff\xd8")
    for words, code, said in (
        (("nowhere",), 3, "no such file"),
        (("stick",), 3, "no message or report there"),
        (("stick/holiday.jpg",), 3, "1 of 1 files refused"),
        (("stick", "--for", "SAT-9"), 5, "known satellites"),
        (("stick", "--depot", "nowhere"), 3, "no depot there"),
    ):
        assert said in " ".join(run(*words, code=code)[1].split())
    with Depot.open(Path("depot")) as depot:
        make_second(depot)
    assert "which satellite" in run("stick", code=3)[1]


def make_second(depot):
    from groundsegment.depot.records import Satellite
    from tests.fakes.depots import NOW

    depot.add_satellite(Satellite(name="SAT-2", identity_public=b"i" * 32, release_public=b"r" * 32, added_utc=NOW))
