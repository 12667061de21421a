"""Fused and stacked tensors find the values they are made of, and the parts of a whole find them in it."""

import numpy as np
import pytest

from groundsegment.packer.tensors.cut import cut
from groundsegment.packer.tensors.matching import removed
from tests.fakes.tensor_files import bf16, int8, pack_quantized
from tests.unit.groundsegment.test_tensors_matching import Release, compare  # noqa: F401

COLUMNS = 64
ROWS = {"q": 96, "k": 32, "v": 32}


def old_bytes(old, run, member):
    """What the base has for a member of the part, from a run's first unit on."""
    ref = run.refs[member]
    return old.paths[ref.file].read_bytes()[ref.offset :]


def assert_bytes_are_those_of_the_base(release, matches, old, names):
    """Every piece of these parts has a base, and the same bytes there."""
    wanted = {name: release.part(name).size_bytes for name in names}
    seen = dict.fromkeys(names, 0)
    for job in cut(release.parts, matches, segment_bytes=4096):
        raw = release.paths[job.file].read_bytes()
        for piece in job.pieces:
            if not set(piece.parts) & set(names):
                continue
            for extent in piece.extents:
                base = old.paths[extent.base.file].read_bytes()[extent.base.offset :]
                assert base[: extent.size_bytes] == raw[extent.offset :][: extent.size_bytes]
            if len(piece.parts) == 1:
                seen[piece.parts[0]] += piece.size_bytes
            else:
                seen |= {name: wanted[name] for name in piece.parts if name in wanted}
    assert seen == wanted


def single(make, stem="layers.{}.attn.{}_proj", layers=2):
    return {
        f"{stem.format(layer, name)}.weight": make((rows, COLUMNS), 10 * layer + seed)
        for layer in range(layers)
        for seed, (name, rows) in enumerate(ROWS.items())
    }


def fused(tensors, make_name, names=ROWS):
    """Join the tensors of each layer along their rows, in order of the names."""
    made = {}
    for layer in range(2):
        group = [tensors[f"layers.{layer}.attn.{name}_proj.weight"] for name in names]
        shape = (sum(shape[0] for _, shape, _ in group), COLUMNS)
        made[make_name(layer)] = (group[0][0], shape, b"".join(raw for _, _, raw in group))
    return made


@pytest.mark.parametrize("make", [bf16, int8])
@pytest.mark.parametrize("order", ["qkv", "vqk"])
def test_a_fused_projection_is_found_in_its_parts(compare, make, order):  # noqa: F811
    base = single(make)
    new = fused(base, "layers.{}.attn.qkv_proj.weight".format, order)
    release, matches, old = compare({"m": base}, {"m": new})
    assert_bytes_are_those_of_the_base(release, matches, old, new)
    assert matches[release.part("layers.1.attn.qkv_proj.weight")].reason == "made of 3 of the base's tensors"


