"""The parts of requantization: feedback, descent, prices, values left as floats, texts, the record of stages."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groundsegment.errors import InputError
from groundsegment.models.bfloat16 import from_bfloat16, to_bfloat16
from groundsegment.requantize.candidate import Candidate
from groundsegment.requantize.descent import Terms, descend
from groundsegment.requantize.feedback import damped, feed_forward
from groundsegment.requantize.floats import keep_what_does_not_pay
from groundsegment.requantize.grid import Grid
from groundsegment.requantize.keeping import Keeper
from groundsegment.requantize.rates import Prices, bits_delta_bytes, delta_bytes, ordered
from groundsegment.requantize.text import read_sequences
from groundsegment.requantize.thinning import thin
from groundsegment.requantize.walking import Lean, Step, Walk
from protocol.codec import streams
from tests.fakes.models import write_tiny_tokenizer
from tests.fakes.texts import write_text

LOW, HIGH = -8, 7


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def problem(*, columns=96, rows=24, seed=0):
    """Return weights and steps, transposed, and a Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    inputs = draw(512, columns // 4) @ draw(columns // 4, columns) + 0.5 * draw(512, columns)
    inputs *= torch.exp(0.5 * draw(columns))
    weights = 0.05 * draw(columns, rows)
    steps = (weights.abs().amax(0) / (HIGH + 0.5)).expand(columns, rows).contiguous()
    return weights, steps, damped(inputs.T @ inputs / 512)


def output_error(codes, steps, weights, hessian):
    error = codes * steps - weights
    return float((error * (hessian @ error)).sum())


def terms(base, steps, hessian, price=0.0):
    nothing = np.zeros((2, 2), np.int8)
    return Terms(
        base=base,
        steps=steps,
        hessian=hessian,
        price=torch.full((base.shape[1],), price),
        bits=torch.from_numpy(Prices(4).tariff(nothing, nothing).bits),
        places=torch.zeros_like(base),
        low=LOW,
        high=HIGH,
    )


def test_feedback_over_independent_inputs_is_rounding_to_nearest():
    weights, steps, _ = problem()

    codes = feed_forward(weights, steps, torch.eye(len(weights)), low=LOW, high=HIGH)

    assert torch.equal(codes, torch.clamp(torch.round(weights / steps), LOW, HIGH))


def test_feedback_is_what_its_definition_says():
    weights, steps, hessian = problem(columns=80)

    codes = feed_forward(weights, steps, hessian, low=LOW, high=HIGH)

    # Column by column, everything after it remade from the inverse of what is left: slow, and no Cholesky factor.
    left, inverse = weights.double().clone(), torch.linalg.inv(hessian.double())
    for column in range(len(weights)):
        code = torch.clamp(torch.round(left[column] / steps[column]), LOW, HIGH)
        assert (code == codes[column]).double().mean() > 0.9  # float32 may round a tie the other way
        error = (left[column] - codes[column] * steps[column]) / inverse[column, column]
        left -= inverse[:, column, None] * error
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]


def test_feedback_loses_less_than_rounding():
    weights, steps, hessian = problem()

    calibrated = feed_forward(weights, steps, hessian, low=LOW, high=HIGH)
    rounded = torch.clamp(torch.round(weights / steps), LOW, HIGH)

    assert output_error(calibrated, steps, weights, hessian) < 0.7 * output_error(rounded, steps, weights, hessian)


@pytest.mark.parametrize("price", [0.0, 1e-6, 1e-4])
def test_a_pass_never_makes_loss_and_bits_larger_and_keeps_the_gradient_true(price):
    weights, steps, hessian = problem()
    base = torch.clamp(torch.round(weights / steps), LOW, HIGH)
    target = weights + 0.2 * steps * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    codes, given = base.clone(), terms(base, steps, hessian, price)
    gradient = hessian @ (codes * steps - target)

    def total():
        bits = given.bits[(codes - base).long() + 15]
        return 0.5 * output_error(codes, steps, target, hessian) + float((given.price * bits).sum())

    totals = [total()]
    for _ in range(3):
        descend(codes, gradient, given)
        totals.append(total())
        assert torch.allclose(gradient, hessian @ (codes * steps - target), atol=1e-4)
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < totals[0]
    assert float(codes.min()) >= LOW
    assert float(codes.max()) <= HIGH


