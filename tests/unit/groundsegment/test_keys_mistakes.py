"""`skyload keys` when people err, or stop it in the middle: nothing half done stays, and the same command goes on."""

import pytest
from typer.testing import CliRunner

from groundsegment.console import keys, keys_change
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ReceivedMessage
from groundsegment.errors import KeyStoreError
from groundsegment.signer import publishing, rotation
from groundsegment.signer.key_store import KeyStore, make_key
from groundsegment.signer.passphrase import FILE_VARIABLE, Passphrase
from groundsegment.signer.signing import create_trust
from protocol.message import MessageKind
from tests.unit.groundsegment import test_keys_change as change

NOW = change.NOW
first_day, nobody_gives_a_passphrase, place, skyload = (
    change.first_day,
    change.nobody_gives_a_passphrase,
    change.place,
    change.skyload,
)


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture
def sealed(place, skyload):
    for name in ("right", "wrong"):
        (place / name).write_text(f"the {name} words\n")
    skyload("protect", "--new-passphrase-file", str(place / "right"))
    return place


@pytest.mark.parametrize("words", [("rotate", "timestamp"), ("revoke", "timestamp", "--yes")], ids=["rotate", "revoke"])
def test_a_wrong_passphrase_leaves_nothing_and_the_right_one_goes_on(sealed, skyload, monkeypatch, words):
    monkeypatch.setenv(FILE_VARIABLE, str(sealed / "wrong"))
    assert "does not open" in skyload(*words, code=4)
    assert not change.of(sealed).next_path.exists()
    monkeypatch.setenv(FILE_VARIABLE, str(sealed / "right"))
    told = skyload(*words)
    assert (told["in_force"], told["root_version"]) == (True, 2)


def test_where_keys_are_sealed_no_new_one_is_made_under_other_words_or_none(sealed, skyload):
    change.away(sealed, "root-1", "root-2", "root-3")
    assert "does not open" in skyload("rotate", "timestamp", "--passphrase-file", str(sealed / "wrong"), code=4)
    assert "passphrase is needed" in skyload("rotate", "timestamp", code=4)
    assert not change.of(sealed).next_path.exists()
    skyload("rotate", "timestamp", "--passphrase-file", str(sealed / "right"))
    assert b"ENCRYPTED" in (change.of(sealed).next_path / "timestamp.pem").read_bytes()


def test_a_root_key_that_does_not_open_leaves_nothing(place, skyload):
    key = change.of(place).path / "root-2.pem"
    good = key.read_bytes()
    key.write_bytes(good[:60])
    assert "not a private key" in skyload("rotate", "timestamp", code=4)
    assert not change.of(place).next_path.exists()
    key.write_bytes(good)
    assert skyload("rotate", "timestamp")["root_version"] == 2


@pytest.mark.parametrize("cut", ["make_key", "write_new", "add_signature", "_move_in", "replace_durably"])
def test_a_rotation_that_is_interrupted_goes_on_with_the_same_command(place, skyload, monkeypatch, cut):
    words = ("rotate", "timestamp", "snapshot")
    with monkeypatch.context() as patch:
        patch.setattr(rotation, cut, interrupt)
        skyload(*words, code=130)
    assert change.of(place).next_path.exists() == (cut not in {"make_key", "write_new"})
    told = skyload(*words)
    assert told["in_force"]
    assert not change.of(place).next_path.exists()
    assert change.trusts(change.of(place), change.kit_state(place)).root_version == told["root_version"] == 2


def test_a_cut_between_two_keys_that_move_in_is_no_second_rotation(place, skyload, monkeypatch):
    move_in = rotation._move_in

    def first_only(store, name):
        move_in(store, name) if name == "snapshot" else interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(rotation, "_move_in", first_only)
        skyload("rotate", "timestamp", "snapshot", code=130)
    told = skyload("rotate", "timestamp", "snapshot")
    assert (told["root_version"], set(told["changes"])) == (2, {"timestamp", "snapshot"})


