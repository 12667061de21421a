"""The codec bench reads what it writes, computes bounds that are bounds, and leaves no peer a worse chance."""

import json

import numpy as np
import pytest

from bench.codec import aware, bounds, curves, memory, noise, ours, q4_k, samples, text
from bench.codec.fields import fields_of
from bench.codec.rows import Bench, Kept, Row
from bench.codec.samples import FORMATS, quantize
from groundsegment.packer.tensors.catalogue import catalogue
from groundsegment.packer.tensors.parts import PartKind

ROWS, COLUMNS = 32, 512


def weights(seed=1, rows=ROWS):
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(size=(rows, 1)) * 0.5) * 0.03
    return (rng.standard_normal((rows, COLUMNS)) * scales).astype(np.float32)


def pair(kind):
    old = weights()
    new = old + np.random.default_rng(2).standard_normal(old.shape).astype(np.float32) * np.float32(5e-5)
    return quantize("w", new, FORMATS[kind]), quantize("w", old, FORMATS[kind])


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "bf16"])
def test_fields_of_a_stored_matrix_stand_for_its_values(kind):
    values = weights()
    fields = fields_of(quantize("w", values, FORMATS[kind]))
    steps = np.repeat(fields.steps, fields.group_columns, axis=1)
    zeros = 8 if kind in {"int4_g32", "int4_g128"} else 0
    if fields.zeros is not None:
        zeros = np.repeat(fields.zeros, fields.group_columns, axis=1)
    errors = np.abs((fields.codes - zeros) * steps - values) / steps
    # Half a step and what bfloat16 or six bits round away of scale and zero point.
    assert np.quantile(errors, 0.99) < (0.52 if fields.codes.max() < 16 and kind != "q4_k" else 0.9)


def test_six_bit_fields_are_packed_as_the_gguf_package_reads_them():
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    values = weights()
    blocks = q4_k.quantize(values)
    error = dequantize(blocks, GGMLQuantizationType.Q4_K) - values
    assert np.sqrt(np.square(error).mean() / np.square(values).mean()) < 0.08
    assert not dequantize(q4_k.quantize(np.zeros((1, 256), np.float32)), GGMLQuantizationType.Q4_K).any()


def test_entropies_are_those_of_known_distributions():
    coin = np.tile([0, 1], 512)
    assert bounds.entropy_bits(coin) == pytest.approx(1024)
    assert bounds.conditional_bits(coin, coin) == pytest.approx(0)
    assert bounds.conditional_bits(coin, np.repeat([0, 1], 512)) == pytest.approx(1024)
    assert bounds.difference_bits(np.zeros(9, np.int64), None) == 0


def test_buckets_of_large_differences_lose_nothing():
    # As many differences, each once: an exact code needs their logarithm, and no bucket may get away with less.
    differences = np.arange(-5000, 5001)
    wanted = len(differences) * np.log2(len(differences))
    assert wanted <= bounds.difference_bits(differences, None) * 1.0001
    assert bounds.difference_bits(differences, None) < wanted * 1.01


@pytest.mark.parametrize("kind", FORMATS)
def test_a_matrix_that_did_not_change_has_a_bound_of_nothing(kind):
    matrix = quantize("w", weights(), FORMATS[kind])
    assert bounds.delta_bytes(matrix, matrix) == 0
    assert 0.5 * matrix.size_bytes < bounds.full_bytes(matrix) < matrix.size_bytes * 1.001


@pytest.mark.parametrize("kind", FORMATS)
def test_a_light_change_has_a_bound_far_under_the_whole(kind):
    new, old = pair(kind)
    assert 0 < bounds.delta_bytes(new, old) < 0.4 * bounds.full_bytes(new)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_sample_is_a_file_in_which_the_packer_sees_matrices(kind, tmp_path):
    matrix = quantize("model.layers.0.mlp.up_proj.weight", weights(), FORMATS[kind])
    path = tmp_path / ("model.gguf" if FORMATS[kind].is_gguf else "model.safetensors")
    samples.write(path, [matrix])
    parts = catalogue({file.name: file for file in tmp_path.iterdir()})
    found = [part for part in parts if part.kind is not PartKind.BYTES]
    assert sum(member.size_bytes for part in found for member in part.members) == matrix.size_bytes


