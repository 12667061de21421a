"""Matching: each tensor finds its old values, whatever became of its name, shape, place or neighbours."""

import numpy as np
import pytest

from groundsegment.packer.tensors.catalogue import catalogue, reader
from groundsegment.packer.tensors.cut import cut
from groundsegment.packer.tensors.matching import match, removed, why_unmatched
from tests.fakes.tensor_files import bf16, f16, gptq, int8, pack_quantized, words, write_safetensors
from tests.unit.groundsegment.test_tensors_catalogue import write_gguf


class Release:
    """A directory of safetensors files and others, catalogued."""

    def __init__(self, directory, shards, **others):
        directory.mkdir()
        for name, tensors in shards.items():
            write_safetensors(directory / f"{name}.safetensors", tensors)
        for name, content in others.items():
            (directory / f"{name}.json").write_bytes(content)
        self.paths = {path.name: path for path in directory.iterdir()}
        self.parts = catalogue(self.paths)

    def against(self, base):
        return match(self.parts, base.parts, reader(self.paths), reader(base.paths))

    def part(self, name):
        return next(part for part in self.parts if part.name == name)


@pytest.fixture
def compare(tmp_path):
    """Match one release to another; gives the new one, the matches, and the old one."""

    def run(base, new):
        old = Release(tmp_path / "old", base)
        release = Release(tmp_path / "new", new)
        return release, release.against(old), old

    return run


def layers(count, *, prefix="", drift=0.0, first=0):
    """Tensors of `count` layers that look alike, each with values of its own."""
    tensors = {}
    for layer in range(count):
        seed = 10 * (first + layer)
        tensors[f"{prefix}layers.{layer}.up.weight"] = bf16((64, 32), seed, drift=drift)
        tensors[f"{prefix}layers.{layer}.norm.weight"] = bf16((256,), seed + 1, drift=drift)
    return tensors


def base_names(release, matches):
    return {part.name: matches[part].base_name if part in matches else None for part in release.parts}


def test_the_same_name_and_shape_is_the_counterpart(compare):
    release, matches, old = compare({"m": layers(3)}, {"m": layers(3, drift=0.01)})
    assert base_names(release, matches) == {part.name: part.name for part in release.parts}
    part = release.part("layers.1.up.weight")
    assert matches[part].reason == "same name and shape"
    assert matches[part].refs[0].offset == old.part("layers.1.up.weight").offset
    assert not removed(old.parts, matches)


def test_other_shards_and_other_orders_change_nothing(compare):
    tensors = layers(3)
    shuffled = dict(sorted(layers(3, drift=0.01).items(), key=lambda item: item[0][::-1]))
    names = list(shuffled)
    shards = {"m-1": {name: shuffled[name] for name in names[:2]}, "m-2": {name: shuffled[name] for name in names[2:]}}
    release, matches, old = compare({"m": tensors}, shards)
    assert {name: base for name, base in base_names(release, matches).items() if name != "(header)"} == {
        name: name for name in tensors
    }
    part = release.part(names[-1])
    assert matches[part].reason == "same name and shape, in m.safetensors"
    assert matches[part].refs[0].offset == old.part(names[-1]).offset


def test_a_new_prefix_is_seen_through(compare):
    release, matches, _ = compare({"m": layers(4)}, {"m": layers(4, prefix="model.language_model.", drift=0.01)})
    for part in release.parts[1:]:
        assert f"model.language_model.{matches[part].base_name}" == part.name
        assert matches[part].reason.startswith("renamed from layers.")


def test_names_that_say_nothing_are_found_by_their_values(compare):
    tensors = layers(4)
    renamed = {f"tensor_{i}": value for i, value in enumerate(reversed(layers(4, drift=0.01).values()))}
    release, matches, _ = compare({"m": tensors}, {"m": renamed})
    names = list(tensors)
    assert [matches[release.part(f"tensor_{i}")].base_name for i in range(8)] == names[::-1]


