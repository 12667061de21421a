"""Adapters are staged as adapters: what flies is some kB, what is signed is what they come to on board."""

import json
import os
from pathlib import Path

import pytest

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState
from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import scan_release
from groundsegment.staging.adapters import prune_adapters
from protocol.adapters import base_note
from protocol.manifest import AdapterUse
from tests.fakes.adapters import make_tiny_adapter, merged_files
from tests.fakes.depots import NOW, make_depot, stage_bytes
from tests.fakes.models import make_tiny_gguf, make_tiny_qwen2
from tests.fakes.rebuild import rebuild
from tests.fakes.staging import TWIN, make_ground, open_as_satellite, read_release, report_serving, run, run_json


@pytest.fixture
def ground(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "v1", seed=1)
    make_tiny_adapter(tmp_path / "lora", tmp_path / "v1", seed=2)
    return tmp_path


def serve_v1():
    """Stage the model, and let the satellite say that it serves it."""
    digest = run_json("v1", "--no-canary")["release_digest"]
    report_serving(digest, accepted=1)
    return digest


def opened(staged, accepted=0):
    """Manifest and carried files, as the satellite opens them."""
    directory = Path(staged["directory"])
    manifest, key = open_as_satellite(directory, accepted=accepted)
    files = rebuild(
        directory,
        manifest.bundles,
        manifest.carried_files,
        release_key=key,
        release_digest=manifest.release_digest,
    )
    return manifest, files


