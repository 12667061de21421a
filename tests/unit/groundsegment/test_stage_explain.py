"""`skyload stage --explain`: every tensor, and nothing that does not add up."""

from pathlib import Path

import pytest

from groundsegment.packer.explain import Use, layer_of, use_of
from tests.fakes.models import make_tiny_gguf, make_tiny_qwen2
from tests.fakes.staging import TWIN, make_ground, run, run_json


@pytest.fixture
def ground(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "v1", seed=1)
    make_tiny_qwen2(tmp_path / "v2", seed=1, nudge=0.001)
    return tmp_path


def adds_up(staged):
    explained = staged["explain"]
    assert (
        sum(line["coded_bytes"] for line in explained["tensors"]) + explained["overhead_bytes"]
        == (staged["payload_bytes"])
    )
    assert sum(line["raw_bytes"] for line in explained["tensors"]) == staged["installed_bytes"]
    for sums in ("by_kind", "by_use", "by_layer"):
        for size in ("raw_bytes", "coded_bytes"):
            total = sum(entry[size] for entry in explained[sums].values())
            assert total == sum(line[size] for line in explained["tensors"])
    sizes = [line["coded_bytes"] for line in explained["tensors"]]
    assert sizes == sorted(sizes, reverse=True)
    return {line["name"]: line for line in explained["tensors"]}


def test_every_tensor_is_explained_and_all_bytes_add_up(ground):
    lines = adds_up(run_json("v2", "--base", "v1", "--no-canary", "--explain"))
    matrix = lines["model.layers.1.mlp.up_proj.weight"]
    assert (matrix["kind"], matrix["use"], matrix["layer"]) == ("BF16", "mlp", 1)
    assert list(matrix["transforms"]) == ["floats_delta"]
    assert "same name" in matrix["reason"]
    assert list(lines["(header)"]["transforms"]) == ["same"]
    assert lines["model.norm.weight"]["layer"] is None


def test_a_full_update_has_no_reasons_and_no_differences(ground):
    lines = adds_up(run_json("v1", "--no-canary", "--explain"))
    assert {line["reason"] for line in lines.values()} == {""}
    assert {way for line in lines.values() for way in line["transforms"]} <= {"floats", "bytes"}


def test_a_dry_run_of_few_segments_explains_exactly_what_packing_then_makes(ground):
    words = ("v2", "--base", "v1", "--no-canary", "--explain")
    guess = run_json(*words, "--dry-run")
    assert guess["explain"]["is_exact"]
    assert guess["explain"] == run_json(*words)["explain"]


def test_bundles_of_an_interrupted_run_are_explained_like_new_ones(ground, monkeypatch):
    words = ("v2", "--base", "v1", "--bundle-size", "64KiB", "--explain")
    guess = run_json(*words, "--no-canary", "--dry-run")
    monkeypatch.setenv("FAKE_TWIN", "fail")
    assert run(*words, "--twin", TWIN)[0] == 9
    monkeypatch.delenv("FAKE_TWIN")
    resumed = run_json(*words, "--twin", TWIN)
    assert resumed["num_bundles_reused"] == resumed["num_bundles"] > 0
    adds_up(resumed)
    assert resumed["explain"] == guess["explain"]


