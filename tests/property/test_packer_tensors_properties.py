"""Any tensors, changed in any way, come out byte for byte."""

import json
import math
import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.limits import KIB
from tests.fakes.rebuild import rebuild
from tests.property.test_packer_properties import KEY, pack_files

BITS = {"BF16": 16, "F16": 16, "F32": 32, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "I32": 32, "I64": 64}
BITS |= {"BOOL": 8, "U16": 16}
NAMES = [
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{name}"
        for layer in range(2)
        for name in ("mlp.up_proj.weight", "norm.weight", "mlp.bias")
    ),
    *(f"model.layers.0.attn.{name}" for name in ("qweight", "qzeros", "scales", "g_idx")),
    *(f"model.layers.1.attn.{name}" for name in ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")),
    "lm_head.weight",
]
SHAPES = [(), (0,), (1,), (7,), (64,), (3, 5), (16, 32), (8, 64), (33, 17), (2, 8, 16), (128, 96), (1, 5000)]


@st.composite
def tensors(draw):
    made = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(BITS))), draw(st.sampled_from(SHAPES))
        size = math.prod(shape) * BITS[dtype] // 8
        rng = random.Random(draw(st.integers(0, 9)))
        kind = draw(st.sampled_from(["noise", "zeros", "few", "bell"]))
        if kind == "noise":
            raw = rng.randbytes(size)
        elif kind == "zeros":
            raw = bytes(size)
        elif kind == "few":
            raw = bytes(rng.choice((0, 1, 255)) for _ in range(size))
        else:
            raw = bytes(round(rng.gauss(0, 9)) & 0xFF for _ in range(size))
        made[name] = (dtype, shape, raw)
    return made


@st.composite
def older(draw, new):
    """What the base may have had: changed, renamed, reshaped, retyped, reordered, more or fewer."""
    old = {}
    for name, tensor in new.items():
        change = draw(st.sampled_from(["same", "nudged", "renamed", "reshaped", "retyped", "grown", "gone"]))
        if change != "gone":
            old["old." + name if change == "renamed" else name] = draw(changed(tensor, change))
    return dict(draw(st.permutations(list(old.items()))))


@st.composite
def changed(draw, tensor, change):
    dtype, shape, raw = tensor
    if change == "nudged":
        values = bytearray(raw)
        for at in range(draw(st.integers(0, 5)), len(values), draw(st.integers(1, 50))):
            values[at] = (values[at] + 1) & 0xFF
        return dtype, shape, bytes(values)
    if change == "reshaped":
        return dtype, (math.prod(shape),), raw
    if change == "retyped":
        return "U8", (len(raw),), raw
    if change == "grown" and shape:
        shape = (shape[0] + 1, *shape[1:])
        return dtype, shape, raw + bytes(math.prod(shape) * BITS[dtype] // 8 - len(raw))
    return tensor


def file_of(contents):
    header, data = {}, b""
    for name, (dtype, shape, raw) in contents.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def shards(contents, count):
    names = list(contents)
    parts = [names[number::count] for number in range(count)]
    return {f"model-{n}.safetensors": file_of({name: contents[name] for name in part}) for n, part in enumerate(parts)}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.sampled_from([64 * KIB, 2048 * KIB]))
def test_any_tensors_come_out_byte_for_byte(data, bundle_size):
    contents = data.draw(tensors())
    new = shards(contents, data.draw(st.integers(1, 2)))
    old = {}
    if data.draw(st.booleans()):
        old = shards(data.draw(older(contents)), data.draw(st.integers(1, 2)))
    with tempfile.TemporaryDirectory() as name:
        plan, _, packed = pack_files(Path(name), new, old, bundle_size=bundle_size)
        made = rebuild(
            Path(name) / "out",
            [bundle.entry for bundle in packed.bundles],
            plan.files,
            release_key=KEY,
            release_digest=plan.release_digest,
            base=old,
        )
    assert made == new
    assert packed.payload_bytes <= plan.raw_bytes + 48 * len(packed.bundles) + 200 * plan.num_segments + 60 * 14
