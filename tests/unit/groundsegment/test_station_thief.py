"""What a thief of a station's directory, or of the mirror that feeds it, can read: sizes, and nothing of the model."""

import hashlib
import json
from pathlib import Path

import pytest

from groundsegment.depot.depot import Depot
from groundsegment.stations.home import exchange
from protocol.errors import DecodeError
from protocol.metadata import MetadataBundle
from protocol.sealed_metadata import is_sealed
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.staging import NOW, TWIN, make_ground, open_as_satellite, run_json

QUESTION = "How many ships are in the strait of Dover?"


@pytest.fixture
def ground(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "wildfire-v7", seed=1)
    return tmp_path


def mirrored():
    """Every byte under the two directories that stations mirror, names of files included."""
    return [
        (path, path.name.encode() + b"\0" + path.read_bytes())
        for top in ("depot/updates", "depot/exchange")
        for path in sorted(Path(top).rglob("*"))
        if path.is_file()
    ]


def test_a_mirror_holds_no_name_no_weights_no_keys_and_no_questions(ground):
    Path("canary.json").write_text(json.dumps([QUESTION]))
    with Depot.open(Path("depot")) as depot:
        depot.add_station("SAT-1", "inuvik", added_utc=NOW)
    staged = run_json("wildfire-v7", "--twin", TWIN, "--canary", "canary.json", "--max-tokens", "5")
    with Depot.open(Path("depot")) as depot:
        exchange(depot, "SAT-1", utc=NOW)
    manifest, release_key = open_as_satellite(Path(staged["directory"]))

    weights = (ground / "wildfire-v7" / "model.safetensors").read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    tensor_names = [name.encode() for name in header if name != "__metadata__"]
    start = 8 + int.from_bytes(weights[:8], "little")
    secrets = {
        "name of the release": [b"wildfire"],
        "file names": [entry.name.encode() for entry in manifest.files],
        "digests of files": [hashlib.sha256(path.read_bytes()).digest() for path in (ground / "wildfire-v7").iterdir()],
        "tensor names": tensor_names,
        "questions": [QUESTION.encode()],
        "weights": [
            weights[at : at + 24] for at in range(start, len(weights) - 24, 4096) if any(weights[at : at + 24])
        ],
        "keys": [release_key, release_key.hex().encode(), manifest.keys["SAT-1"]],
        "paths": [str(ground).encode()],
    }
    metadata = (Path(staged["directory"]) / "metadata.skm").read_bytes()
    assert is_sealed(metadata)
    with pytest.raises(DecodeError):
        MetadataBundle.decode(metadata)  # compressed is not sealed: a search for words would not see it
    found = mirrored()
    assert {path.suffix for path, _ in found} >= {".skm", ".skb"}
    assert any("exchange" in path.parts for path, _ in found)
    seen = [
        (what, str(path)) for path, data in found for what, words in secrets.items() if any(w in data for w in words)
    ]
    assert seen == []
