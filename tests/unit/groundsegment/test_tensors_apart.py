"""Quantized matrices whose scales are others than the base's, and packings that have no module of their own."""

import numpy as np
import pytest

from groundsegment.packer.choosing import encode_piece
from groundsegment.packer.plan import survey
from groundsegment.packer.tensors.catalogue import catalogue
from groundsegment.packer.tensors.parts import PartKind
from groundsegment.packer.transforms import Effort
from protocol.codec.kinds import TransformKind
from tests.fakes.tensor_files import awq, gptq, pack_quantized, write_safetensors

SHAPE = {"rows": 64, "columns": 256}
INPUTS = {"inputs": 256, "outputs": 64}


def packed(group, **changes):
    return pack_quantized("a", **SHAPE, group=group, seed=1, **changes)


@pytest.fixture
def surveyed(tmp_path):
    def run(base, new):
        old = write_safetensors(tmp_path / "old.safetensors", base)
        path = write_safetensors(tmp_path / "new.safetensors", new)
        return survey({"m.safetensors": path}, {"m.safetensors": old})

    return run


CHANGES = {
    "groups": (packed(64), packed(32)),
    "zeros came": (packed(64), packed(64, zeros=True)),
    "zeros went": (packed(64, zeros=True), packed(64)),
    "gptq groups": (gptq("a", **INPUTS, group=64, seed=1), gptq("a", **INPUTS, group=32, seed=1)),
    "awq groups": (awq("a", **INPUTS, group=64, seed=1), awq("a", **INPUTS, group=32, seed=1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_codes_are_a_difference_where_only_their_scales_are_others(surveyed, change):
    found = surveyed(*CHANGES[change])
    (codes,) = (
        part
        for part in found.parts
        if part.kind is PartKind.NIBBLES
        and part.name.startswith("a.")
        and part.name.endswith(("weight_packed", "qweight"))
    )
    assert found.matches[codes].num_units == codes.num_units
    pieces = [piece for job in found.jobs() for piece in job.pieces if codes.name in piece.parts]
    assert pieces
    assert all(piece.has_base for piece in pieces)
    assert sum(part.size_bytes for part in found.parts) == sum(job.size_bytes for job in found.jobs())


@pytest.mark.parametrize("new", [packed(64), pack_quantized("a", **SHAPE, group=32, seed=9)], ids=["same", "other"])
def test_a_family_stays_together_where_its_scales_fit_or_its_codes_are_others_too(surveyed, new):
    found = surveyed(packed(64), new)
    (family,) = (part for part in found.parts if part.name == "a.weight_packed")
    assert len(family.members) == 2


def words_of(num_bits, seed=1):
    """The int32 words of codes that are near the middle, packed along the rows."""
    rng = np.random.default_rng(seed)
    codes = np.clip(rng.normal(2 ** (num_bits - 1), 2 ** (num_bits - 3), (512, 32 * 32)), 0, 2**num_bits - 1)
    bits = (codes.astype(np.uint8)[..., None] >> np.arange(num_bits, dtype=np.uint8)) & 1
    words = np.packbits(bits.reshape(512, -1).astype(np.uint8), axis=1, bitorder="little")
    return ("I32", (512, words.shape[1] // 4), words.tobytes())


@pytest.mark.parametrize(("name", "num_bits"), [("a.qweight", 2), ("a.qweight", 3), ("a.weight_packed", 2), ("a.B", 4)])
def test_words_of_any_packing_cost_what_the_frequencies_of_their_bytes_say(tmp_path, name, num_bits):
    tensor = words_of(num_bits)
    path = write_safetensors(tmp_path / "m.safetensors", {name: tensor})
    (tmp_path / "config.json").write_text(f'{{"quantization_config": {{"bits": {num_bits}}}}}')
    parts = catalogue({"m.safetensors": path, "config.json": tmp_path / "config.json"})
    (part,) = (part for part in parts if part.name == name)
    (piece,) = (
        piece
        for job in survey({"m.safetensors": path, "config.json": tmp_path / "config.json"}, {}).jobs()
        for piece in job.pieces
        if piece.parts == (name,)
    )
    values = np.frombuffer(tensor[2], np.uint8)
    made = encode_piece(piece, [values], None, {}, Effort.of_level(15))
    shares = np.bincount(values, minlength=256) / values.size
    bound = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum() / 8 * values.size
    assert made.transform is TransformKind.INTEGERS
    assert part.dtype == "U8"
    assert sum(len(stream.data) for stream in made.streams) < 1.02 * bound
