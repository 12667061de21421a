"""`skyload stage --fit`: how many bytes there are to spend, and the release that spends them best.

The requantizer counts the entropy of codes, so what it makes is packed and held against the budget, to the byte, before
anything is signed; what does not fit is made again, tighter.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from groundsegment.console.output import err
from groundsegment.console.requantize import parse_size, phases

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.requantize.report import Report

_PASSES = re.compile(r"\s*(\d+)[- ]?(?:pass(?:es)?|contacts?)\s*")
# Of what fits, this much is for the delta: the estimate may be a little low, and config and tokenizer fly too.
_SHARE_FOR_CODES = 0.96
_KEPT_BYTES = 4 << 10  # metadata: manifest and signatures
_MARGIN = 0.985  # of what another try aims at
_TRIES_MAX = 3
_MORE_ROOM = "give more passes, or a size such as --fit 5MB"


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


class Fitting:
    """A release that is made to fit, and made again, tighter, while what was packed of it does not.

    Args:
        depot: knows the satellite's link.
        satellite: whom it is for.
        model: the float model's directory.
        base: the directory of the quantized release on board.
        fit: what was asked for.

    Raises:
        InputError: what is needed is not given.
    """

    def __init__(self, depot: "Depot", satellite: str, model: Path, base: str, fit: Fit) -> None:
        from groundsegment.errors import InputError
        from groundsegment.requantize.availability import check_torch

        self._calibration = _check_inputs(model, base, fit)
        self.budget_bytes = _budget(depot, satellite, fit)
        if self.payload_bytes_max <= 0:
            raise InputError(f"nothing fits into {fit.wanted}", hint=_MORE_ROOM)
        check_torch()
        self._model, self._base, self._fit = model, Path(base), fit
        name = f"{model.absolute().name}-on-{self._base.absolute().name}"
        self._out = fit.out or model.absolute().with_name(name)
        self._codes_bytes = int(_SHARE_FOR_CODES * self.payload_bytes_max)
        self._num_tries = 0
        self._report: Report | None = None

    @property
    def payload_bytes_max(self) -> int:
        """What bundles may take: the rest of the budget is for metadata."""
        return self.budget_bytes - _KEPT_BYTES

    def release(self) -> Path:
        """Requantize the model on the base's grid so that its delta should fit; return the release's directory.

        Raises:
            InputError: nothing fits.
        """
        from groundsegment.requantize.requantize import fit as fit_release

        with phases() as on_phase:
            report = fit_release(
                self._model,
                self._base,
                self._out,
                self._codes_bytes,
                calibration=self._calibration,
                held_out=self._fit.held_out,
                old=self._fit.old,
                on_phase=on_phase,
                force=self._num_tries > 0,
            )
        self._num_tries, self._report = self._num_tries + 1, report
        chosen, reference = report.chosen, report.reference
        err.print(
            f"{self._fit.wanted}: {self.budget_bytes / 1e6:.2f} MB; {self._out} should take "
            f"{chosen.delta_bytes / 1e6:.2f} MB, perplexity {chosen.perplexity:.3f}; quantized afresh it would take "
            f"{reference.delta_bytes / 1e6:.2f} MB, perplexity {reference.perplexity:.3f} "
            f"(not quantized {report.new_perplexity:.3f})",
            markup=False,
        )
        return self._out

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Say of a release that came out as its base that there was no room for a change."""
        from groundsegment.errors import InputError
        from groundsegment.staging.checks import SameAsBaseError

        try:
            yield
        except SameAsBaseError:
            problem = f"nothing fits into {self._fit.wanted}: without room for a single change it is the base itself"
            raise InputError(problem, hint=_MORE_ROOM) from None

    def tighter(self, payload_bytes: int) -> Path:
        """Make it again, after so many bytes were packed and do not fit; return the release's directory.

        Raises:
            InputError: it was tried often enough, or all that codes take is not enough to save.
        """
        from groundsegment.errors import InputError

        assert self._report is not None
        codes_bytes = self._report.chosen.delta_bytes
        took = f"{self._out} was packed in {payload_bytes} bytes, and {self.payload_bytes_max} fit"
        # What is not codes (a tokenizer, a header) stays: all that is too much has to come from the codes.
        wanted_bytes = int(_MARGIN * (codes_bytes - (payload_bytes - self.payload_bytes_max)))
        if wanted_bytes <= 0 or self._num_tries == _TRIES_MAX:
            hint = f"{_MORE_ROOM}: {max(0, payload_bytes - codes_bytes)} bytes are not codes, which alone can be saved"
            raise InputError(f"nothing fits into {self._fit.wanted}: {took}", hint=hint)
        err.print(f"{took}: once more, tighter", markup=False)
        self._codes_bytes = wanted_bytes
        return self.release()


def _check_inputs(model: Path, base: str, fit: Fit) -> Path:
    """Return the calibration text, if all that is needed is there."""
    from groundsegment.errors import InputError
    from groundsegment.models.adapter import is_adapter

    if is_adapter(model):
        hint = f"leave out --fit: an adapter flies as it is, and `skyload stage {model} --dry-run` says its size"
        raise InputError(f"{model}: an adapter, and --fit chooses the codes of a whole model", hint=hint)
    if not (model / "config.json").is_file():
        hint = "give the directory of the float model: --fit makes its codes"
        raise InputError(f"{model}: not a model's directory", hint=hint)
    if not (Path(base) / "config.json").is_file():
        hint = "--base DIR: codes are kept where they are on board, so its files are needed"
        raise InputError("--fit needs the directory of the quantized release that is on board", hint=hint)
    if fit.calibration is None:
        raise InputError("--fit needs text to choose codes on", hint="--calibration FILE: text like what it is for")
    return fit.calibration


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
