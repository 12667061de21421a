"""Every segment is decoded once more on the ground: what does not come back as it was never leaves."""

import numpy as np
import pytest

from bench.codec import ours
from groundsegment.models.safetensors_file import SafetensorsWriter, TensorSpec
from groundsegment.packer import encoding

ROWS, COLUMNS = 64, 128


def write(path, values):
    path.parent.mkdir()
    writer = SafetensorsWriter(path, [TensorSpec(name=name, dtype="I8", shape=(ROWS, COLUMNS)) for name in values])
    for name, data in values.items():
        writer.write(name, data.tobytes())
    writer.close()


@pytest.fixture
def releases(tmp_path):
    """A release of two matrices, one of them changed, and its base."""
    rng = np.random.default_rng(1)
    still, old = rng.normal(0, 20, (2, ROWS, COLUMNS)).round().astype(np.int8)
    write(tmp_path / "old" / "a.safetensors", {"still": still, "w": old})
    write(tmp_path / "new" / "a.safetensors", {"still": still, "w": old + (rng.random(old.shape) < 0.05)})
    return tmp_path / "new", tmp_path / "old"


def spoil_byte(runs):
    offset, run = runs[-1]
    run = run.copy()
    run[run.size // 2] ^= 1
    return [*runs[:-1], (offset, run)]


def move(runs):
    return [(offset + 1, run) for offset, run in runs]


def lose(runs):
    return runs[:-1]


def cut_differently_and_spoil(runs):
    *others, (offset, run) = spoil_byte(runs)
    return [*others, (offset, run[:7]), (offset + 7, run[7:])]


def test_what_decodes_to_itself_passes(releases):
    assert ours.pack(*releases, level=3).raw_bytes == (releases[0] / "a.safetensors").stat().st_size


def test_runs_that_are_cut_differently_but_say_the_same_pass(releases, monkeypatch):
    rebuild = encoding.rebuild

    def rebuild_in_parts(*arguments):
        *others, (offset, run) = rebuild(*arguments)
        return [*others, (offset, run[:7]), (offset + 7, run[7:])]

    monkeypatch.setattr(encoding, "rebuild", rebuild_in_parts)
    ours.pack(*releases, level=3)


@pytest.mark.parametrize("spoil", [spoil_byte, move, lose, cut_differently_and_spoil])
def test_what_does_not_decode_to_itself_is_never_packed(releases, monkeypatch, spoil):
    rebuild = encoding.rebuild
    monkeypatch.setattr(encoding, "rebuild", lambda *arguments: spoil(rebuild(*arguments)))
    with pytest.raises(AssertionError, match="does not decode"):
        ours.pack(*releases, level=3)
