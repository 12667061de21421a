"""Releases that changed in every way a release changes come out byte for byte, and cost what changed."""

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from groundsegment.packer.bundles import bundle_name
from groundsegment.packer.packing import Sources, pack
from groundsegment.packer.plan import PackPlan, survey
from groundsegment.packer.workers import Workers
from onboard.errors import InstallError
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.release import ReleaseDirectory
from protocol.codec.kinds import TransformKind
from protocol.limits import KIB
from protocol.manifest import FileEntry, Manifest, release_digest
from protocol.report import Reason
from tests.fakes.models import make_tiny_gguf, safetensors_header, to_bf16_bytes

KEY = b"k" * 32
RNG = np.random.default_rng(4)
HIDDEN, WIDTH, LAYERS = 64, 160, 3


def bf16(*shape, rng=RNG):
    return "BF16", shape, to_bf16_bytes(rng.normal(0, 0.05, shape).astype(np.float32))


def model(rng=RNG):
    """Tensors of a small model by name: (dtype, shape, bytes)."""
    tensors = {"model.embed_tokens.weight": bf16(300, HIDDEN, rng=rng)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        tensors[f"{stem}.input_layernorm.weight"] = ("BF16", (HIDDEN,), to_bf16_bytes(np.ones(HIDDEN, np.float32)))
        for name, shape in (("mlp.up_proj", (WIDTH, HIDDEN)), ("mlp.down_proj", (HIDDEN, WIDTH))):
            tensors[f"{stem}.{name}.weight"] = bf16(*shape, rng=rng)
    return tensors


def int8(tensors):
    """The same with int8 codes and a scale for each row."""
    made = {}
    for name, (dtype, shape, raw) in tensors.items():
        made[name] = (dtype, shape, raw)
        if "mlp" in name:
            codes = RNG.normal(0, 30, shape).round().clip(-127, 127).astype(np.int8)
            made[name] = ("I8", shape, codes.tobytes())
            made[name + "_scale"] = ("BF16", (shape[0], 1), to_bf16_bytes(np.full(shape[:1], 0.01, np.float32)))
    return made


def gptq():
    """A GPTQ-like layer: int32 qweight, qzeros, half scales, g_idx."""
    columns, rows, group = 96, 128, 32
    return {
        "model.layers.0.mlp.up_proj.g_idx": ("I32", (rows,), (np.arange(rows, dtype="<i4") // group).tobytes()),
        "model.layers.0.mlp.up_proj.qweight": (
            "I32",
            (rows // 8, columns),
            RNG.binomial(15, 0.5, (rows * columns // 2, 2)).astype(np.uint8).dot([1, 16]).astype(np.uint8).tobytes(),
        ),
        "model.layers.0.mlp.up_proj.qzeros": (
            "I32",
            (rows // group, columns // 8),
            b"\x77" * (rows // group * columns // 2),
        ),
        "model.layers.0.mlp.up_proj.scales": (
            "F16",
            (rows // group, columns),
            RNG.uniform(0.01, 0.02, (rows // group, columns)).astype("<f2").tobytes(),
        ),
    }


def nudged(tensors, share=0.02):
    """A light fine-tune: some values a step away."""
    made = {}
    for name, (dtype, shape, raw) in tensors.items():
        values = np.frombuffer(raw, np.uint8 if dtype in {"I8", "I32"} else "<u2").copy()
        changed = RNG.random(values.size) < share
        values[changed] += 1
        made[name] = (dtype, shape, values.tobytes() if "norm" not in name else raw)
    return made


def file_of(tensors, metadata=None):
    header = safetensors_header({name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()})
    if metadata is not None:
        fields = {"__metadata__": metadata, **{k: v for k, v in json.loads(header[8:]).items() if k != "__metadata__"}}
        raw = json.dumps(fields).encode()
        header = struct.pack("<Q", len(raw)) + raw
    return header + b"".join(raw for _, _, raw in tensors.values())


def shards_of(tensors, count):
    names = list(tensors)
    return {
        f"model-{number + 1:05d}-of-{count:05d}.safetensors": file_of(
            {name: tensors[name] for name in names[number::count]}
        )
        for number in range(count)
    }


def release(tensors, **files):
    return {"config.json": b'{"model_type": "tiny"}', "model.safetensors": file_of(tensors), **files}


def entries_of(files):
    return tuple(
        FileEntry(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
        for name, data in sorted(files.items())
    )


class Flight:
    """A release packed by the ground's packer and rebuilt by the satellite's assembly."""

    def __init__(self, directory: Path, new, old=None, *, bundle_size_bytes=64 * KIB, level=3):
        self.directory, self.new = directory, new
        paths = {name: self._write(directory / "new", name, data) for name, data in sorted(new.items())}
        self.base_directory = directory / "base"
        base_paths = {name: self._write(self.base_directory, name, data) for name, data in sorted((old or {}).items())}
        base_files = entries_of(old or {})
        self.plan = PackPlan(
            satellite="SAT-1",
            release_digest=release_digest(entries_of(new)),
            files=entries_of(new),
            base_digest=release_digest(base_files) if old else None,
            base_files=base_files,
            bundle_size_bytes=bundle_size_bytes,
            level=level,
            survey=survey(paths, base_paths, bundle_size_bytes=bundle_size_bytes),
        )
        self.sources = Sources(files=tuple(paths.values()), base_files=tuple(base_paths.values()))
        self.out = directory / "out"
        self.out.mkdir()
        self.packed = pack(self.plan, self.sources, self.out, release_key=KEY, workers=Workers())

    @staticmethod
    def _write(directory, name, data):
        directory.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)
        return directory / name

    def assemble(self):
        """Rebuild on board; returns the files."""
        manifest = Manifest(
            sequence=1,
            satellites=("SAT-1",),
            release_name="tiny",
            release_digest=self.plan.release_digest,
            files=self.plan.files,
            base=self.plan.base_digest,
            bundles=tuple(bundle.entry for bundle in self.packed.bundles),
            keys={},
        )
        base = None
        if self.plan.base_digest is not None:
            base = ReleaseDirectory(
                directory=self.base_directory, files=self.plan.base_files, digest=self.plan.base_digest
            )
        part = self.directory / "new.part"
        assembly = Assembly.open(part, Plan(manifest=manifest, release_key=KEY, base=base))
        for number in range(len(self.packed.bundles)):
            assembly.install(self.out / bundle_name(number), number)
        assembly.verify()
        return {path.name: path.read_bytes() for path in part.iterdir() if not path.name.startswith(".")}

    @property
    def share(self):
        return self.packed.payload_bytes / self.plan.raw_bytes

    def comes_out_right(self):
        return self.assemble() == self.new


OLD = model()
STATE = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = STATE


def renamed():
    return {"language_" + name: tensor for name, tensor in OLD.items()}


def reshaped():
    return {
        name: (dtype, (shape[0] * shape[1] // 32, 32) if len(shape) == 2 else shape, raw)
        for name, (dtype, shape, raw) in OLD.items()
    }


def added():
    return {**OLD, "model.layers.3.mlp.up_proj.weight": bf16(WIDTH, HIDDEN)}


def removed():
    return {name: tensor for name, tensor in OLD.items() if "layers.1" not in name}


def reordered():
    return dict(reversed(OLD.items()))


@pytest.mark.parametrize(
    ("new", "share_max"),
    [
        (release(OLD, **{"config.json": b'{"model_type": "tiny" }'}), 0.01),
        (release(nudged(OLD)), 0.08),
        (release(renamed()), 0.03),
        (release(reshaped()), 0.03),
        (release(added()), 0.13),
        (release(removed()), 0.03),
        (release(reordered()), 0.03),
        ({"config.json": b"{}", **shards_of(OLD, 3)}, 0.03),
        ({"config.json": b"{}", "model.safetensors": file_of(OLD, {"z": "1", "a": "2"})}, 0.02),
    ],
    ids=["same", "fine-tuned", "renamed", "reshaped", "added", "removed", "reordered", "resharded", "metadata"],
)
def test_what_changed_is_what_it_costs(tmp_path, new, share_max):
    flight = Flight(tmp_path, new, release(OLD))
    assert flight.share < share_max
    assert flight.comes_out_right()


def test_a_tokenizer_that_grew_costs_what_was_added(tmp_path):
    old = RNG.bytes(100_000)
    new = b"{" + old[:40_000] + b"twenty tokens more" + old[40_000:]
    base = release(OLD, **{"tokenizer.json": old})
    flight = Flight(tmp_path, release(OLD, **{"tokenizer.json": new}), base, level=15)
    assert flight.packed.tally.by_transform[TransformKind.BYTES_MATCHES].coded_bytes < 400
    assert flight.comes_out_right()


@pytest.mark.parametrize("old", [None, "the same", "another"])
@pytest.mark.parametrize("make", [lambda: int8(OLD), gptq, model], ids=["int8", "gptq", "bf16"])
def test_every_format_comes_out_right_whole_and_as_a_difference(tmp_path, make, old):
    tensors = make()
    base = {"the same": nudged(tensors, 0.01), "another": make()}.get(old)
    flight = Flight(tmp_path, release(tensors), None if base is None else release(base))
    assert flight.comes_out_right()
    assert flight.share < (0.12 if old == "the same" else 1.0)


@pytest.mark.parametrize("matrix_type", ["Q8_0", "Q4_0", "Q4_1", "F16", "BF16"])
def test_gguf_comes_out_right_whole_and_as_a_difference(tmp_path, matrix_type):
    make_tiny_gguf(tmp_path / "v1.gguf", seed=1, matrix_type=matrix_type)
    new = (tmp_path / "v1.gguf").read_bytes()
    changed = bytearray(new)
    for at in range(len(new) // 2, len(new), 997):
        changed[at] ^= 1
    (tmp_path / "whole").mkdir()
    (tmp_path / "delta").mkdir()
    whole = Flight(tmp_path / "whole", {"v1.gguf": new})
    assert whole.comes_out_right()
    delta = Flight(tmp_path / "delta", {"v2.gguf": bytes(changed)}, {"v1.gguf": new})
    assert delta.comes_out_right()
    assert delta.share < 0.15 * whole.share


def test_what_is_the_same_costs_no_byte_but_a_row(tmp_path):
    flight = Flight(tmp_path, release(OLD), release(OLD))
    assert set(flight.packed.tally.by_transform) == {TransformKind.SAME}
    assert flight.packed.tally.coded_bytes == 0
    assert flight.comes_out_right()


def test_noise_grows_by_next_to_nothing(tmp_path):
    noise = {"a": ("I8", (200, 1000), RNG.bytes(200_000)), "b": ("BF16", (100, 500), RNG.bytes(100_000))}
    flight = Flight(tmp_path, release(noise), release({**noise, "a": ("I8", (200, 1000), RNG.bytes(200_000))}))
    assert flight.packed.payload_bytes < 201_000
    assert flight.comes_out_right()


def test_a_damaged_base_is_named_before_a_byte_of_it_is_used(tmp_path):
    flight = Flight(tmp_path, release(nudged(OLD)), release(OLD))
    path = flight.base_directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    with pytest.raises(InstallError) as caught:
        flight.assemble()
    assert caught.value.reason is Reason.BASE_DAMAGED
    assert not any((tmp_path / "new.part" / "model.safetensors").read_bytes())


@pytest.mark.parametrize("level", [3, 19])
def test_the_plan_and_its_level_alone_decide_every_byte(tmp_path, level):
    flights = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        flights.append(
            Flight(tmp_path / name, release(nudged(OLD, 0.0)), release(model(np.random.default_rng(9))), level=level)
        )
    assert flights[0].packed.bundles == flights[1].packed.bundles
    assert flights[0].plan.digest() == flights[1].plan.digest()
    assert dataclasses.replace(flights[0].plan, level=7).digest() != flights[0].plan.digest()
