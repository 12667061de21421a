"""Int8 layers compute what the unpacked layer would, for one row and for many. Slow: imports torch."""

import functools

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_rows", [1, 4, 5, 40])
@pytest.mark.parametrize("has_bias", [True, False])
def test_an_int8_layer_equals_its_unpacked_self(num_rows, has_bias):
    import torch

    from onboard.inference.engines.int8 import Int8Linear

    draw = torch.Generator().manual_seed(num_rows)
    weight = torch.randint(-127, 128, (96, 64), dtype=torch.int8, generator=draw)
    scale = torch.rand(96, generator=draw).add(0.1).bfloat16()
    bias = torch.randn(96, generator=draw).bfloat16() if has_bias else None
    x = torch.randn(1, num_rows, 64, generator=draw).bfloat16()
    exact = x.double() @ weight.double().T * scale.double() + (bias.double() if has_bias else 0)
    got = Int8Linear(weight, scale, bias)(x)
    assert got.shape == (1, num_rows, 96)
    assert (got.double() - exact).abs().max() < 0.01 * exact.abs().max()


def test_int8_layers_of_a_checkpoint_are_kept_and_answer_as_transformers_does(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from groundsegment.models.quantize import plan_quantize, quantize
    from groundsegment.models.release import scan_release
    from onboard.inference.engines.int8 import keep_int8
    from tests.fakes.models import make_tiny_qwen2

    source = scan_release(make_tiny_qwen2(tmp_path / "tiny", seed=3))
    quantize(plan_quantize(source, format_name="int8"), tmp_path / "int8")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    with torch.inference_mode():
        # In float32, so that what differs is the layers and not the rounding of activations.
        load = functools.partial(AutoModelForCausalLM.from_pretrained, tmp_path / "int8", dtype=torch.float32)
        plain, kept = load().eval(), load().eval()
        num_kept = keep_int8(kept)
        expected, got = plain(ids).logits, kept(ids).logits
        expected_one, got_one = plain(ids[:, :1]).logits, kept(ids[:, :1]).logits
    assert num_kept == 14, "two layers of seven"
    assert not any(type(module).__name__ == "Linear" for module in kept.model.layers.modules())
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (got_one - expected_one).abs().max() < 1e-4 * expected_one.abs().max()
