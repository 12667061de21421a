"""What a release may be, and every way in which a directory is refused."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from groundsegment.errors import InputError
from groundsegment.models.release import digest_files, release_digest, scan_release
from tests.fakes.models import make_synthetic_release, make_tiny_qwen2, safetensors_header, write_json


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_qwen2(tmp_path / "tiny", seed=1)


def test_a_model_directory_is_listed_with_its_tensors(tiny):
    source = scan_release(tiny)
    assert [file.name for file in source.files] == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert source.release_name == "tiny"
    tensors = {tensor.name: tensor for tensor in source.tensors()}
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (32, 64)
    raw = (tiny / "model.safetensors").read_bytes()
    norm = tensors["model.norm.weight"]
    assert raw[norm.offset : norm.offset + norm.size_bytes] == bytes.fromhex("803f") * 32


def test_shards_are_taken_in_order_and_strays_are_left_behind(tmp_path):
    directory = make_tiny_qwen2(tmp_path / "m", seed=1, num_shards=3)
    (directory / "consolidated.safetensors").write_bytes((directory / "model-00001-of-00003.safetensors").read_bytes())
    (directory / "README.md").write_text("hello")
    (directory / ".gitattributes").write_text("hello")
    (directory / "onnx").mkdir()
    source = scan_release(directory)
    assert len([file for file in source.files if file.name.endswith(".safetensors")]) == 3
    assert len(list(source.tensors())) == 26
    skipped = {item.name for item in source.skipped}
    assert skipped == {".gitattributes", "README.md", "consolidated.safetensors", "onnx"}


def test_the_digest_is_what_sha256sum_says(tiny):
    seen: list[int] = []
    source = scan_release(tiny)
    files = digest_files(source, seen.append)
    assert sum(seen) == source.size_bytes
    listing = subprocess.run(
        "sha256sum * | sha256sum", shell=True, cwd=tiny, env=os.environ | {"LC_ALL": "C"}, capture_output=True
    )
    assert release_digest(files) == listing.stdout.split()[0].decode()
    assert files[2][2] == hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()


def test_a_file_that_shrinks_after_the_scan_is_noticed(tiny):
    source = scan_release(tiny)
    (tiny / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="size changed"):
        digest_files(source)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "optimizer.pth", "x.ckpt", "x.pkl", "x.joblib"])
def test_pickles_are_refused_by_name(tiny, name):
    (tiny / name).write_bytes(b"anything")
    with pytest.raises(InputError, match="pickle") as caught:
        scan_release(tiny)
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("head", [b"PK\x03\x04rest", b"\x80\x02}q\x00.", b"\x80\x04\x95rest"])
def test_pickles_are_refused_by_content(tiny, head):
    (tiny / "tokenizer.model").write_bytes(head)
    with pytest.raises(InputError, match="pickle"):
        scan_release(tiny)


def test_a_pickle_given_alone_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="pickle"):
        scan_release(path)


@pytest.mark.parametrize(
    ("remove", "complaint"),
    [
        ("config.json", "no config.json"),
        ("model-00002-of-00003.safetensors", "model-00002-of-00003.safetensors"),
        ("model.safetensors.index.json", "neither model.safetensors nor"),
    ],
)
def test_a_missing_file_is_named(tmp_path, remove, complaint):
    directory = make_tiny_qwen2(tmp_path / "m", seed=1, num_shards=3)
    (directory / remove).unlink()
    with pytest.raises(InputError, match=complaint) as caught:
        scan_release(directory)
    assert caught.value.hint


def test_no_weights_at_all_are_refused(tiny):
    (tiny / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        scan_release(tiny)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        scan_release(tmp_path / "nothing")


def test_an_adapter_and_a_directory_of_ggufs_get_their_own_hints(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        scan_release(tmp_path)
    assert "skyload stage" in caught.value.hint
    assert "--base" in caught.value.hint
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError) as caught:
        scan_release(tmp_path)
    assert "model.gguf" in caught.value.hint


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path):
    directory = make_tiny_qwen2(tmp_path / "m", seed=1, num_shards=2)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = index["weight_map"]["model.embed_tokens.weight"]
    write_json(directory / "model.safetensors.index.json", index)
    with pytest.raises(InputError, match=r"model\.norm\.weight is not in"):
        scan_release(directory)


@pytest.mark.parametrize("shard", ["../evil.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_cannot_lead_out_of_the_directory(tmp_path, shard):
    directory = make_tiny_qwen2(tmp_path / "m", seed=1, num_shards=2)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = shard
    write_json(directory / "model.safetensors.index.json", index)
    with pytest.raises(InputError, match="the index names"):
        scan_release(directory)


@pytest.mark.parametrize("name", ["mod el.safetensors", "mödel.safetensors", "a" * 130 + ".safetensors"])
def test_unsafe_names_are_refused(tiny, name):
    (tiny / name).write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="unsafe"):
        scan_release(tiny)


def test_a_link_out_of_the_directory_is_refused(tiny, tmp_path):
    (tmp_path / "elsewhere.json").write_text("{}")
    (tiny / "vocab.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="leads out"):
        scan_release(tiny)


def test_a_dangling_link_and_a_device_are_refused(tiny):
    (tiny / "vocab.json").symlink_to(tiny / "nothing")
    with pytest.raises(InputError, match="link to nothing"):
        scan_release(tiny)
    (tiny / "vocab.json").unlink()
    os.mkfifo(tiny / "vocab.json")
    with pytest.raises(InputError, match="not a regular file"):
        scan_release(tiny)


def test_a_hub_cache_snapshot_is_read_through_its_links(tmp_path):
    real = make_tiny_qwen2(tmp_path / "real", seed=1)
    root = tmp_path / "models--someone--Tiny-Qwen"
    (root / "blobs").mkdir(parents=True)
    snapshot = root / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(real.iterdir())):
        path.rename(root / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    source = scan_release(snapshot)
    assert source.release_name == "Tiny-Qwen"
    assert {tensor.file for tensor in source.tensors()} == {"model.safetensors"}
    assert len(digest_files(source)) == 5
    with pytest.raises(InputError) as caught:
        scan_release(root)
    assert str(snapshot) in caught.value.hint


def test_config_must_be_a_model_config(tiny):
    (tiny / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="not a JSON object"):
        scan_release(tiny)
    (tiny / "config.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="model_type"):
        scan_release(tiny)
    (tiny / "config.json").write_text("{")
    with pytest.raises(InputError, match="not usable JSON"):
        scan_release(tiny)


def test_a_model_that_brings_its_own_code_is_told_that_it_is_not_run(tiny):
    config = json.loads((tiny / "config.json").read_text())
    write_json(tiny / "config.json", config | {"auto_map": {"AutoModel": "modeling.X"}})
    assert any("never run" in item.reason for item in scan_release(tiny).skipped)


def test_a_tensor_beyond_its_file_is_refused(tiny):
    path = tiny / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="the header promises"):
        scan_release(tiny)


def test_a_header_of_garbage_is_refused(tiny):
    (tiny / "model.safetensors").write_bytes(safetensors_header({}) + b"extra")
    with pytest.raises(InputError, match="the header promises"):
        scan_release(tiny)


def test_a_synthetic_release_has_the_size_asked_for_and_many_shards(tmp_path):
    directory = make_synthetic_release(tmp_path / "s", 8 << 20, 7, shard_bytes=2 << 20)
    source = scan_release(directory)
    assert abs(source.size_bytes - (8 << 20)) < 2 << 20
    assert sum(file.name.endswith(".safetensors") for file in source.files) == 8
