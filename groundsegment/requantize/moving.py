"""All codes of a model moved towards a new one, matrix by matrix, each move for more than its bits cost.

The loss is the divergence of the next-token probabilities from the new model's, in nats a token, as its quadratic
model sees it: a row's curvature is its sensitivity times the second moments of the inputs (Kronecker factors of the
Fisher information). So one price, in nats a token for a bit, is right for every row of every layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundsegment.requantize.descent import Terms, descend
from groundsegment.requantize.feedback import damped, feed_forward
from groundsegment.requantize.grid import Codes, Grid
from groundsegment.requantize.language_model import Statistics
from groundsegment.requantize.rates import Prices
from groundsegment.requantize.thinning import thin

Weights = Callable[[str], NDArray[np.float32]]
OnMatrix = Callable[[str], None]

# A row whose outputs seem to matter less than a hundredth of the matrix's mean was not seen enough.
_SENSITIVITY_SHARE_MIN = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What does not change while codes move.

    Attributes:
        grid: the base's.
        base: the base's codes.
        statistics: of the new model on calibration text.
        new: the new model's weights of a matrix, (R, C).
        old: those of the float model that the base was made of, where it is known.
    """

    grid: Grid
    base: Mapping[str, Codes]
    statistics: Statistics
    new: Weights
    old: Weights | None = None

    def drift(self, name: str) -> Tensor | None:
        """Return how far the new model went from the old one, (C, R)."""
        return None if self.old is None else _across(self.new(name) - self.old(name))


def calibrate(grid: Grid, new: Weights, statistics: Statistics, on_matrix: OnMatrix | None = None) -> dict[str, Codes]:
    """Quantize a model on a grid by GPTQ, whatever it costs to send."""
    codes = {}
    for name in grid.scales:
        weights = new(name)
        steps = grid.steps(name, weights.shape[1])
        chosen = feed_forward(
            _across(weights), _across(steps), damped(statistics.inputs[name]), low=grid.low, high=grid.high
        )
        codes[name] = _codes(chosen)
        if on_matrix:
            on_matrix(name)
    return codes


def move_by_layer(
    situation: Situation,
    codes: Mapping[str, Codes],
    price: float,
    *,
    tilt: float = 1.0,
    like: Mapping[str, Codes] | None = None,
    on_matrix: OnMatrix | None = None,
) -> dict[str, Codes]:
    """Make one pass by each layer's own error: what its outputs lose against the new weights.

    Args:
        situation: what stays.
        codes: to begin with.
        price: nats a token for a bit.
        tilt: how far to aim along the way from old to new weights; 1 is the new ones.
        like: codes that say what bits cost; those to begin with if left out.
        on_matrix: told after each matrix.
    """

    def gradient_of(name: str, start: Tensor, steps: Tensor, hessian: Tensor) -> Tensor:
        return hessian @ (start * steps - _across(situation.new(name)) - _overshoot(situation, name, tilt))

    return _move(situation, codes, gradient_of, price, like=like or codes, on_matrix=on_matrix)


def move_by_model(
    situation: Situation,
    codes: Mapping[str, Codes],
    gradients: Mapping[str, Tensor],
    price: float,
    *,
    caution: float,
    tilt: float = 1.0,
    like: Mapping[str, Codes] | None = None,
    on_matrix: OnMatrix | None = None,
) -> dict[str, Codes]:
    """Make one pass by the whole model's gradient.

    Args:
        situation: what stays.
        codes: what the gradients were taken at.
        gradients: of the divergence by the weights, (R, C).
        price: nats a token for a bit.
        tilt: how far to aim along the way from old to new weights; 1 is the new ones.
        like: codes that say what bits cost; those the gradients were taken at if left out.
        caution: curvature is taken this much larger: all matrices move at once, on gradients of few tokens.
        on_matrix: told after each matrix.
    """

    def gradient_of(name: str, _start: Tensor, _steps: Tensor, hessian: Tensor) -> Tensor:
        rows = caution * _sensitivity(situation.statistics, name)
        gradient = (gradients[name] / rows[:, None]).T.contiguous()
        if tilt != 1:
            gradient -= hessian @ _overshoot(situation, name, tilt) / caution
        return gradient

    return _move(situation, codes, gradient_of, price / caution, like=like or codes, on_matrix=on_matrix)