@pytest.mark.parametrize("make", [bf16, int8])
def test_the_parts_of_a_fused_projection_are_found_in_it(compare, make):  # noqa: F811
    new = single(make)
    release, matches, old = compare({"m": fused(new, "layers.{}.attn.qkv_proj.weight".format)}, {"m": new})
    assert_bytes_are_those_of_the_base(release, matches, old, new)
    found = matches[release.part("layers.1.attn.k_proj.weight")]
    assert (found.base_name, found.reason) == (
        "layers.1.attn.qkv_proj.weight",
        "was a part of layers.1.attn.qkv_proj.weight",
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_a_stack_of_experts_is_found_in_single_ones_and_they_in_it(compare, swapped):  # noqa: F811
    order = [2, 0, 3, 1] if swapped else range(4)
    experts = {f"layers.0.experts.{i}.up_proj.weight": bf16((48, COLUMNS), 7 + i) for i in range(4)}
    raw = b"".join(experts[f"layers.0.experts.{i}.up_proj.weight"][2] for i in order)
    stack = {"layers.0.experts.up_proj": ("BF16", (4, 48, COLUMNS), raw)}
    release, matches, old = compare({"m": experts}, {"m": stack})
    assert_bytes_are_those_of_the_base(release, matches, old, stack)
    (match,) = (matches[part] for part in release.parts if part in matches and part.stored_dtype)
    assert len(match.runs) == (4 if swapped else 1)


def test_single_experts_are_found_in_a_stack(compare):  # noqa: F811
    experts = {f"layers.0.experts.{i}.up_proj.weight": bf16((48, COLUMNS), 7 + i) for i in range(4)}
    stack = ("BF16", (4, 48, COLUMNS), b"".join(raw for _, _, raw in experts.values()))
    release, matches, old = compare({"m": {"layers.0.experts.up_proj": stack}}, {"m": experts})
    assert_bytes_are_those_of_the_base(release, matches, old, experts)


def test_scales_and_biases_too_small_to_tell_go_where_their_codes_went(compare):  # noqa: F811
    base, scales = single(int8), {}
    for number, name in enumerate(base):
        rows = base[name][1][0]
        scales[f"{name}_scale"] = bf16((rows, 1), 90 + number)
        scales[name.replace(".weight", ".bias")] = bf16((rows,), 70 + number)
    new = fused(base, "layers.{}.attn.qkv_proj.weight".format)
    for layer in range(2):
        for last, shape in (("weight_scale", (160, 1)), ("bias", (160,))):
            raw = b"".join(scales[f"layers.{layer}.attn.{name}_proj.{last}"][2] for name in ROWS)
            new[f"layers.{layer}.attn.qkv_proj.{last}"] = ("BF16", shape, raw)
    release, matches, old = compare({"m": base | scales}, {"m": new})
    assert_bytes_are_those_of_the_base(release, matches, old, new)
    assert not [part.name for part in removed(old.parts, matches) if part.stored_dtype]


@pytest.mark.parametrize("zeros", [False, True])
def test_codes_with_their_scales_are_found_together(compare, zeros):  # noqa: F811
    base = {}
    for seed, (name, rows) in enumerate(ROWS.items()):
        stem = f"layers.0.attn.{name}_proj"
        base |= pack_quantized(stem, rows=rows, columns=COLUMNS, group=32, seed=20 + seed, zeros=zeros)
    new = pack_quantized("layers.0.attn.qkv_proj", rows=160, columns=COLUMNS, group=32, seed=1, zeros=zeros)
    for name, (dtype, shape, _) in new.items():
        last = name.rpartition(".")[2]
        if last != "weight_shape":
            new[name] = (dtype, shape, b"".join(base[f"layers.0.attn.{each}_proj.{last}"][2] for each in ROWS))
    release, matches, old = compare({"m": base}, {"m": new})
    assert len(release.part("layers.0.attn.qkv_proj.weight_packed").members) == 2 + zeros
    assert_bytes_are_those_of_the_base(release, matches, old, ["layers.0.attn.qkv_proj.weight_packed"])


@pytest.mark.parametrize("fuse", [False, True])
def test_only_what_is_nowhere_any_more_is_gone(compare, fuse):  # noqa: F811
    base = single(bf16)
    new = fused(base, "layers.{}.attn.qkv_proj.weight".format) if fuse else dict(base)
    _, matches, old = compare({"m": base | {"extra": bf16((32, COLUMNS), 77)}}, {"m": new})
    assert [part.name for part in removed(old.parts, matches)] == ["extra"]


def test_what_was_added_between_has_no_base_and_the_rest_has(compare):  # noqa: F811
    base = single(bf16, layers=1)
    rows = [base[f"layers.0.attn.{name}_proj.weight"][2] for name in ROWS]
    added = bf16((32, COLUMNS), 99)[2]
    raw = rows[0] + added + rows[1] + rows[2]
    release, matches, _ = compare({"m": base}, {"m": {"layers.0.attn.qkv.weight": ("BF16", (192, COLUMNS), raw)}})
    found = matches[release.part("layers.0.attn.qkv.weight")]
    assert [(run.first, run.num_units) for run in found.runs] == [(0, 96), (128, 64)]


def test_a_whole_of_other_values_is_made_of_nothing(compare):  # noqa: F811
    base = single(bf16)
    rng = np.random.default_rng(5)
    new = {"layers.0.attn.qkv.weight": bf16((160, COLUMNS), int(rng.integers(1000, 2000)))}
    release, matches, _ = compare({"m": base}, {"m": new})
    assert release.part("layers.0.attn.qkv.weight") not in matches