def test_without_a_price_descent_ends_below_feedback():
    weights, steps, hessian = problem()
    calibrated = feed_forward(weights, steps, hessian, low=LOW, high=HIGH)
    codes = torch.clamp(torch.round(weights / steps), LOW, HIGH)
    gradient = hessian @ (codes * steps - weights)

    while descend(codes, gradient, terms(codes.clone(), steps, hessian)):
        pass

    assert output_error(codes, steps, weights, hessian) < output_error(calibrated, steps, weights, hessian)


def test_where_nothing_pays_nothing_moves():
    weights, steps, hessian = problem()
    base = torch.clamp(torch.round(weights / steps), LOW, HIGH)
    codes = base.clone()

    assert descend(codes, hessian @ (codes * steps - weights), terms(base, steps, hessian, price=1e6)) == 0
    assert torch.equal(codes, base)


def test_moves_that_no_longer_pay_are_taken_back():
    weights, steps, hessian = problem()
    base = torch.clamp(torch.round(weights / steps), LOW, HIGH)
    codes = base.clone()
    descend(codes, hessian @ (codes * steps - weights), terms(base, steps, hessian))
    moved = int((codes != base).sum())

    descend(codes, hessian @ (codes * steps - weights), terms(base, steps, hessian, price=1e-3))

    assert int((codes != base).sum()) < moved / 2


@pytest.mark.parametrize("share", [0.002, 0.03, 0.3])
def test_the_estimate_is_what_the_coder_makes_of_it(share):
    rng = np.random.default_rng(0)
    old = np.clip(np.rint(3 * rng.standard_normal((512, 1024))), LOW, HIGH).astype(np.int8)
    moves = rng.choice([-1, 0, 1], old.shape, p=[share / 2, 1 - share, share / 2]).astype(np.int8)
    new = np.clip(old + moves, LOW, HIGH)

    coded = streams.encode((new - old).ravel().view(np.uint8))

    # The coder here sees the differences alone; given the old code they take a little less.
    assert 0.93 < delta_bytes({"w": new}, {"w": old}) / len(coded.data) < 1.02


def test_changes_that_keep_to_busy_rows_and_columns_cost_less():
    rng = np.random.default_rng(0)
    old = np.zeros((512, 512), np.int8)
    anywhere, gathered = old.copy(), old.copy()
    anywhere.ravel()[rng.choice(old.size, 4000, replace=False)] = 1
    places = rng.choice(64 * 128, 4000, replace=False)
    gathered[8 * (places // 128), 4 * (places % 128)] = 1

    tariff = Prices(4).tariff(gathered, old)

    assert tariff.rows[0] < -2 < 1 < tariff.rows[1]
    assert tariff.columns[0] < -1 < 1 < tariff.columns[1]
    assert delta_bytes({"w": gathered}, {"w": old}) < 0.6 * delta_bytes({"w": anywhere}, {"w": old})


def test_a_rare_difference_costs_more_and_no_difference_is_free():
    old = np.zeros((64, 64), np.int8)
    new = old.copy()
    new[0, :8], new[1, 0] = 1, 3
    bits = Prices(4).tariff(new, old).bits

    assert delta_bytes({"w": old}, {"w": old}) == 0
    assert bits[15] < 0.1 < bits[16] < bits[18] < bits[15 - 3]


def test_bfloat16_bits_are_ordered_as_their_values():
    values = np.array([-3e38, -2.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1.0078125, 3e38], np.float32)

    order = ordered(to_bfloat16(values))

    assert (np.diff(order) >= 0).all()
    assert order[7] - order[6] == 1
    assert order[3] == order[4]


def test_values_that_matter_are_sent_exactly_and_others_stay():
    rng = np.random.default_rng(0)
    old = to_bfloat16(rng.standard_normal((64, 128)).astype(np.float32))
    new = to_bfloat16(from_bfloat16(old) + 0.01 * rng.standard_normal((64, 128)).astype(np.float32))
    importance = np.ones((64, 128), np.float32)
    importance[10] = 1e6

    chosen = keep_what_does_not_pay(new, old, importance=importance, price=1e-3)

    assert np.isin(chosen, [new, old]).all()
    assert (chosen[10] == new[10]).mean() > 0.9
    assert (np.delete(chosen, 10, 0) == np.delete(old, 10, 0)).all()
    assert 0 < bits_delta_bytes(chosen, old) < bits_delta_bytes(new, old) / 10
    free = keep_what_does_not_pay(new, old, importance=importance, price=1e-30)
    assert np.array_equal(free, new)


def test_sequences_are_spread_over_the_text(tmp_path):
    write_tiny_tokenizer(tmp_path)
    path = write_text(tmp_path / "text.txt")
    all_rows = read_sequences(path, tmp_path, num_tokens=10**6, length=16)

    some = read_sequences(path, tmp_path, num_tokens=64, length=16)

    assert some.shape == (4, 16)
    assert np.array_equal(some[[0, -1]], all_rows[[0, -1]])
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        read_sequences(path, tmp_path / "elsewhere", num_tokens=64, length=16)


def test_a_record_is_for_one_command_and_goes_when_it_succeeds(tmp_path):
    out = tmp_path / "out"

    def interrupted(stage):
        with Keeper(out, "one") as keeper:
            stage(keeper)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda keeper: keeper.save("stage", {"a": np.arange(3), "b": np.array("name")}, {"price": 1.5}))
    found = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda keeper: found.append(keeper.load("stage")))
    kept, note = found[0]
    assert note == {"price": 1.5}
    assert kept["a"].tolist() == [0, 1, 2]
    assert str(kept["b"]) == "name"
    with Keeper(out, "other") as keeper:  # another command
        assert keeper.load("stage") is None
    assert list(tmp_path.iterdir()) == []


