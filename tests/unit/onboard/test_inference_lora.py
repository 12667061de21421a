"""An adapter beside its base computes what the merged model would, and nothing at all when it is off. Slow: torch."""

import pytest

from protocol.adapters import base_note
from protocol.adapters.errors import AdapterError
from tests.fakes.adapters import make_tiny_adapter, merged_files
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.updates import write_files

pytestmark = pytest.mark.slow
IDS = [5, 6, 7, 8, 9, 10, 11]


@pytest.fixture(autouse=True)
def _many_engines_in_one_process(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "set_num_interop_threads", lambda count: None)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tmp_path):
    return make_tiny_qwen2(tmp_path / "base", seed=3)


@pytest.fixture
def adapter(tmp_path, base):
    directory = make_tiny_adapter(tmp_path / "lora", base, seed=4)
    (directory / "skyload_adapter.json").write_bytes(base_note.encode(bytes(32)))
    return directory


def loaded(directory, base=None, dtype="float32"):
    from onboard.inference.engines.transformers import TransformersEngine

    engine = TransformersEngine(num_threads=1, dtype=dtype, device="cpu", max_context_tokens=128)
    engine.load(directory, base)
    return engine


def logits(engine, *, is_plain=False):
    from transformers import DynamicCache

    from onboard.inference.engine import Sampling

    cache = DynamicCache(config=engine._model.config)
    return engine._forward(IDS, cache, Sampling(max_tokens=1, is_plain=is_plain))


def read(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_beside_its_base_it_answers_as_the_merged_model_does_but_for_the_rounding_of_weights(tmp_path, base, adapter):
    merged = write_files(tmp_path / "merged", merged_files(read(adapter), read(base)))
    beside, whole, plain = loaded(adapter, base), loaded(merged), loaded(base)
    got, expected, without = logits(beside), logits(whole), logits(plain)
    scale = without.abs().max()
    assert (got - expected).abs().max() < 0.02 * scale
    assert (got - without).abs().max() > 0.2 * scale
    assert (logits(beside, is_plain=True) == without).all()
    assert (logits(beside) == got).all()
    assert "6 adapted" in beside.name


def test_answers_with_and_without_it_take_turns_and_do_not_mix(base, adapter):
    from onboard.inference.engine import Sampling

    def tokens(*engines):
        answers = [
            engine.continue_tokens(IDS, Sampling(max_tokens=6, is_plain=is_plain)) for engine, is_plain in engines
        ]
        turns = [[next(answer) for answer in answers] for _ in range(6)]
        return [list(answer) for answer in zip(*turns, strict=True)]

    both, plain = loaded(adapter, base, "bfloat16"), loaded(base, dtype="bfloat16")
    alone, without = tokens((both, False))[0], tokens((plain, False))[0]
    assert alone != without
    assert tokens((both, False), (both, True), (both, False)) == [alone, without, alone]


def test_an_int8_base_takes_an_adapter(tmp_path, base, adapter):
    from groundsegment.models.quantize import plan_quantize, quantize
    from groundsegment.models.release import scan_release

    quantize(plan_quantize(scan_release(base), format_name="int8"), tmp_path / "int8")
    beside = loaded(adapter, tmp_path / "int8", "bfloat16")
    plain = loaded(tmp_path / "int8", dtype="bfloat16")
    assert "14 int8 layers, 6 adapted" in beside.name
    assert (logits(beside, is_plain=True) == logits(plain)).all()
    assert (logits(beside) != logits(plain)).any()


def test_an_adapter_of_another_base_does_not_load(tmp_path, adapter):
    other = make_tiny_qwen2(tmp_path / "other", seed=3, hidden=64)
    with pytest.raises(AdapterError, match="the adapter is for"):
        loaded(adapter, other)
