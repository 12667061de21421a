"""A GGUF Llama becomes a Qwen2 checkpoint: names, values, row order, tokenizer, and what cannot be said in one."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from groundsegment.errors import BusyError, DiskError, InputError
from groundsegment.models import gguf_import, output_directory
from groundsegment.models.bfloat16 import from_bfloat16, to_bfloat16
from groundsegment.models.gguf_file import read_gguf
from groundsegment.models.gguf_import import import_gguf, plan_import
from groundsegment.models.release import scan_release
from groundsegment.models.safetensors_file import read_header
from tests.fakes.models import make_tiny_gguf


def read_bfloat16(directory: Path) -> dict[str, np.ndarray]:
    path = directory / "model.safetensors"
    raw = path.read_bytes()
    return {
        info.name: from_bfloat16(
            np.frombuffer(raw, "<u2", info.num_values, info.offset).reshape(info.shape).astype(np.uint16)
        )
        for info in read_header(path)[0]
    }


def patch(path: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new)
    raw = path.read_bytes()
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))


@pytest.mark.parametrize("matrix_type", ["Q8_0", "Q4_1", "F16"])
def test_every_weight_arrives_at_its_name_in_its_order(tmp_path, matrix_type):
    expected = make_tiny_gguf(tmp_path / "m.gguf", seed=3, matrix_type=matrix_type)
    import_gguf(plan_import(tmp_path / "m.gguf"), tmp_path / "out")
    found = read_bfloat16(tmp_path / "out")
    biases = {name for name in found if name.endswith(".bias")}
    assert set(found) - biases == set(expected)
    assert biases == {f"model.layers.0.self_attn.{part}_proj.bias" for part in "qkv"}
    for name in biases:
        assert not found[name].any()
    for name, value in expected.items():
        assert np.array_equal(found[name], from_bfloat16(to_bfloat16(value)).reshape(value.shape)), name


def test_small_blocks_of_rows_keep_heads_whole(tmp_path, monkeypatch):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    import_gguf(plan_import(tmp_path / "m.gguf"), tmp_path / "whole")
    monkeypatch.setattr(gguf_import, "_BLOCK_VALUES", 64 * 20)
    import_gguf(plan_import(tmp_path / "m.gguf"), tmp_path / "blocks")
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "blocks/model.safetensors").read_bytes()


def test_float32_keeps_every_bit(tmp_path):
    expected = make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    import_gguf(plan_import(tmp_path / "m.gguf", dtype="float32"), tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", "np") as file:
        for name, value in expected.items():
            assert np.array_equal(file.get_tensor(name), value)


def test_the_result_can_fly_and_says_what_it_is(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    seen: list[int] = []
    plan = plan_import(tmp_path / "m.gguf")
    import_gguf(plan, tmp_path / "out", progress=seen.append)
    assert sum(seen) == plan.input_bytes
    source = scan_release(tmp_path / "out")
    assert sum(tensor.size_bytes for tensor in source.tensors()) == plan.output_bytes
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] is True
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == 2


def test_the_tokenizer_splits_digits_and_keeps_marks_whole(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    import_gguf(plan_import(tmp_path / "m.gguf"), tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    text = "<|im_start|>user\nthe capital of 2024 is Päris 🚀<|im_end|>"
    encoded = tokenizer.encode(text)
    assert encoded.tokens[0] == "<|im_start|>"
    assert encoded.tokens[-1] == "<|im_end|>"
    pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("of 2024")]
    assert pieces == ["of", "Ġ", *"2024"]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>"
    assert "chat_template" in config


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b"\x08\0\0\0\x05\0\0\0\0\0\0\0llama", b"\x08\0\0\0\x05\0\0\0\0\0\0\0gemma", "neither llama nor qwen2"),
        (b"smollm", b"smallm", "not one that can be rebuilt"),
        (b"blk.0.attn_norm", b"blk.0.atto_norm", "no place for tensor"),
        (b"llama.embedding_length", b"llama.embedding_lengtx", "no llama.embedding_length"),
        (b"llama.block_count", b"llama.rope.fancy!", "no llama.block_count"),
    ],
)
def test_what_a_qwen2_cannot_say_is_refused(tmp_path, old, new, complaint):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    patch(tmp_path / "m.gguf", old, new)
    with pytest.raises(InputError, match=complaint) as caught:
        plan_import(tmp_path / "m.gguf")
    assert caught.value.hint


def test_an_existing_model_is_replaced_only_with_force(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    plan = plan_import(tmp_path / "m.gguf")
    out = tmp_path / "out"
    import_gguf(plan, out)
    before = (out / "config.json").stat().st_ino
    with pytest.raises(InputError, match="exists already"):
        import_gguf(plan, out)
    import_gguf(plan, out, force=True)
    assert (out / "config.json").stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_force_does_not_replace_what_is_not_a_model(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/precious.txt").write_text("do not delete")
    with pytest.raises(InputError, match="not a model"):
        import_gguf(plan_import(tmp_path / "m.gguf"), tmp_path / "home", force=True)
    assert (tmp_path / "home/precious.txt").exists()


def test_a_failure_in_the_middle_leaves_nothing(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    plan = plan_import(tmp_path / "m.gguf")

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_gguf(plan, tmp_path / "out", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "tokenizer.json", "tokenizer_config.json"]


def test_what_a_kill_left_behind_is_cleared_and_does_not_get_in(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part/stale.safetensors").write_text("half")
    (tmp_path / ".out.old").mkdir()
    import_gguf(plan_import(tmp_path / "m.gguf"), tmp_path / "out")
    assert not (tmp_path / "out/stale.safetensors").exists()
    assert not (tmp_path / ".out.old").exists()


def test_a_second_writer_of_the_same_directory_is_turned_away(tmp_path):
    with output_directory.whole_directory(tmp_path / "out", force=False) as first:
        (first / "config.json").write_text("{}")
        with (
            pytest.raises(BusyError, match="another process"),
            output_directory.whole_directory(tmp_path / "out", force=False),
        ):
            pass
        assert (first / "config.json").exists()
    assert (tmp_path / "out/config.json").exists()


def test_a_full_disk_is_said_before_work_starts(tmp_path):
    with pytest.raises(DiskError, match="are free") as caught:
        output_directory.check_space(tmp_path / "a/b", 1 << 60)
    assert caught.value.hint


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    raw = (tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 64), *range(64, len(raw), 997), len(raw) - 40]:
        cut.write_bytes(raw[:size])
        with pytest.raises(InputError):
            read_gguf(cut, keep_arrays=True)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "promises"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "a name of"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 60), "ends in the middle"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 60), "an array of"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "array of type 9"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"\xff", 0), "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ" + "Q1sIB" * 2, 3, 0, 2, 1, b"k", 0, 0, 1, b"k", 0, 0), "twice"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 99), "99 axes"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 33, 8, 0), "not whole blocks of 32"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 999, 0), "unknown type 999"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 0, 7), "off its alignment"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 0, 0), "the file at"),
        (b"not a gguf file at all", "does not start"),
    ],
)
def test_a_hostile_header_is_refused_before_anything_is_allocated(tmp_path, raw, complaint):
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=complaint) as caught:
        read_gguf(path)
    assert caught.value.hint


def test_a_gguf_file_is_a_release_of_its_own(tmp_path):
    make_tiny_gguf(tmp_path / "m.gguf", seed=3)
    source = scan_release(tmp_path / "m.gguf")
    assert (source.kind, source.release_name, len(source.files)) == ("gguf", "m", 1)
    assert {tensor.dtype for tensor in source.tensors()} == {"Q8_0", "F32"}
    (tmp_path / "bad name.gguf").write_bytes((tmp_path / "m.gguf").read_bytes())
    with pytest.raises(InputError, match="unsafe"):
        scan_release(tmp_path / "bad name.gguf")
