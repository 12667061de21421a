"""Signing a root offline: what people mistake, and a stick from a depot that somebody else has taken."""

import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.table import Table
from rich.text import Text
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata
from typer.testing import CliRunner

from groundsegment.console import keys
from groundsegment.console.output import PlainConsole
from tests.unit.groundsegment import test_keys_change as change

first_day, nobody_gives_a_passphrase, place, skyload = (
    change.first_day,
    change.nobody_gives_a_passphrase,
    change.place,
    change.skyload,
)


@pytest.fixture
def stick(place, skyload):
    change.away(place, "root-1", "root-2")
    skyload("rotate", "targets")
    skyload("root", "prepare", str(place / "stick"))
    return place / "stick"


def sign(stick, key, answer=""):
    return CliRunner().invoke(keys.app, ["sign", "--offline", str(stick), "--key", str(key)], input=answer)


# -- mistakes of whoever signs


def test_a_key_is_looked_at_before_anybody_is_asked(place, skyload, stick):
    (place / "readme.txt").write_text("no key\n")
    skyload("make", str(place / "stranger.pem"), "--no-seal", depot=False)
    for name, words in (
        ("gone.pem", "is missing"),
        ("readme.txt", "not a private key"),
        ("stranger.pem", "neither root"),
    ):
        result = sign(stick, place / name)
        assert result.exit_code == 4
        assert words in result.output
        assert "sign this root?" not in result.output


def test_where_nobody_is_there_to_confirm_a_signature_the_way_out_is_told(place, stick):
    result = sign(stick, place / "vault" / "root-1.pem")
    assert result.exit_code == 3
    assert "hint: --yes" in result.output
    assert "signed" in sign(stick, place / "vault" / "root-1.pem", "y\n").stdout


def test_a_key_that_others_may_read_is_told_as_that(place, stick):
    key = place / "vault" / "root-1.pem"
    key.chmod(0o644)
    assert "others may read" in sign(stick, key).output


# -- a stick that lies


def false_stick(place, stick):
    """The depot's thief has a root key of his own in the next root, and in what he says is the root before it."""
    evil = Ed25519PrivateKey.generate()
    store = change.of(place)
    thief = SSlibKey.from_crypto(evil.public_key())
    for version in (1, 2):
        path = stick / f"root-{version}.json"
        metadata = Metadata.from_bytes(path.read_bytes())
        away = metadata.signed.roles["root"].keyids.pop()
        del metadata.signed.keys[away]
        metadata.signed.add_key(thief, "root")
        metadata.signed.roles["root"].threshold = 1
        path.write_bytes(metadata.to_bytes())
    return thief.keyid[:16], store.root_path


def test_a_false_root_before_it_hides_no_root_key_from_whoever_signs(place, stick):
    keyid, root = false_stick(place, stick)
    shown = sign(stick, place / "vault" / "root-1.pem", "n\n").output
    assert f"root: with key {keyid}" not in shown  # the stick says that it was there before ...
    assert "as the stick tells it" in shown
    holds = shown.partition("then may sign")[2]
    assert keyid in holds  # ... and who may sign is told whatever was before
    assert "root: 1 of" in holds
    before = (stick / "root-2.json").read_bytes()
    words = ["sign", "--offline", str(stick), "--key", str(place / "vault" / "root-1.pem"), "--yes", "--trusted"]
    refused = CliRunner().invoke(keys.app, [*words, str(root)])
    assert refused.exit_code == 4
    assert "does not follow" in refused.output
    assert (stick / "root-2.json").read_bytes() == before


def metadata_of_a_stranger(place):
    """A second root that nobody signed."""
    metadata = Metadata.from_bytes((place / "stick" / "root-2.json").read_bytes())
    metadata.signatures.clear()
    return metadata.to_bytes()


def test_a_root_that_was_known_years_ago_tells_whether_the_next_one_follows(place, skyload):
    skyload("rotate", "timestamp")
    change.away(place, "root-1", "root-2")
    skyload("rotate", "targets")
    skyload("root", "prepare", str(place / "stick"))
    assert sorted(path.name for path in (place / "stick").iterdir()) == [f"root-{n}.json" for n in (1, 2, 3)]
    words = ("sign", "--offline", str(place / "stick"), "--key", str(place / "vault" / "root-1.pem"), "--yes")
    first, second = place / "kit" / "root.json", change.of(place).roots_path / "2.json"
    for known in (first, second):
        told = skyload(*words, "--trusted", str(known), depot=False)
        assert any(line.startswith("root: 2 of ") for line in told["holds"])
    next_ = place / "stick" / "root-3.json"
    shutil.copy(next_, place / "next.json")
    assert "does not follow" in skyload(*words, "--trusted", str(place / "next.json"), code=4, depot=False)
    (place / "stick" / "root-2.json").write_bytes(metadata_of_a_stranger(place))
    assert "does not follow" in skyload(*words, "--trusted", str(first), code=4, depot=False)


def test_nothing_on_a_stick_wipes_a_line_that_is_shown(place, stick):
    path = stick / "root-2.json"
    metadata = Metadata.from_bytes(path.read_bytes())
    metadata.signed.unrecognized_fields["\x1b[1A\x1b[2K\nall is well"] = "\u202e"
    metadata.signed.roles["targets"].keyids.append("\x1b[1A\x1b[2K\r\n...")
    path.write_bytes(metadata.to_bytes())
    result = sign(stick, place / "vault" / "root-1.pem", "n\n")
    assert r"\x1b[1A\x1b[2K\nall is well" in result.output
    assert not set("\x1b\u202e\r") & set(result.output)
    assert "\nall is well" not in result.output.replace(r"\n", "")


def test_what_is_told_moves_no_cursor_in_tables_either(capsys):
    console = PlainConsole(highlight=False, soft_wrap=True, force_terminal=True, color_system=None)
    table = Table()
    table.add_column("update")
    table.add_row("second\x1b[2K\x9b1A")
    table.add_row(Text("\u202edrow"))
    console.print("an answer\x1b[1A, with a\ttab,\nlines and \u200d joiners", table, markup=False)
    told = capsys.readouterr().out
    assert not set("\x1b\x9b\u202e") & set(told)
    assert r"second\x1b" in told
    assert "lines and \u200d joiners" in told
