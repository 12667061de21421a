"""The release in the making: a model whose matrices hold what codes stand for, measured and moved as it would fly.

Holds the new model in torch and puts any release of its shape into it: the new weights themselves, codes on the
base's grid, codes on a grid of their own. What is measured is what the release's bytes decode to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundsegment.models.quantize import QuantizePlan
from groundsegment.models.release import ReleaseSource
from groundsegment.requantize.afresh import FloatModel
from groundsegment.requantize.candidate import Candidate
from groundsegment.requantize.floats import keep_what_does_not_pay
from groundsegment.requantize.grid import Codes, Grid, as_float32, read_tensor
from groundsegment.requantize.language_model import LanguageModel, Sequences, Statistics
from groundsegment.requantize.rates import bits_delta_bytes, delta_bytes, share_changed
from groundsegment.requantize.report import Point

_SAMPLED_ROWS = 16


class Workpiece:
    """The new model, the base, and any candidate between them.

    Args:
        plan: the layout.
        base: the release on board.
        start: its grid and codes.
        old: of the float model that the base was made of, where it is known.
    """

    def __init__(
        self,
        plan: QuantizePlan,
        base: ReleaseSource,
        start: tuple[Grid, dict[str, Codes]],
        old: QuantizePlan | None = None,
    ) -> None:
        self.model = LanguageModel(plan.source.path, plan.matrices)
        self.floats = FloatModel(plan)
        self.old_weight = None if old is None else FloatModel(old).weight
        self._plan = plan
        there = {tensor.name: tensor for tensor in base.tensors()}
        self.new_others = self.floats.others()
        old_others = {info.name: read_tensor(base, there[info.name]) for info in plan.others}
        self.base = Candidate(grid=start[0], codes=start[1], others=old_others)

    def show_new(self) -> LanguageModel:
        """Return the model with the new model's weights."""
        for name in self.base.codes:
            self.model.weight(name).copy_(torch.from_numpy(self.floats.weight(name)))
        self._show_others(self.new_others)
        return self.model

    def show(self, candidate: Candidate) -> LanguageModel:
        """Return the model with a candidate's weights."""
        for name, codes in candidate.codes.items():
            steps = candidate.grid.steps(name, codes.shape[1])
            self.model.weight(name).copy_(torch.from_numpy(codes * steps))
        self._show_others(candidate.others)
        return self.model

    def size_bytes(self, candidate: Candidate) -> int:
        """Estimate the delta to the base."""
        size = delta_bytes(candidate.codes, self.base.codes)
        for name, scales in candidate.grid.scales.items():
            size += bits_delta_bytes(scales, self.base.grid.scales[name])
        return size + sum(_delta(value, self.base.others[name]) for name, value in candidate.others.items())

    def measure(self, name: str, candidate: Candidate, text: "Text", price: float = 0.0) -> Point:
        """Return what a candidate costs and what it is worth."""
        perplexity, divergence = self.show(candidate).evaluate(text.sequences, text.teacher)
        return Point(
            name=name,
            delta_bytes=self.size_bytes(candidate),
            perplexity=perplexity,
            divergence=divergence,
            changed=share_changed(candidate.codes, self.base.codes),
            price=price,
        )

    def arrays_of(self, candidate: Candidate) -> dict[str, NDArray[Any]]:
        """Return a candidate on the base's grid as arrays by name."""
        assert candidate.grid is self.base.grid
        return {f"codes/{name}": value for name, value in candidate.codes.items()} | {
            f"others/{name}": value for name, value in candidate.others.items()
        }

    def candidate_of(self, arrays: Mapping[str, NDArray[Any]]) -> Candidate:
        """Undo `arrays_of`."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"codes": {}, "others": {}}
        for key, value in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        return Candidate(grid=self.base.grid, codes=parts["codes"], others=parts["others"])

    def others_worth(self, statistics: Statistics, price: float) -> dict[str, NDArray[Any]]:
        """Return the values of tensors that are not quantized, the base's where new ones do not pay."""
        return {name: self._worth(name, statistics, price) for name in self.new_others}

    def others_sample_bytes(self, statistics: Statistics, price: float) -> int:
        """Estimate the delta of what `others_worth` would choose, from some of the rows."""
        total = 0
        for name in self.new_others:
            rows = slice(None, None, _SAMPLED_ROWS if len(self.new_others[name]) >= _SAMPLED_ROWS**2 else 1)
            sample = _delta(self._worth(name, statistics, price, rows), self.base.others[name][rows])
            total += sample * (rows.step or 1)
        return total

    def _worth(self, name: str, statistics: Statistics, price: float, rows: slice = slice(None)) -> NDArray[Any]:
        new, old = self.new_others[name][rows], self.base.others[name][rows]
        importance = statistics.others.get(name)
        if importance is None or new.dtype != np.uint16 or price <= 0:
            return new
        return keep_what_does_not_pay(new, old, importance=importance[rows].numpy(), price=price)

    def _show_others(self, values: Mapping[str, NDArray[Any]]) -> None:
        for info in self._plan.others:
            parameter = self.model.parameters.get(info.name)
            if parameter is not None:
                parameter.data.copy_(torch.from_numpy(as_float32(values[info.name], info.dtype)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Sequences of tokens and what the new model thinks of every next one."""

    sequences: Sequences
    teacher: NDArray[np.float16]


def _delta(new: NDArray[Any], old: NDArray[Any]) -> int:
    if new.dtype == np.uint16:
        return bits_delta_bytes(new, old)
    return 0 if np.array_equal(new, old) else new.nbytes
