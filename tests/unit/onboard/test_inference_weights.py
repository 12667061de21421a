"""Weights in memory: learned once, compared for ever, a flip located; torch's own tensors too."""

import itertools

import pytest

from onboard.inference.weights import READ_SIZE, WeightsFlip, WeightsPart, WeightsWatch, watch_weights


def part(memory, name="w"):
    return WeightsPart(
        name=name, size_bytes=len(memory), read=lambda offset, size: memoryview(memory)[offset : offset + size]
    )


def test_what_has_not_changed_is_right():
    memory = bytearray(READ_SIZE + 5000)
    watch = WeightsWatch([part(memory), part(bytearray(3), "small"), part(bytearray(), "empty")])
    watch.learn()
    assert watch.find_flip() is None
    assert watch.size_bytes == READ_SIZE + 5003


@pytest.mark.parametrize("at", [0, 4097, READ_SIZE, READ_SIZE + 4999])
def test_a_flip_is_located_to_the_bit(at):
    memory = bytearray(READ_SIZE + 5000)
    watch = WeightsWatch([part(bytearray(10), "first"), part(memory, "second")])
    watch.learn()
    memory[at] ^= 64
    assert watch.find_flip() == WeightsFlip(where="second", offset=at // 4096 * 4096, bit=8 * (at % 4096) + 6)


def test_more_than_one_bit_is_located_to_its_leaf():
    memory = bytearray(9000)
    watch = WeightsWatch([part(memory)])
    watch.learn()
    memory[8200:8210] = b"0123456789"
    assert watch.find_flip() == WeightsFlip(where="w", offset=8192, bit=None)


def test_the_watch_takes_its_time_over_everything_and_ends_at_a_flip():
    memory, waits, told = bytearray(3 * READ_SIZE), [], []

    def wait(pause_s):
        waits.append(pause_s)
        if len(waits) == 7:
            memory[2 * READ_SIZE] ^= 1

    watch_weights(WeightsWatch([part(memory)]), told.append, period_s=30, wait=wait)
    assert waits == pytest.approx([10] * 8)  # a third of the period for a third of the bytes
    assert told == [WeightsFlip(where="w", offset=2 * READ_SIZE, bit=0)]


def test_an_engine_that_shows_nothing_is_left_alone():
    watch_weights(WeightsWatch([]), pytest.fail, period_s=1, wait=pytest.fail)
    assert list(itertools.islice(WeightsWatch([]).compare(), 1)) == []


@pytest.mark.slow
def test_tensors_of_torch_are_compared_where_they_lie():
    torch = pytest.importorskip("torch")
    from onboard.inference.engines.transformers import TransformersEngine

    inner = torch.nn.Linear(64, 32)
    model = torch.nn.Sequential(inner, torch.nn.Linear(32, 64).to(torch.bfloat16))
    model.register_module("tied", inner)
    model.register_buffer("scale", torch.arange(4, dtype=torch.int8))
    engine = TransformersEngine(num_threads=1, dtype="auto", device="cpu", max_context_tokens=8)
    engine._model = model
    parts = engine.weights()
    assert sum(part.size_bytes for part in parts) == 4 * (64 * 32 + 32) + 2 * (64 * 32 + 64) + 4
    watch = WeightsWatch(parts)
    watch.learn()
    assert watch.find_flip() is None
    with torch.no_grad():
        model[1].weight.view(torch.int16)[3, 7] ^= 1
    flip = watch.find_flip()
    assert (flip.where, flip.bit) == ("1.weight", 16 * (3 * 32 + 7))
