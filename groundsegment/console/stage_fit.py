"""`skyload stage --fit`: how many bytes there are to spend, and the release that spends them best."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from groundsegment.console.output import err
from groundsegment.console.requantize import parse_size, phases

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot

_PASSES = re.compile(r"\s*(\d+)[- ]?(?:pass(?:es)?|contacts?)\s*")
# Of what fits, this much is for the delta: the estimate may be a little low, and config and tokenizer fly too.
_SHARE_FOR_CODES = 0.96
_KEPT_BYTES = 4 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What `--fit` and its companions say.

    Attributes:
        wanted: "3-passes", or a size.
        calibration: text that codes are chosen on.
        held_out: text that figures are taken from.
        old: the float model that the base was made of.
        out: where the release goes; None for a directory beside the model.
        contacts: a contact plan, for passes.
        profile: an emulator profile, for passes.
        rate: of the link, for passes.
    """

    wanted: str
    calibration: Path | None = None
    held_out: Path | None = None
    old: Path | None = None
    out: Path | None = None
    contacts: Path | None = None
    profile: str | None = None
    rate: str | None = None


def fitted_release(depot: "Depot", satellite: str, model: Path, base: str, fit: Fit) -> Path:
    """Requantize a model on the base's grid so that its delta fits; return the release's directory.

    Raises:
        InputError: what is needed is not given, or nothing fits.
    """
    from groundsegment.errors import InputError
    from groundsegment.requantize.availability import check_torch

    if not (Path(base) / "config.json").is_file():
        hint = "--base DIR: codes are kept where they are on board, so its files are needed"
        raise InputError("--fit needs the directory of the quantized release that is on board", hint=hint)
    if fit.calibration is None:
        raise InputError("--fit needs text to choose codes on", hint="--calibration FILE: text like what it is for")
    budget = _budget(depot, satellite, fit)
    if budget <= _KEPT_BYTES:
        raise InputError(f"nothing fits into {fit.wanted}", hint="give more passes, or a size such as --fit 5MB")
    check_torch()
    from groundsegment.requantize.requantize import fit as fit_release

    out = fit.out or model.absolute().with_name(f"{model.absolute().name}-on-{Path(base).absolute().name}")
    with phases() as on_phase:
        report = fit_release(
            model,
            Path(base),
            out,
            int(_SHARE_FOR_CODES * (budget - _KEPT_BYTES)),
            calibration=fit.calibration,
            held_out=fit.held_out,
            old=fit.old,
            on_phase=on_phase,
        )
    chosen, reference = report.chosen, report.reference
    err.print(
        f"{fit.wanted}: {budget / 1e6:.2f} MB; {out} takes {chosen.delta_bytes / 1e6:.2f} MB, perplexity "
        f"{chosen.perplexity:.3f}; quantized afresh it would take {reference.delta_bytes / 1e6:.2f} MB, perplexity "
        f"{reference.perplexity:.3f} (not quantized {report.new_perplexity:.3f})",
        markup=False,
    )
    return out


def _budget(depot: "Depot", satellite: str, fit: Fit) -> int:
    passes = _PASSES.fullmatch(fit.wanted)
    if passes is None:
        return parse_size(fit.wanted, option="--fit")
    from groundsegment.console.plan import chosen_plan
    from groundsegment.console.plan_queue import known_loss
    from groundsegment.planner.capacity import capacity_bytes
    from groundsegment.planner.forecast import Weather

    now_s = datetime.now(tz=UTC).timestamp()
    plan = chosen_plan(fit.contacts, fit.profile, None, fit.rate, 4.3, "435s", now_s)
    known = known_loss(depot, satellite)
    weather = Weather(
        loss=known.mean if plan.loss is None else plan.loss,
        loss_deviation=known.deviation if plan.loss is None else 0.0,
    )
    contacts = tuple(islice(plan.from_time(now_s), int(passes[1])))
    return capacity_bytes(contacts, weather, start_s=now_s, symbol_size=depot.satellite(satellite).symbol_size)