@pytest.mark.parametrize("kind", ["bf16", "int4_g32"])
def test_a_row_of_the_result_counts_what_crosses_the_link(kind, tmp_path):
    news, olds = [
        [samples.quantize("model.layers.0.w.weight", each, FORMATS[kind])] for each in (weights(3), weights())
    ]
    for name, matrices in (("new", news), ("old", olds)):
        samples.write(tmp_path / name / "model.safetensors", matrices)
    bench = Bench(directory=tmp_path, kept=Kept(tmp_path / "kept.json"), runs=1, has_peers=False)
    row = bench.measure(kind, news, None, tmp_path / "new", None)
    packed = ours.pack(tmp_path / "new", None)
    stored = sum(entry.stored_size + 32 for entry, _ in packed.segments)
    assert row.raw == news[0].size_bytes
    assert row.bound < row.ours <= stored
    assert sum(packed.sizes.values()) == pytest.approx(stored)
    payloads = sum(entry.stored_size - 16 for entry, _ in packed.segments if entry.stored_size)
    assert payloads - 8 < sum(packed.coded.values()) <= payloads
    assert packed.coded_of("model.layers.0.w.weight") < packed.size_of("model.layers.0.w.weight")
    assert set(row.figures()) == {"ratio", "bound", "best_peer"}
    same = bench.measure(kind, olds, olds, tmp_path / "old", tmp_path / "old")
    assert same.ours < 300
    assert same.bound == 0


def test_kept_figures_are_computed_once(tmp_path):
    calls = []
    for _ in range(2):
        Kept(tmp_path / "kept.json").get("a", lambda: calls.append(1) or {"x": 1})
    assert calls == [1]
    assert json.loads((tmp_path / "kept.json").read_text()) == {"a": {"x": 1}}


def test_the_best_peer_of_a_row_is_the_best_for_each_matrix():
    row = Row(
        key="k",
        tensors=1,
        raw=100,
        ours=10,
        bound=9,
        peers={"a": 30, "b": 20},
        best=18,
        worst=1.0,
        encode_mb_s=1.0,
        decode_mb_s=1.0,
        transforms={},
    )
    assert row.best_name == "b"
    assert row.figures() == {"ratio": 0.1, "bound": 0.09, "best_peer": 0.18}


def test_noise_stays_within_half_a_step_and_is_the_same_for_a_seed():
    old = {"a.weight": np.round(weights() * 200) / 200, "a.bias": np.zeros(4, np.float32)}
    one, two = noise.leave_grid(old, seed=7), noise.leave_grid(old, seed=7)
    assert (one["a.weight"] == two["a.weight"]).all()
    groups = old["a.weight"].reshape(ROWS, -1, 32)
    steps = np.repeat((groups.max(axis=2) - groups.min(axis=2)) / 15, 32, axis=1)
    assert (np.abs(one["a.weight"] - old["a.weight"]) <= steps / 2 + 1e-7).all()
    assert not one["a.bias"].any()


def test_no_paragraph_is_both_trained_on_and_held_out(monkeypatch):
    monkeypatch.setattr(text, "_paragraphs", lambda: iter([f"paragraph {i % 300} of the licence" for i in range(900)]))
    corpus = text.collect(1)
    assert len(corpus.train) + len(corpus.held_out) == 300
    assert not set(corpus.train) & set(corpus.held_out)
    assert corpus.held_out
    assert corpus == text.collect(1)


@pytest.mark.slow
@pytest.mark.timeout(300)  # importing torch alone may take long on a busy machine
def test_a_training_that_was_interrupted_ends_as_if_it_had_not_been(tmp_path):
    torch = pytest.importorskip("torch")
    from bench.codec import training

    def run(steps_at_once):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 8)
        ids = torch.randn(5, 8)
        snapshot = tmp_path / f"{steps_at_once}.snapshot"
        schedule = training.Schedule(steps=60, rate=1e-2, seed=1)
        count = 0

        def loss(model, sequence):
            nonlocal count
            count += 1
            if count > steps_at_once:
                raise KeyboardInterrupt
            return model(sequence).square().sum()

        try:
            training.train(model, ids, schedule, loss_of=loss, snapshot=snapshot)
        except KeyboardInterrupt:
            torch.manual_seed(0)
            model = torch.nn.Linear(8, 8)
            training.train(model, ids, schedule, loss_of=lambda m, s: m(s).square().sum(), snapshot=snapshot)
        return model.weight.detach().numpy()

    assert (run(1000) == run(45)).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by ZipNN's way of using it
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4_g32", "q4_k"])
def test_peers_that_are_here_do_better_with_a_base_and_never_worse_than_nothing(kind):
    from bench.codec import peers

    new, old = pair(kind)
    full, delta = peers.full_sizes(new), peers.delta_sizes(new, old)
    assert set(full) <= set(peers.FULL)
    assert set(delta) <= set(peers.DELTA)
    assert all(0.5 * new.size_bytes < size < 1.02 * new.size_bytes for size in full.values())
    assert not delta or min(delta.values()) < 0.5 * min(full.values())


