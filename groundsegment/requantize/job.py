"""One requantization, stage by stage: see what matters, measure what could be sent anyway, walk, choose.

Every stage is kept when it is done; a job that is begun again takes what is kept and goes on. The result does not
depend on whether it was.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundsegment.errors import InputError
from groundsegment.models.quantize import QuantizePlan
from groundsegment.requantize.afresh import polished
from groundsegment.requantize.candidate import Candidate
from groundsegment.requantize.keeping import Keeper
from groundsegment.requantize.language_model import Statistics
from groundsegment.requantize.moving import calibrate
from groundsegment.requantize.options import Goal, OnPhase, Options
from groundsegment.requantize.report import Point, Report, cheapest_of_the_best
from groundsegment.requantize.walking import Aim, Step, Walk
from groundsegment.requantize.workpiece import Text, Workpiece

# Where a loss is asked for: shares of the delta of what one would send without this, at which it is looked for.
_LADDER = (0.03, 0.07, 0.13, 0.2, 0.3, 0.4, 0.5, 0.7)


class Job:
    """What is known so far of one requantization.

    Args:
        work: model and base.
        plan: the layout.
        options: what is asked for.
        texts: calibration and held-out sequences.
        keeper: of finished stages.
        scratch: directory for files of some hundred megabytes.
        on_phase: told what is being done.
    """

    def __init__(
        self,
        work: Workpiece,
        plan: QuantizePlan,
        options: Options,
        texts: tuple[NDArray[np.int64], NDArray[np.int64]],
        keeper: Keeper,
        scratch: Path,
        on_phase: OnPhase | None = None,
    ) -> None:
        self._work, self._plan, self._options = work, plan, options
        self._calibration, self._held_out = texts
        self._keeper, self._scratch = keeper, scratch
        self._tell = on_phase or (lambda _what, _done, _total: None)
        self._text: Text | None = None

    def run(self, *, base: str, new: str) -> tuple[Report, Candidate]:
        """Do all of it but the writing."""
        statistics = self._statistics()
        new_perplexity, references = self._references(statistics)
        rivals = [references[name] for name in ("naive", "gptq", "fresh")]
        curve, chosen = self._walk(statistics, cheapest_of_the_best(rivals))
        report = Report(
            format=self._plan.format,
            group_columns=self._plan.group_columns,
            base=base,
            new=new,
            num_calibration_tokens=self._calibration.size,
            num_held_out_tokens=self._held_out.size,
            new_perplexity=new_perplexity,
            curve=curve,
            chosen=curve[-1],
            **references,
        )
        return report, chosen

    def _statistics(self) -> Statistics:
        kept = self._keeper.load("statistics")
        if kept is not None:
            return Statistics.from_arrays(kept[0])
        total, done = self._calibration.size, 0

        def on_tokens(count: int) -> None:
            nonlocal done
            done += count
            self._tell("calibrating", done, total)

        model = self._work.show_new()
        statistics = model.statistics(self._calibration, seed=self._options.effort.seed, on_tokens=on_tokens)
        self._keeper.save("statistics", statistics.as_arrays(), {})
        return statistics

    def _references(self, statistics: Statistics) -> tuple[float, dict[str, Point]]:
        kept = self._keeper.load("references")
        if kept is not None:
            points = {name: Point(**entry) for name, entry in kept[1]["points"].items()}
            return float(kept[1]["new_perplexity"]), points
        text = self._held_out_text()
        new_perplexity, _ = self._work.show_new().evaluate(text.sequences, text.teacher)
        points = {"nothing": self._measure("nothing", self._work.base)}
        model, others = self._work.floats, self._work.new_others
        grid, codes = model.rounded()
        points["naive"] = self._measure("naive", Candidate(grid=grid, codes=codes, others=others))
        done = 0

        def on_matrix(_name: str) -> None:
            nonlocal done
            done += 1
            self._tell("calibrating afresh", done, 3 * len(codes))

        codes = calibrate(grid, model.weight, statistics, on_matrix)
        points["gptq"] = self._measure("gptq", Candidate(grid=grid, codes=codes, others=others))
        codes = polished(model, grid, codes, statistics, on_matrix)
        points["fresh"] = self._measure("fresh", Candidate(grid=grid, codes=codes, others=others))
        note = {"new_perplexity": new_perplexity, "points": {name: asdict(point) for name, point in points.items()}}
        self._keeper.save("references", {}, note)
        return new_perplexity, points

    def _walk(self, statistics: Statistics, reference: Point) -> tuple[list[Point], Candidate]:
        effort, goal = self._options.effort, self._options.goal
        walk = Walk(self._work, statistics, self._calibration, num_parts=effort.num_steps + 1, scratch=self._scratch)
        enough = math.inf if goal.max_loss is None else reference.perplexity * (1 + goal.max_loss)
        targets = _targets(goal, reference.delta_bytes)
        curve: list[Point] = []
        number, num_stages = 0, len(targets) + effort.num_steps
        step: Step | None = None
        aim: Aim = walk.nothing
        for target in targets:
            self._tell("moving codes", number, num_stages)
            aim = partial(walk.settled, price=target) if goal.price else partial(walk.at_size, size_bytes=int(target))
            step = self._kept_step(walk, number, partial(walk.start, aim), curve)
            number += 1
            if goal.max_loss is not None and curve[-1].perplexity <= enough:
                assert step is not None
                return curve, step.candidate
        assert step is not None
        for turn in range(1, effort.num_steps + 1):
            self._tell("refining", number, num_stages)
            further = self._kept_step(walk, number, partial(walk.advance, step, aim, turn=turn), curve)
            number += 1
            if further is None:
                break
            step = further
        if curve[-1].perplexity > enough:
            raise _too_lossy(curve, reference, goal.max_loss or 0.0)
        return curve, step.candidate

    def _kept_step(self, walk: Walk, number: int, make: Callable[[], Step | None], curve: list[Point]) -> Step | None:
        """Make a step and measure it, or take the one that was kept; None if no step does any good."""
        kept = self._keeper.load(f"step-{number}")
        if kept is None:
            step = make()
            note: dict[str, Any] = {"price": walk.price, "caution": walk.caution, "tilt": walk.tilt}
            if step is not None:
                point = self._measure("aware", step.candidate, step.price)
                note |= {"step": [step.price, step.size_bytes], "point": asdict(point)}
                curve.append(point)
            self._keeper.save(f"step-{number}", {} if step is None else self._work.arrays_of(step.candidate), note)
            return step
        arrays, note = kept
        walk.price, walk.caution, walk.tilt = note["price"], note["caution"], note["tilt"]
        if "step" not in note:
            return None
        curve.append(Point(**note["point"]))
        price, size_bytes = note["step"]
        return Step(candidate=self._work.candidate_of(arrays), price=price, size_bytes=size_bytes)

    def _measure(self, name: str, candidate: Candidate, price: float = 0.0) -> Point:
        self._tell(f"measuring {name}", 0, 0)
        return self._work.measure(name, candidate, self._held_out_text(), price)

    def _held_out_text(self) -> Text:
        if self._text is None:
            self._tell("reading held-out text", 0, 0)
            teacher = self._work.show_new().log_probabilities(self._held_out, self._scratch / "held-out")
            self._text = Text(sequences=self._held_out, teacher=teacher)
        return self._text


def _targets(goal: Goal, reference_bytes: int) -> list[float]:
    """Return what is aimed at one after the other, sizes or prices, until it is enough."""
    if goal.price is not None:
        return [goal.price]
    if goal.budget_bytes is not None:
        return [goal.budget_bytes]
    return [reference_bytes * share for share in _LADDER]


def _too_lossy(curve: list[Point], reference: Point, max_loss: float) -> InputError:
    best = min(curve, key=lambda point: point.perplexity)
    loss = 100 * (best.perplexity / reference.perplexity - 1)
    return InputError(
        f"nothing within {100 * max_loss:g} % was found; the best is {loss:.2f} % worse than quantizing afresh, "
        f"for {best.delta_bytes / 1e6:.2f} MB",
        hint="allow more with --max-loss, give more --calibration text or --steps, or send it quantized afresh",
    )