def round_on_grid(situation: Situation) -> dict[str, Codes]:
    """Round the new model to nearest on the base's grid."""
    grid, codes = situation.grid, {}
    for name in situation.base:
        weights = situation.new(name)
        nearest = np.rint(weights / grid.steps(name, weights.shape[1]))
        codes[name] = np.clip(nearest, grid.low, grid.high).astype(np.int8)
    return codes


def move_thinned(
    situation: Situation, rounded: Mapping[str, Codes], codes: Mapping[str, Codes], price: float
) -> dict[str, Codes]:
    """Return the base moved by some of the moves of rounding to nearest, of the matrices of `codes`."""
    grid, statistics = situation.grid, situation.statistics
    return {
        name: thin(
            rounded[name],
            situation.base[name],
            inputs=torch.diagonal(statistics.inputs[name]).numpy(),
            outputs=statistics.sensitivity[name].numpy(),
            steps=grid.steps(name, rounded[name].shape[1]),
            price=price,
            num_bits=grid.num_bits,
            seed=name,
        )
        for name in codes
    }


def progress(situation: Situation, codes: Mapping[str, Codes]) -> float:
    """Return how much of the way from the old to the new model codes have gone, as the divergence sees it.

    Perplexity falls with the way, divergence with the square of what is left of it: a price on bits makes moves stop
    short of the end, which costs little of the one and much of the other. Hence the tilt.
    """
    gone, whole = 0.0, 0.0
    for name, moved in codes.items():
        drift = situation.drift(name)
        assert drift is not None
        slope = damped(situation.statistics.inputs[name]) @ drift * _sensitivity(situation.statistics, name)
        steps = situation.grid.steps(name, moved.shape[1])
        gone += float((_across((moved.astype(np.float32) - situation.base[name]) * steps) * slope).sum())
        whole += float((drift * slope).sum())
    return gone / max(whole, 1e-30)


def _overshoot(situation: Situation, name: str, tilt: float) -> Tensor:
    drift = situation.drift(name) if tilt != 1 else None
    return torch.zeros(()) if drift is None else (tilt - 1) * drift


def _move(
    situation: Situation,
    codes: Mapping[str, Codes],
    gradient_of: Callable[[str, Tensor, Tensor, Tensor], Tensor],
    price: float,
    *,
    like: Mapping[str, Codes],
    on_matrix: OnMatrix | None,
) -> dict[str, Codes]:
    """Descend in one matrix after the other; `gradient_of` gets name, codes, steps and curvature, all (C, R)."""
    prices, moved = Prices(situation.grid.num_bits), {}
    for name, there in codes.items():
        start, steps = _across(there), _across(situation.grid.steps(name, there.shape[1]))
        hessian = damped(situation.statistics.inputs[name])
        tariff = prices.tariff(like[name], situation.base[name])
        terms = Terms(
            base=_across(situation.base[name]),
            steps=steps,
            hessian=hessian,
            price=price / _sensitivity(situation.statistics, name),
            bits=torch.from_numpy(tariff.bits),
            places=torch.from_numpy(tariff.columns)[:, None] + torch.from_numpy(tariff.rows),
            low=situation.grid.low,
            high=situation.grid.high,
        )
        descend(start, gradient_of(name, start, steps, hessian), terms)
        moved[name] = _codes(start)
        prices.learn(moved[name], situation.base[name])
        if on_matrix:
            on_matrix(name)
    return moved


def _sensitivity(statistics: Statistics, name: str) -> Tensor:
    values = statistics.sensitivity[name]
    return values.clamp_min(max(float(values.mean()) * _SENSITIVITY_SHARE_MIN, 1e-30))


def _across(values: NDArray[np.generic]) -> Tensor:
    """Return (R, C) as float32 (C, R), contiguous: a column's weights side by side."""
    return torch.from_numpy(np.ascontiguousarray(values.T, dtype=np.float32))


def _codes(values: Tensor) -> Codes:
    return np.ascontiguousarray(values.T.to(torch.int8).numpy())