def test_an_estimate_explains_all_tensors_and_says_that_it_is_one(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    for name, nudge in (("v1", 0.0), ("v2", 0.001)):
        make_tiny_qwen2(tmp_path / name, seed=1, nudge=nudge, hidden=64, intermediate=512, layers=16)
    words = ("v2", "--base", "v1", "--no-canary", "--bundle-size", "64KiB", "--explain")
    guess = run_json(*words, "--dry-run")
    assert guess["num_sampled"] < guess["num_segments"]
    assert guess["error_bytes"] > 0
    assert not guess["explain"]["is_exact"]
    adds_up(guess)
    exact = run_json(*words)
    assert abs(guess["payload_bytes"] - exact["payload_bytes"]) < max(4 * guess["error_bytes"], 2000)


def test_words_for_people_name_the_largest_first_and_the_totals(ground):
    code, out, err = run("v2", "--base", "v1", "--no-canary", "--explain", "--dry-run")
    assert code == 0, err
    assert out.index("mlp.up_proj") < out.index("model.norm.weight")
    assert "difference of floats (BF16); same name" in out
    for title in ("by values", "by use", "by layer", "rows, tags and heads"):
        assert title in out


def test_what_is_gone_and_what_is_new_is_told(ground):
    make_tiny_qwen2(ground / "taller", seed=1, layers=3)
    explained = run_json("taller", "--base", "v1", "--no-canary", "--explain", "--dry-run")["explain"]
    new = [line for line in explained["tensors"] if line["layer"] == 2 and "up_proj" in line["name"]]
    assert [line["reason"] for line in new] == ["not in the base"]
    explained = run_json("v1", "--base", "taller", "--no-canary", "--explain", "--dry-run")["explain"]
    assert "model.layers.2.mlp.up_proj.weight" in explained["removed"]


def test_a_gguf_file_is_explained_by_its_own_names(ground):
    make_tiny_gguf(ground / "v1.gguf", seed=1)
    lines = adds_up(run_json("v1.gguf", "--no-canary", "--explain"))
    assert (lines["blk.0.ffn_up.weight"]["use"], lines["blk.0.ffn_up.weight"]["layer"]) == ("mlp", 0)
    assert lines["blk.0.ffn_up.weight"]["kind"] == "Q8_0"


@pytest.mark.parametrize(("name", "start"), [("update.png", b"\x89PNG"), ("update.svg", b"<?xml")])
def test_the_picture_is_drawn_and_is_the_same_each_time(ground, name, start):
    words = ("v2", "--base", "v1", "--no-canary", "--dry-run", "--explain-plot", name)
    assert run(*words)[0] == 0
    first = Path(name).read_bytes()
    assert first.startswith(start)
    assert run(*words)[0] == 0
    assert Path(name).read_bytes() == first


def test_what_costs_nothing_is_one_line_and_what_costs_something_has_its_own(ground):
    code, told, _ = run("v2", "--base", "v1", "--no-canary", "--dry-run", "--explain")
    assert code == 0
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert any("model.layers.1.mlp.up_proj.weight difference of floats (BF16); same name and shape" in x for x in lines)
    (unchanged,) = (line for line in lines if line.endswith("more unchanged; same file"))
    assert " 0 B 0.00% " in unchanged
    assert sum(line.endswith("unchanged; same file") for line in lines) < 4


def test_a_picture_of_another_kind_is_refused_before_anything_is_read(ground):
    code, _, err = run("nowhere", "--no-canary", "--explain-plot", "update.pdf")
    assert code == 3
    assert ".png or .svg" in err


@pytest.mark.parametrize(
    ("name", "use", "layer"),
    [
        ("model.layers.12.self_attn.q_proj.weight", Use.ATTENTION, 12),
        ("model.layers.3.post_attention_layernorm.weight", Use.NORM, 3),
        ("model.layers.3.mlp.experts.17.up_proj", Use.EXPERTS, 3),
        ("model.layers.3.self_attn.q_norm.weight", Use.NORM, 3),
        ("blk.7.attn_norm.weight", Use.NORM, 7),
        ("blk.7.ffn_gate_exps.weight", Use.EXPERTS, 7),
        ("blk.7.attn_output.weight", Use.ATTENTION, 7),
        ("transformer.h.2.mlp.c_fc.weight", Use.MLP, 2),
        ("token_embd.weight", Use.EMBEDDING, None),
        ("lm_head", Use.EMBEDDING, None),
        ("output.weight", Use.EMBEDDING, None),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", Use.ADAPTER, 0),
        ("vision.patch", Use.OTHER, None),
        ("(header)", Use.FILES, None),
    ],
)
def test_names_tell_what_a_tensor_is_to_the_model(name, use, layer):
    assert (use_of(name), layer_of(name)) == (use, layer)