def test_layers_taken_out_move_the_names_of_the_rest(compare):
    # Names 0 .. 3 stand for the old layers 2 .. 5: by name alone every one of them would be wrong.
    release, matches, old = compare({"m": layers(6)}, {"m": layers(4, first=2, drift=0.01)})
    for part in release.parts[1:]:
        layer = int(part.name.split(".")[1])
        assert int(matches[part].base_name.split(".")[1]) == layer + 2
    assert [part.name.split(".")[1] for part in removed(old.parts, matches)] == ["0", "0", "1", "1"]


def test_values_that_nothing_resembles_keep_the_counterpart_of_their_name(compare):
    release, matches, _ = compare({"m": layers(2)}, {"m": layers(2, first=50)})
    assert base_names(release, matches) == {part.name: part.name for part in release.parts}
    assert matches[release.part("layers.0.up.weight")].reason == "same name and shape, values not alike"


def test_a_reshaped_tensor_has_the_same_bytes(compare):
    dtype, _, raw = bf16((8, 64), 1)
    release, matches, _ = compare({"m": {"a": (dtype, (8, 64), raw)}}, {"m": {"a": (dtype, (4, 2, 64), raw)}})
    assert matches[release.part("a")].reason == "same name, reshaped from 8x64"
    assert matches[release.part("a")].num_units == 8


def test_a_tensor_renamed_and_reshaped_is_found(compare):
    dtype, _, raw = bf16((8, 64), 1)
    old = {"a": (dtype, (8, 64), raw), "b": bf16((8, 64), 2)}
    release, matches, _ = compare({"m": old}, {"m": {"experts": (dtype, (2, 4, 64), raw)}})
    assert matches[release.part("experts")].base_name == "a"


@pytest.mark.parametrize(("old_rows", "new_rows"), [(96, 100), (100, 96)])
def test_a_vocabulary_may_grow_or_shrink_at_its_end(compare, old_rows, new_rows):
    whole = bf16((100, 64), 1)[2]
    old = ("BF16", (old_rows, 64), whole[: old_rows * 128])
    new = ("BF16", (new_rows, 64), whole[: new_rows * 128])
    release, matches, _ = compare({"m": {"embed": old}}, {"m": {"embed": new}})
    part = release.part("embed")
    assert matches[part].num_units == 96
    pieces = [piece for job in cut(release.parts, matches) for piece in job.pieces if piece.parts == ("embed",)]
    assert [(piece.rows, piece.has_base) for piece in pieces] == [(96, True), (4, False)][: 2 if new_rows > 96 else 1]


def test_an_added_tensor_has_none_and_says_so(compare):
    release, matches, old = compare(
        {"m": {"a": bf16((4, 64), 1)}}, {"m": {"a": bf16((4, 64), 1), "b": int8((4, 64), 2)}}
    )
    assert release.part("b") not in matches
    assert why_unmatched(release.parts, old.parts, matches) == {release.part("b"): "not in the base"}


def test_other_types_and_shapes_have_none_and_say_so(compare):
    old = {"a.weight": bf16((8, 64), 1), "b.weight": bf16((8, 64), 2)}
    new = {"a.weight": int8((8, 64), 1), "b.weight": bf16((8, 32), 4)}
    release, matches, base = compare({"m": old}, {"m": new})
    assert why_unmatched(release.parts, base.parts, matches) == {
        release.part("a.weight"): "BF16 in the base, I8 now",
        release.part("b.weight"): "8x64 in the base, 8x32 now",
    }


def test_a_tied_head_that_became_its_own_is_a_copy(compare):
    embedding = bf16((64, 32), 1)
    release, matches, _ = compare(
        {"m": {"embed.weight": embedding}}, {"m": {"embed.weight": embedding, "head": embedding}}
    )
    assert matches[release.part("head")].reason == "a copy of embed.weight"


def test_equal_constants_match_and_others_do_not(compare):
    values = {"a": 0, "b": 0.5, "c": 1}
    constants = {name: ("F32", (64,), np.full(64, value, "<f4").tobytes()) for name, value in values.items()}
    renamed = {"x": constants["c"], "y": constants["a"], "z": constants["b"]}
    release, matches, _ = compare({"m": constants}, {"m": renamed})
    assert [matches[release.part(name)].base_name for name in "xyz"] == ["c", "a", "b"]