def adapter_files(ground):
    return {
        name: (ground / "lora" / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")
    }


def test_an_adapter_is_served_beside_its_base_unless_told(ground):
    base = serve_v1()
    staged = run_json("lora", "--twin", TWIN)
    manifest, files = opened(staged, accepted=1)
    assert manifest.adapter.use is AdapterUse.BESIDE
    assert manifest.base.hex() == staged["base_digest"] == base
    assert files == {**adapter_files(ground), "skyload_adapter.json": base_note.encode(bytes.fromhex(base))}
    assert [entry.name for entry in manifest.files] == sorted(files)
    assert manifest.memory_bytes == sum(map(len, read_release(ground / "v1").values())) + sum(map(len, files.values()))
    with Depot.open(Path("depot")) as depot:
        assert read_release(depot.find_release(manifest.release_digest).path) == files


def test_a_merged_release_is_signed_and_kept_and_the_adapter_flies(ground):
    serve_v1()
    staged = run_json("lora", "--adapter", "merge", "--twin", TWIN)
    manifest, files = opened(staged, accepted=1)
    assert manifest.adapter.use is AdapterUse.MERGE
    assert files == adapter_files(ground)
    expected = merged_files(files, read_release(ground / "v1"))
    assert staged["payload_bytes"] < 1.1 * sum(map(len, files.values())) < 0.4 * sum(map(len, expected.values()))
    with Depot.open(Path("depot")) as depot:
        assert read_release(depot.find_release(manifest.release_digest).path) == expected
    assert staged["installed_bytes"] == manifest.memory_bytes == sum(map(len, expected.values()))


def test_merging_into_coarse_codes_says_what_is_lost(ground):
    quantize(plan_quantize(scan_release(Path("v1")), format_name="int8"), Path("v1-int8"))
    words = ("--base", "v1-int8", "--adapter", "merge", "--no-canary", "--dry-run")
    make_tiny_adapter(ground / "lora", ground / "v1", seed=2, gain=0.2)
    loud = run_json("lora", *words)["warnings"]
    make_tiny_adapter(ground / "quiet", ground / "v1", seed=2, gain=0.002)
    (quiet,) = run_json("quiet", *words)["warnings"]
    assert not any("lost" in warning for warning in loud)
    lost, moved = (float(share.split()[-1]) for share in quiet.split("%")[:2])
    assert lost > 90
    assert moved < 1
    assert "--adapter beside loses nothing" in quiet


def adapters_of(ground):
    return {path.name for path in (ground / "depot" / "adapters").iterdir()}


def test_releases_of_adapters_go_once_nothing_builds_on_them(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        updates = [stage_bytes(depot, [100], seed=seed).update for seed in range(7)]
        for update in updates[:5]:
            depot.set_update_state(update.handle, FlightState.CONFIRMED)
        depot.set_update_state(updates[5].handle, FlightState.REJECTED)
        names = [update.release_digest.hex()[:16] for update in updates]
        for name in (*names, "ab" * 8, "cd" * 8):
            (depot.path / "adapters" / name).mkdir(parents=True)
            os.utime(depot.path / "adapters" / name, (0, 0 if name != "cd" * 8 else NOW.timestamp()))
        prune_adapters(depot, NOW)
        # The last three that were confirmed, the one that is on its way, and what is being looked at right now.
        assert {path.name for path in (depot.path / "adapters").iterdir()} == {*names[2:5], names[6], "cd" * 8}


def test_what_a_dry_run_laid_out_goes_with_a_later_staging_but_not_at_once(ground):
    run_json("lora", "--base", "v1", "--dry-run", "--no-canary")
    (laid_out,) = adapters_of(ground)
    make_tiny_adapter(ground / "lora", ground / "v1", seed=7)
    run_json("lora", "--base", "v1", "--no-canary")
    assert laid_out in adapters_of(ground)
    os.utime(ground / "depot" / "adapters" / laid_out, (0, 0))
    run_json("v1", "--base", "none", "--no-canary", "--beside")
    assert laid_out not in adapters_of(ground)


def test_what_comes_next_builds_on_the_merged_release(ground):
    serve_v1()
    merged = run_json("lora", "--adapter", "merge", "--no-canary")
    report_serving(merged["release_digest"], accepted=2, sequence=2)
    make_tiny_qwen2(ground / "v2", seed=1, nudge=0.001)
    staged = run_json("v2", "--no-canary", "--base", "current")
    assert staged["base_digest"] == merged["release_digest"]


def test_an_adapter_after_an_adapter_has_the_same_base(ground):
    base = serve_v1()
    first = run_json("lora", "--no-canary")
    report_serving(first["release_digest"], accepted=2, sequence=2)
    make_tiny_adapter(ground / "lora", ground / "v1", seed=3)
    staged = run_json("lora", "--no-canary", "--base", "current")
    assert (staged["base_digest"], staged["warnings"]) == (base, [])
    assert staged["release_digest"] != first["release_digest"]


def test_a_base_that_nobody_staged_is_known_after_its_first_adapter(ground):
    first = run_json("lora", "--base", "v1", "--no-canary")
    report_serving(first["release_digest"], accepted=1)
    make_tiny_adapter(ground / "lora", ground / "v1", seed=3)
    assert run_json("lora", "--no-canary")["base_digest"] == first["base_digest"]


def test_a_model_after_an_adapter_builds_on_the_base_of_that(ground):
    first = run_json("lora", "--base", "v1", "--no-canary")
    report_serving(first["release_digest"], accepted=1)
    make_tiny_qwen2(ground / "v2", seed=1, nudge=0.001)
    staged = run_json("v2", "--no-canary", "--base", "current")
    assert staged["base_digest"] == first["base_digest"]
    assert "the base of lora" in staged["base_reason"]
    make_tiny_qwen2(ground / "v3", seed=1, nudge=0.002)
    assert not [words for words in run_json("v3", "--base", "v1", "--dry-run")["warnings"] if "on board" in words]


def test_an_int8_base_is_merged_on_its_grid(ground):
    quantize(plan_quantize(scan_release(ground / "v1"), format_name="int8"), ground / "int8")
    staged = run_json("lora", "--base", "int8", "--adapter", "merge", "--no-canary")
    manifest, files = opened(staged)
    with Depot.open(Path("depot")) as depot:
        kept = read_release(depot.find_release(manifest.release_digest).path)
    assert kept == merged_files(files, read_release(ground / "int8"))


def test_two_adapters_that_come_to_the_same_bytes_are_packed_apart(ground):
    """Their releases have one digest: under one key no segment may be encrypted twice with different bytes."""
    make_tiny_adapter(ground / "a", ground / "v1", seed=2, gain=0.0)
    make_tiny_adapter(ground / "b", ground / "v1", seed=3, gain=0.0)
    from groundsegment.staging.records import StageOptions
    from groundsegment.staging.staging import prepare

    options = StageOptions(satellite="SAT-1", base="v1", adapter=AdapterUse.MERGE)
    with Depot.open(Path("depot")) as depot:
        a, b = (prepare(depot, Path(name), options, lambda *_: None) for name in "ab")
    assert a.release.digest == b.release.digest
    assert a.plan.digest() != b.plan.digest()


def test_what_does_not_fly_and_what_may_be_missing_is_told(ground):
    serve_v1()
    (ground / "lora" / "tokenizer.json").write_text("{}")
    (ground / "lora" / "optimizer.pt").write_bytes(b"x")
    other = make_tiny_qwen2(ground / "other", seed=9)
    warnings = run_json("lora", "--base", str(other), "--no-canary")["warnings"]
    assert any("tokenizer.json" in words and "base's tokenizer" in words for words in warnings)
    assert any("is the base on board" in words for words in warnings)


def test_a_dry_run_registers_nothing(ground):
    serve_v1()
    for use in ("merge", "beside"):
        assert run_json("lora", "--adapter", use, "--dry-run")["dry_run"]
    with Depot.open(Path("depot")) as depot:
        assert len(depot.updates("SAT-1")) == 1
        assert len(depot.releases()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora"], "no base for lora: no report"),
        (["lora", "--base", "none"], "cannot fly without a base"),
        (["lora", "--base", "wide"], "the adapter is for"),
        (["lora", "--base", "model.gguf"], "a GGUF file"),
        (["v1", "--adapter", "merge"], "no adapter"),
        (["lora", "--adapter", "both"], "neither beside nor merge"),
        (["dora", "--base", "v1"], "DoRA"),
        (["pickle", "--base", "v1"], "a pickle"),
        (["empty", "--base", "v1"], "weights are not there"),
        (["wild", "--base", "v1"], "not finite"),
        (["lora", "--base", "int4", "--adapter", "merge"], "4-bit codes, of whose steps"),
    ],
)
def test_what_cannot_fly_is_refused_with_a_hint(ground, words, said):
    make_tiny_qwen2(ground / "wide", seed=1, hidden=64)
    make_tiny_gguf(ground / "model.gguf", seed=1)
    make_tiny_adapter(ground / "dora", ground / "v1", seed=2, use_dora=True)
    for name in ("pickle", "empty"):
        make_tiny_adapter(ground / name, ground / "v1", seed=2)
        (ground / name / "adapter_model.safetensors").unlink()
    (ground / "pickle" / "adapter_model.bin").write_bytes(b"PK\x03\x04")
    make_tiny_adapter(ground / "wild", ground / "v1", seed=2, gain=float("inf"))
    quantize(plan_quantize(scan_release(ground / "v1"), format_name="int4", group_columns=32), ground / "int4")
    code, _, err = run(*words, "--no-canary")
    assert code == 3, err
    text = " ".join(err.split())
    assert said in text
    assert "hint:" in text


def test_a_model_that_lies_in_an_adapter_is_a_model(ground):
    (ground / "v1" / "adapter_config.json").write_text(json.dumps({}))
    assert run_json("v1", "--no-canary")["installed_bytes"] > 50_000
