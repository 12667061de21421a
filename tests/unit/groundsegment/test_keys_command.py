import json

import pytest
from typer.testing import CliRunner

from groundsegment.console import keys
from groundsegment.depot.depot import Depot
from groundsegment.signer.kit import make_kit, read_kit
from onboard.config import load_config, read_key
from protocol.recipient_keys import PRIVATE_SIZES, PUBLIC_SIZES, unwrap_key, wrap_key


@pytest.fixture
def skyload(tmp_path):
    def run(*words):
        result = CliRunner().invoke(keys.app, [*words, "--depot", str(tmp_path / "depot")])
        return result.exit_code, result.stdout, result.stderr

    return run


def test_init_makes_depot_keys_and_a_kit_that_the_daemon_can_read(skyload, tmp_path):
    code, _, words = skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    assert code == 0
    assert "only copies" in words
    config = load_config(tmp_path / "kit" / "satellite.toml")
    assert config.satellite.name == "SAT-1"
    assert not config.warnings
    kit = read_kit(tmp_path / "kit")
    with Depot.open(tmp_path / "depot") as depot:
        assert depot.link_key("SAT-1") == kit.link_key
        assert depot.satellite("SAT-1").identity_public == kit.identity_public
        assert depot.satellite("SAT-1").release_public == kit.release_public


def test_no_private_key_of_the_satellite_stays_in_the_depot(skyload, tmp_path):
    skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "depot").rglob("*") if path.is_file())
    for name in ("release", "identity"):
        secret = (tmp_path / "kit" / "keys" / f"{name}.key").read_text().strip()
        assert secret.encode() not in kept
        assert bytes.fromhex(secret) not in kept


def test_a_post_quantum_satellite_has_a_hybrid_key_that_opens_what_is_sealed_for_it(skyload, tmp_path):
    skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    skyload("add-satellite", "SAT-2", "--kit", str(tmp_path / "kit-2"), "--post-quantum")
    with Depot.open(tmp_path / "depot") as depot:
        plain, hybrid = (depot.satellite(name).release_public for name in ("SAT-1", "SAT-2"))
    assert (len(plain), len(hybrid)) == PUBLIC_SIZES
    config = load_config(tmp_path / "kit-2" / "satellite.toml")
    private = read_key(config.trust.release_key_file, what="", sizes=PRIVATE_SIZES)
    assert unwrap_key(wrap_key(b"k" * 32, hybrid, info=b""), private, info=b"") == b"k" * 32


def test_several_satellites_get_a_kit_each(skyload, tmp_path):
    code, out, _ = skyload("init", "--satellite", "A", "--satellite", "B", "--kit", str(tmp_path / "kits"), "--json")
    assert code == 0
    assert json.loads(out)["kits"] == {name: str(tmp_path / "kits" / name) for name in "AB"}
    assert read_kit(tmp_path / "kits" / "B").satellite == "B"


def test_nothing_is_overwritten(skyload, tmp_path):
    skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    before = {path: path.read_bytes() for path in (tmp_path / "kit").rglob("*") if path.is_file()}
    code, _, words = skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit-2"))
    assert code == 4
    assert "hint:" in words
    code, _, words = skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    assert code == 4
    code, _, words = skyload("add-satellite", "SAT-2", "--kit", str(tmp_path / "kit"))
    assert code == 3
    assert "the kit of SAT-1" in words
    code, _, words = skyload("add-satellite", "SAT-1", "--kit", str(tmp_path / "kit-2"))
    assert code == 3
    assert before == {path: path.read_bytes() for path in before}
    assert not (tmp_path / "kit-2").exists()


def test_a_kit_in_the_way_is_told_before_anything_is_made(skyload, tmp_path):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine.txt").touch()
    code, _, words = skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    assert code == 3
    assert "never overwritten" in words
    assert not (tmp_path / "depot").exists()


def test_an_interrupted_add_goes_on_with_the_kit_that_was_made(skyload, tmp_path):
    skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    make_kit(tmp_path / "two", satellite="SAT-2", root=(tmp_path / "kit" / "root.json").read_bytes())
    made = read_kit(tmp_path / "two")
    code, _, _ = skyload("add-satellite", "SAT-2", "--kit", str(tmp_path / "two"))
    assert code == 0
    with Depot.open(tmp_path / "depot") as depot:
        assert depot.link_key("SAT-2") == made.link_key
    make_kit(tmp_path / "three", satellite="SAT-3", root=b"of another depot")
    code, _, words = skyload("add-satellite", "SAT-3", "--kit", str(tmp_path / "three"))
    assert code == 3
    assert "another depot" in words


def test_list_says_what_is_here(skyload, tmp_path):
    skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"))
    (tmp_path / "depot" / "keys" / "root-3.pem").unlink()
    code, out, _ = skyload("list", "--json")
    listed = json.loads(out)
    assert code == 0
    assert [key["name"] for key in listed["keys"] if key["key_id"] is None] == ["root-3"]
    assert [satellite["name"] for satellite in listed["satellites"]] == ["SAT-1"]
    _, out, _ = skyload("list")
    assert "not here" in out


@pytest.mark.parametrize("name", ["SAT/1", ".sat", "", "a b"])
def test_unsafe_names_are_refused(skyload, tmp_path, name):
    code, _, words = skyload("init", "--satellite", name, "--kit", str(tmp_path / "kit"))
    assert code == 3
    assert "hint:" in words


def test_a_satellites_symbol_size_is_kept_and_listed(skyload, tmp_path):
    assert skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"), "--symbol-size", "1448")[0] == 0
    assert skyload("add-satellite", "SAT-2", "--kit", str(tmp_path / "kit-2"))[0] == 0
    _, text, _ = skyload("list", "--json")
    assert [row["symbol_size"] for row in json.loads(text)["satellites"]] == [1448, 1280]


@pytest.mark.parametrize("size", ["0", "12", "8200", "-8"])
def test_a_symbol_size_that_cannot_fly_is_refused_before_anything_is_made(skyload, tmp_path, size):
    code, _, words = skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"), "--symbol-size", size)
    assert code == 3
    assert "multiple of 8" in words
    assert not (tmp_path / "depot").exists()
