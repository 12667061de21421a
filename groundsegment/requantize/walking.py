"""The way from the base's codes towards the new model's: steps of which each is a release that could be sent.

At a high price only the moves that gain most for their bits are made; the lower it is, the more pay. A first step knows
each layer's own error alone. Those that refine it take the gradient of the whole model's divergence, on calibration
text that no step before it saw: it knows what the moves so far did, in all layers together. Whether a step was good is
asked of the text after it, where it must lower the divergence; else it is made again, more cautiously, or not at all:
on little text a gradient is mostly noise, and the moves that it likes best are the noisiest.

A step is asked for by its size. The price of a size is found on a sample of the matrices, then on all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from groundsegment.requantize.candidate import Candidate
from groundsegment.requantize.grid import Codes
from groundsegment.requantize.language_model import OnTokens, Sequences, Statistics
from groundsegment.requantize.moving import (
    Situation,
    move_by_layer,
    move_by_model,
    move_thinned,
    progress,
    round_on_grid,
)
from groundsegment.requantize.rates import delta_bytes, share_changed
from groundsegment.requantize.workpiece import Text, Workpiece

_CAUTION_FIRST = 4.0  # all matrices move at once, and none knows of the others
_CAUTION_MIN = 1.0
_TIMID = 4.0  # times as cautious after a step that did harm; half as cautious after one that did not
_TRIES_MAX = 2
_SAMPLED = 8  # one matrix in so many, where there are enough
_PRICE_FIRST = 1e-9
_SEARCH_STEPS = 12
_NEAR = 0.04  # of the size asked for
_TRIES = 9
_TILT_FIRST, _TILT_MAX = 1.4, 2.0
_TOO_FAR = 1.05  # of the way to the new model
# Of the codes, by bits: where rounding to nearest changes more, the base was not rounded to nearest.
_THINNED_MAX = {8: 0.2, 4: 0.12}
_PASSES = 3  # of descent at a price
_JUDGED_TOKENS = 2048  # of calibration text, to tell thinning from descent
_FINE = 8  # bits: rounding does so little harm that there is nothing for descent to mend


@dataclass(frozen=True, slots=True, kw_only=True)
class Lean:
    """The gradient of the divergence at a candidate.

    Attributes:
        at: the candidate.
        gradients: by the matrices' weights; None for each layer's own.
        rounded: the new model rounded to nearest on the base's grid, of whose moves some are made; None for descent.
        divergence: on the text of the gradient, nats a token.
    """

    at: Candidate
    gradients: Mapping[str, Tensor] | None = None
    rounded: Mapping[str, Codes] | None = None
    divergence: float = math.nan

    @property
    def is_descent(self) -> bool:
        """Whether each layer's own error moves the codes: then there may be several passes, one after the other."""
        return self.gradients is None and self.rounded is None