def test_many_equal_constants_pair_off_in_order(compare):
    biases = {f"a{i:02}": ("BF16", (512,), bytes(1024)) for i in range(40)}
    release, matches, _ = compare({"m": biases}, {"m": {f"b{i:02}": value for i, value in enumerate(biases.values())}})
    assert [matches[part].base_name for part in release.parts[1:]] == list(biases)


def test_a_family_finds_its_members_in_other_shards(compare):
    tensors = pack_quantized("a", rows=64, columns=256, group=32, seed=1, zeros=True)
    shards = {"m-1": {"a.weight_packed": tensors["a.weight_packed"]}, "m-2": dict(list(tensors.items())[1:])}
    release, matches, old = compare(shards, {"m": tensors})
    found = matches[release.part("a.weight_packed")]
    assert [ref.file for ref in found.refs] == ["m-1.safetensors", "m-2.safetensors", "m-2.safetensors"]
    assert found.refs[1].offset == old.part("a.weight_scale").offset
    assert not [part for part in removed(old.parts, matches) if part.stored_dtype]


def test_members_find_the_family_they_left(compare):
    tensors = gptq("a", inputs=256, outputs=64, group=32, seed=1)
    shards = {"m-1": {"a.qweight": tensors["a.qweight"]}, "m-2": dict(list(tensors.items())[1:])}
    release, matches, old = compare({"m": tensors}, shards)
    scales = old.part("a.qweight").members[1]
    assert matches[release.part("a.scales")].refs[0].offset == scales.offset
    assert matches[release.part("a.qzeros")].base_name == "a.qzeros"


def test_a_renamed_family_brings_its_scales_along(compare):
    old = {}
    for layer in range(3):
        old |= gptq(f"layers.{layer}.q", inputs=256, outputs=64, group=32, seed=10 * layer)
    new = {f"model.{name}": value for name, value in old.items()}
    release, matches, base = compare({"m": old}, {"m": new})
    for part in release.parts[1:]:
        assert f"model.{matches[part].base_name}" == part.name
    part = release.part("model.layers.1.q.qweight")
    source = base.part("layers.1.q.qweight")
    assert [ref.offset for ref in matches[part].refs] == [member.offset for member in source.members]


def test_other_groups_are_no_counterpart(compare):
    old = gptq("a", inputs=256, outputs=64, group=32, seed=1)
    new = gptq("a", inputs=256, outputs=64, group=64, seed=1)
    release, matches, base = compare({"m": old}, {"m": new})
    part = release.part("a.qweight")
    assert part not in matches
    assert why_unmatched([part], base.parts, matches) == {part: "other groups in the base"}


def test_codes_of_words_are_compared_by_nibbles(compare):
    old = {f"t{i}": words((64, 16), i) for i in range(6)}
    release, matches, _ = compare({"m": old}, {"m": {f"u{i}": old[f"t{5 - i}"] for i in range(6)}})
    assert [matches[release.part(f"u{i}")].base_name for i in range(6)] == [f"t{5 - i}" for i in range(6)]


def test_gguf_files_match_whatever_they_are_called(tmp_path):
    old = write_gguf(tmp_path / "old-Q4_K.gguf", name="v1")
    new = write_gguf(tmp_path / "new-Q4_K.gguf", name="a much longer name of version 2")
    parts, base_parts = catalogue({new.name: new}), catalogue({old.name: old})
    matches = match(parts, base_parts, reader({new.name: new}), reader({old.name: old}))
    assert set(matches) == set(parts)
    by_name = {part.name: part for part in parts}
    tokens = matches[by_name["(tokenizer.ggml.tokens)"]]
    raw = by_name["(tokenizer.ggml.tokens)"]
    # Though all offsets moved, the vocabulary meets the vocabulary.
    assert (
        old.read_bytes()[tokens.refs[0].offset :][: raw.size_bytes] == new.read_bytes()[raw.offset :][: raw.size_bytes]
    )