@pytest.mark.parametrize("words", [("rotate", "timestamp"), ("revoke", "timestamp", "--yes")], ids=["rotate", "revoke"])
@pytest.mark.parametrize("where", ["nothing queued", "not all queued", "queued", "told"])
def test_an_interruption_at_the_very_end_is_no_second_rotation(place, skyload, monkeypatch, words, where):
    key = change.of(place).public_key("timestamp").keyid
    with monkeypatch.context() as patch:
        if where == "told":
            patch.setattr(rotation, "drop", lambda store: None if not store.next_path.exists() else interrupt())
        elif where == "queued":
            patch.setattr(keys_change, "_tell_next", interrupt)
        else:
            patch.setattr(publishing, "make_rotations" if where == "nothing queued" else "QueuedCommand", interrupt)
        skyload(*words, code=130)
    assert skyload("root", "status")["next"] is None  # it is in force
    told = skyload(*words)
    assert (told["root_version"], told["changes"], told["queued"]) == (2, ["timestamp"], {"SAT-1": 1})
    assert (told["in_force"], told["resumed"], told["begins_epoch"]) == (True, True, words[0] == "revoke")
    assert change.of(place).public_key("timestamp").keyid != key
    assert skyload(*words)["root_version"] == 3  # and now it is meant


def test_what_was_staged_under_the_new_keys_does_not_end_when_an_interrupted_rotation_does(place, skyload, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keys_change, "_tell_next", interrupt)
        skyload("rotate", "targets", code=130)
    with Depot.open(place / "depot") as depot:
        change.put_update(depot, place, 1)
    assert skyload("rotate", "targets")["ended_updates"] == []


def test_another_rotation_finishes_the_interrupted_one_first(place, skyload, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "make_rotations", interrupt)
        skyload("rotate", "targets", code=130)
    told = skyload("rotate", "timestamp")
    assert (told["root_version"], told["changes"], told["resumed"]) == (3, ["timestamp"], False)
    assert change.trusts(change.of(place), change.kit_state(place)).root_version == 3


def test_a_key_from_elsewhere_is_the_same_one_when_the_command_goes_on(place, skyload, monkeypatch):
    skyload("make", str(place / "new.pem"), "--no-seal", depot=False)
    words = ("rotate", "root-1", "--public", str(place / "new.public"))
    with monkeypatch.context() as patch:
        patch.setattr(keys_change, "_tell_next", interrupt)
        skyload(*words, code=130)
    assert (told := skyload(*words))["resumed"]
    assert told["root_version"] == 2


def test_a_root_that_is_being_put_in_force_is_not_dropped(place, skyload, monkeypatch):
    """Its keys are in their places by halves: nothing could be signed any more."""
    rotation.prepare(change.of(place), ["timestamp"], is_leaked=False, floor=0, utc=NOW)
    rotation.sign_here(change.of(place))
    with monkeypatch.context() as patch:
        patch.setattr(rotation, "replace_durably", interrupt)
        skyload("rotate", "timestamp", code=130)
    assert "goes on" in skyload("root", "drop", code=4)
    assert skyload("rotate", "timestamp")["root_version"] == 2
    assert skyload("root", "drop")["dropped"] is None


def test_what_is_left_of_one_key_is_not_put_in_the_place_of_another(place, skyload):
    store = change.of(place)
    store.next_path.mkdir()
    make_key(store.next_path / "root-1.pem", Passphrase())
    before = store.public_key("root-1").keyid
    assert skyload("rotate", "root-2")["changes"] == ["root-2"]
    assert store.public_key("root-1").keyid == before


def test_another_command_is_told_what_is_in_its_way(place, skyload):
    change.away(place, "root-1", "root-2")
    skyload("rotate", "timestamp")
    assert skyload("rotate", "timestamp")["in_force"] is False  # the same one: it goes on
    for words in (("rotate", "targets"), ("revoke", "timestamp", "--yes")):
        assert "goes on if it is given again" in skyload(*words, code=4)


def test_a_key_that_moved_in_survives_a_commit_that_cannot_open_it(sealed, skyload):
    change.away(sealed, "root-1", "root-2", "root-3")
    skyload("rotate", "timestamp", "--passphrase-file", str(sealed / "right"))
    stick = str(sealed / "stick")
    skyload("root", "prepare", stick)
    for name in ("root-1", "root-2"):
        words = ("--key", str(sealed / "vault" / f"{name}.pem"), "--passphrase-file", str(sealed / "right"))
        skyload("sign", "--offline", stick, *words, "--yes", depot=False)
    store = change.of(sealed)
    (store.next_path / "timestamp.pem").replace(store.path / "timestamp.pem")  # and there the power went
    assert skyload("root", "combine", stick)["in_force"]
    assert store.has("timestamp")