@pytest.mark.slow
def test_the_picture_shows_every_row(tmp_path):
    from bench.codec.plot import draw

    rows = [
        Row(
            key=key,
            tensors=1,
            raw=1000,
            ours=ours_bytes,
            bound=ours_bytes * 0.99,
            peers={"a": 900},
            best=900,
            worst=0.9,
            encode_mb_s=1.0,
            decode_mb_s=1.0,
            transforms={},
        )
        for key, ours_bytes in (("bf16", 660), ("int8", 880))
    ]
    draw(rows, rows, tmp_path / "picture")
    assert (tmp_path / "picture.svg").stat().st_size > 5000
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def aware_curve(directory, **points):
    """Write the int8 curve: bytes and perplexity by name."""
    case = curves.CASES[0]
    (directory / "aware").mkdir(exist_ok=True)
    rows = [
        {"name": name.replace("_", " "), "bytes": size, "ppl": ppl, "kl": 0.1, "surprise": [ppl / 10, ppl / 11]}
        for name, (size, ppl) in points.items()
    ]
    curve = {"models": curves._stamp(directory, case), "float": {"ppl": 15.0}, "points": rows}
    curves.path_of(directory, case).write_text(json.dumps(curve))


FRESH = {"nothing": (2, 20.0), "rounded": (1000, 15.02), "gptq": (1800, 15.0)}


def test_update_aware_is_held_against_what_one_would_send_and_takes_the_fewest_bytes_within_the_bar(tmp_path):
    aware_curve(tmp_path, **FRESH, aware_1=(90, 15.4), aware_2=(300, 15.15), aware_3=(480, 15.05), aware_4=(700, 15.0))
    found = aware.figures(tmp_path)["int8"]
    assert (found["bytes"], found["lossless_bytes"], found["ppl"], found["naive_ppl"]) == (480, 1000, 15.05, 15.02)
    assert found["within_1_percent"] == {"bytes": 300, "ppl": 15.15}
    assert "| update-aware" in aware.text(tmp_path)


def test_it_is_held_against_a_better_fresh_release_too(tmp_path):
    aware_curve(tmp_path, **FRESH | {"gptq": (1800, 14.5)}, aware_1=(480, 15.05))
    found = aware.figures(tmp_path)
    assert list(found) == ["int8", "int8 against gptq"]
    assert (found["int8 against gptq"]["naive_ppl"], found["int8 against gptq"]["within_1_percent"]) == (14.5, None)


def test_where_it_does_not_pay_the_best_is_told_and_nothing_within(tmp_path):
    aware_curve(tmp_path, **FRESH, aware_1=(90, 17.0), aware_2=(300, 16.0))
    found = aware.figures(tmp_path)["int8"]
    assert (found["ppl"], found["within_1_percent"]) == (16.0, None)


def test_a_curve_with_nothing_to_be_held_against_is_not_told(tmp_path):
    aware_curve(tmp_path, gptq=(1000, 15.0), aware_1=(90, 15.0))
    assert aware.figures(tmp_path) == {}
    aware_curve(tmp_path, rounded=(1000, 15.0))
    assert aware.figures(tmp_path) == {}
    assert aware.figures(tmp_path / "nowhere") == {}


def test_a_curve_of_other_models_is_not_told(tmp_path):
    aware_curve(tmp_path, **FRESH, aware_1=(480, 15.05))
    assert aware.figures(tmp_path)
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2/model.safetensors").write_bytes(b"trained anew")
    assert aware.figures(tmp_path) == {}


@pytest.mark.parametrize(("kind", "transform"), [("bf16", "FLOATS_DELTA"), ("int4", "NIBBLES_DELTA")])
def test_the_releases_that_memory_is_measured_on_are_understood_as_tensors(monkeypatch, tmp_path, kind, transform):
    for name, value in {"ROWS": 512, "COLUMNS": 256, "_POOL_VALUES": 2**19}.items():
        monkeypatch.setattr(memory, name, value)
    memory.make(tmp_path, kind, 400_000)
    packed = ours.pack(tmp_path / "new", tmp_path / "old", level=3)
    assert packed.raw_bytes > 400_000
    assert packed.transforms[transform] > 0.9 * packed.raw_bytes
    assert packed.stored_bytes < 0.2 * packed.raw_bytes