def test_other_files_match_by_name_only(tmp_path):
    old = Release(tmp_path / "old", {}, tokenizer=b"abcdef", config=b"123")
    new = Release(tmp_path / "new", {}, tokenizer=b"abcd", extra=b"123")
    matches = new.against(old)
    assert {part.file: matches[part].num_units for part in matches} == {"tokenizer.json": 4}


def test_a_file_that_is_understood_no_more_matches_its_bytes(tmp_path):
    old = Release(tmp_path / "old", {"m": layers(1)})
    new = Release(tmp_path / "new", {})
    path = tmp_path / "new" / "m.safetensors"
    path.write_bytes(b"\xff" * 9000)
    parts = catalogue({path.name: path})
    matches = match(parts, old.parts, reader(new.paths), reader(old.paths))
    size = old.paths[path.name].stat().st_size
    assert [(found.refs[0].offset, found.num_units) for found in matches.values()] == [(0, min(9000, size))]


def test_matching_is_deterministic_and_does_not_care_for_the_order_of_dicts(tmp_path):
    old = Release(tmp_path / "old", {"m": layers(5)})
    new = Release(tmp_path / "new", {"m": {f"x{i}": v for i, v in enumerate(layers(5, drift=0.1).values())}})
    first = new.against(old)
    again = match(new.parts, old.parts, reader(new.paths), reader(old.paths))
    assert list(first.items()) == list(again.items())


def test_odd_floats_are_compared_without_a_warning(compare):
    bits = np.random.default_rng(1).integers(0, 2**16, (64, 64), np.uint16).astype("<u2").tobytes()
    release, matches, _ = compare({"m": {"a": ("BF16", (64, 64), bits)}}, {"m": {"b": ("BF16", (64, 64), bits)}})
    assert matches[release.part("b")].base_name == "a"
    fp16 = f16((64, 64), 1)
    assert fp16[0] == "F16"


def test_a_scalar_that_became_a_vector_has_none(compare):
    release, matches, _ = compare({"m": {"a": bf16((2,), 1)}}, {"m": {"a": bf16((), 1)}})
    assert release.part("a") not in matches


def test_codes_and_integers_of_one_type_are_not_compared(compare):
    old = {"a.table": words((8, 16), 1)}
    release, matches, _ = compare({"m": old}, {"m": gptq("q", inputs=64, outputs=16, group=32, seed=1)})
    assert release.part("q.qweight") not in matches


def test_a_kib_of_each_tensor_is_enough(tmp_path):
    old = Release(tmp_path / "old", {"m": {f"a{i}": bf16((64, 64), i) for i in range(6)}})
    new = Release(tmp_path / "new", {"m": {f"b{i}": bf16((64, 64), i, drift=0.1) for i in range(6)}})
    read = reader(new.paths)
    sizes = []

    def counted(name, offset, size):
        sizes.append(size)
        return read(name, offset, size)

    matches = match(new.parts, old.parts, counted, reader(old.paths))
    assert [matches[new.part(f"b{i}")].base_name for i in range(6)] == [f"a{i}" for i in range(6)]
    assert sum(sizes) == 6 * 1024


def test_eight_bit_floats_around_zero_may_change_their_sign(compare):
    rng = np.random.default_rng(1)
    tiny, is_large = rng.integers(0, 8, 4096), rng.random(4096) < 0.3
    large = rng.integers(0x30, 0x60, 4096) | rng.choice([0, 0x80], 4096)
    signs = rng.choice([0, 0x80], (2, 4096))
    old, new = (np.where(is_large, large, tiny | sign).astype(np.uint8).tobytes() for sign in signs)
    release, matches, _ = compare({"m": {"a": ("F8_E4M3", (64, 64), old)}}, {"m": {"b": ("F8_E4M3", (64, 64), new)}})
    assert matches[release.part("b")].base_name == "a"