def test_a_key_cannot_follow_itself(place, skyload):
    public = str(change.of(place).path / "timestamp.public")
    assert "has this place already" in skyload("rotate", "timestamp", "--public", public, code=4)
    assert change.of(place).has("timestamp")


@pytest.mark.parametrize(
    ("name", "other"), [("targets", "command"), ("command", "timestamp"), ("root-2", "root-1"), ("root-3", "targets")]
)
def test_no_key_has_two_places(place, skyload, name, other):
    """Else the thief of a command key could install, and one root key would be two."""
    store = change.of(place)
    public = str(store.path / f"{other}.public")
    assert f"{name}: key" in skyload("rotate", name, "--public", public, code=4)
    assert not store.next_path.exists()


def test_a_depot_does_not_begin_with_one_key_in_two_places(place, tmp_path):
    entry, store = change.of(place).entry("command"), KeyStore(tmp_path / "new" / "keys")
    with pytest.raises(KeyStoreError, match="another place"):
        create_trust(store, utc=NOW, entries={"command": entry, "targets": entry})
    assert not list(store.path.glob("*.p*"))  # given again, right, it goes on
    create_trust(store, utc=NOW, entries={"command": entry})


# -- asking, directories, what a satellite follows


def test_a_new_epoch_is_asked_for(place):
    words = ["revoke", "timestamp", "--depot", str(place / "depot")]
    assert [CliRunner().invoke(keys.app, words, input=text).exit_code for text in ("", "n\n")] == [3, 1]
    assert not change.of(place).roots_path.joinpath("2.json").exists()
    assert CliRunner().invoke(keys.app, words, input="y\n").exit_code == 0
    root_key = ["revoke", "root-1", "--depot", str(place / "depot")]
    assert CliRunner().invoke(keys.app, root_key, input="").exit_code == 0  # it begins none


def test_a_file_where_a_directory_is_wanted_is_told(place, skyload):
    (place / "file").write_text("")
    assert "a directory is wanted" in skyload("export", str(place / "file"), code=3)
    change.away(place, "root-1", "root-2")
    skyload("rotate", "targets")
    assert "a directory is wanted" in skyload("root", "prepare", str(place / "file"), code=3)


def test_the_list_shows_the_root_that_an_event_tells_of(place, skyload):
    with Depot.open(place / "depot") as depot:
        change.report_of(depot, root_version=1)
        depot.journal.add_message(
            ReceivedMessage(
                satellite="SAT-1",
                counter=1,
                kind=str(MessageKind.EVENT),
                re=b"",
                received_utc=NOW,
                body={"name": "root_rotated", "text": "a new root is trusted version=2"},
                data=b"",
            )
        )
    assert skyload("list")["satellites"][0]["on_board"] == {"root_version": 2, "epoch": 0}


def test_the_list_tells_what_is_in_force_at_home_from_what_is_confirmed_on_board(place, skyload):
    def listed():
        (entry,) = skyload("list")["satellites"]
        plain = CliRunner().invoke(keys.app, ["list", "--depot", str(place / "depot")]).output
        return entry["on_board"], entry["at_home"], entry["queued"], plain.splitlines()[-1]

    first, second = {"root_version": 1, "epoch": 0}, {"root_version": 2, "epoch": 1}
    assert listed()[:3] == (None, first, 0)
    skyload("revoke", "timestamp", "--yes")
    assert listed()[:3] == (None, second, 1)
    assert "nothing heard yet; at home: root 2, epoch 1, queued" in listed()[3]
    with Depot.open(place / "depot") as depot:
        change.report_of(depot, root_version=1, epoch=0)
    assert listed()[:3] == (first, second, 1)
    assert "follows root 1, epoch 0; at home: root 2, epoch 1, queued" in listed()[3]
    with Depot.open(place / "depot") as depot:
        change.report_of(depot, sequence=2, root_version=2, epoch=1)
    skyload("send")
    assert listed()[:3] == (second, second, 0)
    assert listed()[3].endswith("follows root 2, epoch 1")