Aim = Callable[[Lean], "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A candidate, the price that made it, and its size."""

    candidate: Candidate
    price: float
    size_bytes: int


class Walk:
    """Makes candidates, one from the other.

    Args:
        work: model and base.
        statistics: of the new model.
        sequences: calibration text, used up part by part, then from its begin again.
        num_parts: how many parts it is cut into.
        scratch: directory for files of what the new model thinks of a part.

    Attributes:
        caution: by how much curvature is taken larger than it is.
        price: of the last step.
        tilt: how far beyond the new model is aimed, so that with moves that do not pay left out it is reached.
    """

    def __init__(
        self, work: Workpiece, statistics: Statistics, sequences: Sequences, *, num_parts: int, scratch: Path
    ) -> None:
        self._work = work
        self._statistics = statistics
        self._parts = np.array_split(sequences, max(1, min(num_parts, len(sequences))))
        self._scratch = scratch
        self.caution = _CAUTION_FIRST
        self._last: Lean | None = None
        self._sample_text: Text | None = None
        self._rounded: dict[str, Codes] | None = None
        self.price = _PRICE_FIRST
        base = work.base
        self._situation = Situation(
            grid=base.grid, base=base.codes, statistics=statistics, new=work.floats.weight, old=work.old_weight
        )
        self.tilt = 1.0 if work.old_weight is None else _TILT_FIRST

    def start(self, aim: Aim) -> Step:
        """Step from the base: by thinning where rounding changes little, by each layer's own error, or the better."""
        base = self._work.base
        if self._rounded is None:
            self._rounded = round_on_grid(self._situation)
        if share_changed(self._rounded, base.codes) > _THINNED_MAX[base.grid.num_bits]:
            return aim(Lean(at=base))
        thinned = aim(Lean(at=base, rounded=self._rounded))
        if base.grid.num_bits == _FINE and thinned.size_bytes:  # 0: moves cannot get few enough
            return thinned
        return min(aim(Lean(at=base)), thinned, key=self._divergence)

    def _divergence(self, step: Step) -> float:
        """Return it on some of the text, the same for every step."""
        if self._sample_text is None:
            self._sample_text = self._read(_spread(self._parts[0], _JUDGED_TOKENS), "teacher.sample")
        text = self._sample_text
        return self._work.show(step.candidate).evaluate(text.sequences, text.teacher)[1]

    def nothing(self, _lean: Lean) -> Step:
        """Return the base as it is."""
        return Step(candidate=self._work.base, price=self.price, size_bytes=0)

    def advance(self, at: Step, aim: Aim, *, turn: int, on_tokens: OnTokens | None = None) -> Step | None:
        """Step on by the whole model's gradient; None where every step does harm.

        Args:
            at: where to start.
            aim: what the step is asked for.
            turn: number of this step, from 1; decides which parts of the text are used.
            on_tokens: told how many were gone through.
        """
        if self._last is None or self._last.at is not at.candidate:
            self._last = self._lean(at.candidate, self._text(turn - 1), on_tokens)
        text = self._text(turn)
        before = self._work.show(at.candidate).evaluate(text.sequences, text.teacher)[1]
        for _ in range(_TRIES_MAX):
            step = aim(self._last)
            lean = self._lean(step.candidate, text, on_tokens)
            if lean.divergence < before:
                self.caution = max(_CAUTION_MIN, self.caution / 2)
                self._last = lean
                return step
            self.caution *= _TIMID
        self._last = None
        return None

    def _text(self, turn: int) -> Text:
        return self._read(self._parts[turn % len(self._parts)], f"teacher.{turn % 2}")

    def _read(self, sequences: Sequences, name: str) -> Text:
        teacher = self._work.show_new().log_probabilities(sequences, self._scratch / name)
        return Text(sequences=sequences, teacher=teacher)

    def _lean(self, at: Candidate, text: Text, on_tokens: OnTokens | None) -> Lean:
        model = self._work.show(at)
        gradients, divergence = model.lean(list(at.codes), text.sequences, text.teacher, on_tokens=on_tokens)
        return Lean(at=at, gradients=gradients, divergence=divergence)

    def at_price(self, lean: Lean, *, price: float, after: Step | None = None) -> Step:
        """Move what pays at a price; a higher price than before takes moves back.

        Args:
            lean: what moves gain.
            price: of a bit.
            after: a step whose changes say what bits cost, and which descent by layers goes on from.
        """
        like = after.candidate.codes if after else None
        start = like if like is not None and lean.is_descent else lean.at.codes
        codes = self._move(lean, start, price, like)
        candidate = Candidate(grid=lean.at.grid, codes=codes, others=self._work.others_worth(self._statistics, price))
        self.price = price
        return Step(candidate=candidate, price=price, size_bytes=self._work.size_bytes(candidate))

    def settled(self, lean: Lean, *, price: float) -> Step:
        """Move what pays at a price, in several passes of descent: the first leaves much undone, and knows no bits."""
        step = self.at_price(lean, price=price)
        for _ in range(_PASSES - 1 if lean.is_descent else 0):
            self._aim_again(step)
            step = self.at_price(lean, price=price, after=step)
        return step

    def at_size(self, lean: Lean, *, size_bytes: int) -> Step:
        """Move what pays best within a size; a few per cent less may be used."""
        if not size_bytes:
            return self.nothing(lean)
        price, fits_at, too_large_at = self._guess(lean, size_bytes), math.inf, 0.0
        fitting, step = None, None
        for _ in range(_TRIES):
            step = self.at_price(lean, price=price, after=step)
            is_too_far = lean.rounded is None and self._aim_again(step)
            if step.size_bytes > size_bytes:
                too_large_at = max(too_large_at, price)
            else:
                fits_at = min(fits_at, price)
                if not is_too_far and (fitting is None or step.size_bytes > fitting.size_bytes):
                    fitting = step
                if not is_too_far and step.size_bytes >= size_bytes * (1 - 2 * _NEAR):
                    break
            price *= _correction(step.size_bytes, size_bytes * (1 - _NEAR))
            if too_large_at > 0 and not too_large_at < price < fits_at:
                price = math.sqrt(too_large_at * fits_at) if fits_at < math.inf else 2 * too_large_at
        return fitting or self.nothing(lean)

    def _aim_again(self, step: Step) -> bool:
        """Aim farther or less far by how far a step went; tell whether it went too far."""
        if self._situation.old is None:
            return False
        codes = step.candidate.codes
        gone = progress(self._situation, {name: codes[name] for name in self._sample(codes)})
        is_too_far = gone > _TOO_FAR and self.tilt > 1
        self.tilt = min(_TILT_MAX, max(1.0, self.tilt + 0.7 * (1 - gone)))
        return is_too_far

    def _sample(self, codes: Mapping[str, Codes]) -> list[str]:
        names = list(codes)
        return names[:: max(1, min(_SAMPLED, len(names) // 16))]

    def _guess(self, lean: Lean, size_bytes: int) -> float:
        """Find the price of a size on some of the matrices, by halving an interval of its logarithm."""
        chosen = self._sample(lean.at.codes)
        codes = {name: lean.at.codes[name] for name in chosen}
        share = sum(value.size for value in codes.values()) / sum(value.size for value in lean.at.codes.values())
        price, factor, was_above = self.price, 4.0, None
        for _ in range(_SEARCH_STEPS):
            moved = self._move(lean, codes, price)
            size = delta_bytes(moved, {name: self._work.base.codes[name] for name in chosen}) / share
            size += self._work.others_sample_bytes(self._statistics, price)
            if abs(size / size_bytes - 1) < 2 * _NEAR:
                break
            is_above = size > size_bytes
            if was_above is not None and is_above != was_above:
                factor = math.sqrt(factor)
            was_above = is_above
            price *= factor if is_above else 1 / factor
        return price

    def _move(
        self, lean: Lean, codes: Mapping[str, Codes], price: float, like: Mapping[str, Codes] | None = None
    ) -> dict[str, Codes]:
        if lean.rounded is not None:
            return move_thinned(self._situation, lean.rounded, codes, price)
        if lean.gradients is None:
            return move_by_layer(self._situation, codes, price, tilt=self.tilt, like=like)
        return move_by_model(
            self._situation, codes, lean.gradients, price, caution=self.caution, tilt=self.tilt, like=like
        )


def _spread(sequences: Sequences, num_tokens: int) -> Sequences:
    """Return about so many tokens of the sequences, from the begin to the end of them."""
    step = max(1, sequences.size // num_tokens)
    return sequences[::step]


def _correction(size: float, wanted: float) -> float:
    """Return by what to multiply a price: sizes fall a little slower than prices rise."""
    factor: float = (max(size, 1.0) / max(wanted, 1.0)) ** 1.2
    return min(8.0, max(0.125, factor))
