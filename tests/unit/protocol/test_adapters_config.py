"""Only plain LoRA is taken; whatever would change the arithmetic is refused by name, known or not."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.adapters.config import CONFIG_SIZE_MAX, LoraConfig
from protocol.adapters.errors import AdapterError
from protocol.adapters.header import read_tensors
from tests.fakes.adapters import CONFIG, bytes_source
from tests.fakes.models import safetensors_header


def decode(**changes):
    return LoraConfig.decode(json.dumps({**CONFIG, **changes}).encode())


def test_what_peft_writes_is_taken():
    assert decode() == LoraConfig(rank=4, scale=4.0)
    assert decode(r=7, lora_alpha=2.5).scale == 2.5 / 7
    assert decode(use_rslora=True, r=8).scale == 16 / math.sqrt(8)
    assert decode(init_lora_weights="gaussian", task_type=None, target_modules="all-linear").rank == 4


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": None}, "peft_type"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"modules_to_save": ["lm_head"]}, "whole layers"),
        ({"rank_pattern": {"q_proj": 8}}, "ranks differ"),
        ({"alpha_pattern": {"q_proj": 8}}, "scales differ"),
        ({"layer_replication": [[0, 2]]}, "repeats layers"),
        ({"trainable_token_indices": [1]}, "tokens"),
        ({"target_parameters": ["mlp.experts"]}, "no linear layers"),
        ({"alora_invocation_tokens": [1, 2]}, "part of a prompt"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed its base"),
        ({"init_lora_weights": "loftq"}, "changed its base"),
        ({"init_lora_weights": ["x"]}, "changed its base"),
        ({"use_of_tomorrow": 1}, "not known here"),
        ({"r": 0}, "r is 0"),
        ({"r": 257}, "r is 257"),
        ({"r": True}, "r is True"),
        ({"r": "4"}, "r is '4'"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"lora_alpha": math.nan}, "lora_alpha"),
        ({"lora_alpha": 1e300}, "lora_alpha"),
        ({"use_rslora": 1}, "use_rslora"),
    ],
)
def test_what_is_no_plain_lora_is_refused_with_its_reason(changes, word):
    with pytest.raises(AdapterError, match=word):
        decode(**changes)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"1", b" " * (CONFIG_SIZE_MAX + 1)])
def test_what_is_no_configuration_is_refused(data):
    with pytest.raises(AdapterError):
        LoraConfig.decode(data)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*CONFIG, "x"]), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists)
    )
)
def test_any_settings_are_taken_or_refused(changes):
    try:
        config = LoraConfig.decode(json.dumps({**CONFIG, **changes}).encode())
    except AdapterError:
        return
    assert math.isfinite(config.scale)


GOOD = safetensors_header({"a": ("BF16", (2, 3)), "b": ("F32", ())}) + bytes(16)


def test_tensors_of_a_file_are_found_where_they_lie():
    tensors = read_tensors(bytes_source(GOOD), "f")
    assert [(t.dtype, t.shape, len(GOOD) - t.offset, t.size_bytes) for t in tensors.values()] == [
        ("BF16", (2, 3), 16, 12),
        ("F32", (), 4, 4),
    ]


def _header(text: str, data: bytes = b"") -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-1],
        GOOD + b"x",
        b"\xff" * 64,
        _header("[]"),
        _header("{"),
        _header('{"a": 1}'),
        _header('{"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}', b"x"),
        _header('{"a": {"dtype": "I8", "shape": [1], "data_offsets": [1, 2]}}', b"xx"),
        _header('{"a": {"dtype": "I8", "shape": [true], "data_offsets": [0, 1]}}', b"x"),
        _header('{"a": {"dtype": "I8", "shape": [-1], "data_offsets": [0, -1]}}', b"x"),
        _header('{"a": {"dtype": ["I8"], "shape": [1], "data_offsets": [0, 1]}}', b"x"),
        _header('{"a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}, "a": 1}', b"x"),
        _header(
            '{"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]},'
            ' "b": {"dtype": "I8", "shape": [2], "data_offsets": [1, 3]}}',
            b"xxx",
        ),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(data):
    with pytest.raises(AdapterError):
        read_tensors(bytes_source(data), "f")