def test_thinned_moves_are_fewer_longer_and_true_on_average():
    rng = np.random.default_rng(0)
    base = rng.integers(-100, 100, (256, 512)).astype(np.int8)
    rounded = (base + rng.choice([0, 1], base.shape, p=[0.9, 0.1])).astype(np.int8)
    outputs = np.ones(256, np.float32)
    outputs[:128] = 100
    given = {"inputs": np.ones(512, np.float32), "outputs": outputs, "steps": np.ones(base.shape, np.float32)}

    moved = [
        thin(rounded, base, **given, price=price, num_bits=8, seed="w").astype(int) - base for price in (0, 0.7, 8.0)
    ]

    assert np.array_equal(moved[0], rounded.astype(int) - base)
    assert [np.abs(moves[:128]).max() for moves in moved] == [1, 1, 1]
    assert [np.abs(moves[128:]).max() for moves in moved] == [1, 4, 14]
    counts = [np.count_nonzero(moves) for moves in moved]
    assert counts[0] > 1.4 * counts[1] > 1.4 * counts[2]
    for moves in moved[1:]:
        assert moves.sum() == pytest.approx(moved[0].sum(), rel=0.05)


def walk_at_eight_bits(tmp_path, divergences):
    """A walk from a base of one matrix, rounded; steps are told apart by their sizes."""
    grid = Grid(num_bits=8, scales={"w": to_bfloat16(np.full((4, 1), 0.01, np.float32))})
    base = Candidate(grid=grid, codes={"w": np.zeros((4, 32), np.int8)}, others={})
    weights = np.zeros((4, 32), np.float32)
    weights[0, 0] = 0.01
    floats = SimpleNamespace(weight=lambda _name: weights)
    work = SimpleNamespace(base=base, floats=floats, old_weight=None)
    walk = Walk(work, None, np.zeros((2, 8), np.int64), num_parts=1, scratch=tmp_path)
    walk._divergence = lambda step: divergences[step.size_bytes]
    return walk


@pytest.mark.parametrize(("thinned_bytes", "chosen_bytes"), [(90, 90), (0, 70)])
def test_where_moves_cannot_be_thinned_to_a_size_descent_is_asked(tmp_path, thinned_bytes, chosen_bytes):
    walk = walk_at_eight_bits(tmp_path, {0: 0.5, 70: 0.4, 90: 0.6})

    def aim(lean):
        size = 70 if lean.is_descent else thinned_bytes
        return Step(candidate=lean.at, price=1.0, size_bytes=size)

    assert walk.start(aim).size_bytes == chosen_bytes


def test_descent_at_a_price_goes_on_from_its_last_pass_and_thinning_takes_one(tmp_path, monkeypatch):
    walk = walk_at_eight_bits(tmp_path, {})
    seen = []

    def at_price(lean, *, price, after=None):
        seen.append(after)
        return Step(candidate=lean.at, price=price, size_bytes=len(seen))

    monkeypatch.setattr(walk, "at_price", at_price)
    base = walk.start(lambda lean: Step(candidate=lean.at, price=1.0, size_bytes=1)).candidate
    assert walk.settled(Lean(at=base), price=1.0).size_bytes == 3
    assert [step.size_bytes if step else None for step in seen] == [None, 1, 2]
    assert walk.settled(Lean(at=base, rounded={}), price=1.0).size_bytes == 4
