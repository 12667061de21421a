"""What is asked of a requantization. Pure data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from groundsegment.errors import InputError

OnPhase = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is asked for; exactly one of three.

    Attributes:
        budget_bytes: the delta's size at most.
        max_loss: by how much the perplexity may be above the freshly calibrated model's: 0.01 is 1 %.
        price: nats a token that a bit must gain.
    """

    budget_bytes: int | None = None
    max_loss: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            InputError: not exactly one goal, or one that nothing can meet.
        """
        given = [value for value in (self.budget_bytes, self.max_loss, self.price) if value is not None]
        if len(given) != 1:
            raise InputError("give one of budget, loss and lambda", hint="--max-loss 1% is a good begin")
        if given[0] < 0 or (self.price is not None and self.price <= 0):
            raise InputError(f"{given[0]:g} is no goal", hint="give a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is looked at, and how long.

    Attributes:
        num_calibration_tokens: of the text that codes are chosen on.
        num_held_out_tokens: of the text that figures are taken from.
        length: tokens of a sequence.
        num_steps: of refining by the whole model's gradient at the end, as long as they help; each needs text enough.
        num_threads: of torch; None leaves it to torch.
        seed: of tokens drawn for the sensitivity.
    """

    num_calibration_tokens: int = 16384
    num_held_out_tokens: int = 8192
    length: int = 256
    num_steps: int = 0
    num_threads: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All of it.

    Attributes:
        goal: what is asked for.
        calibration: text that codes are chosen on.
        held_out: text that figures are taken from; None keeps every eighth sequence of the calibration text for that.
        old: directory of the float model that the base was made of: tells what the update changed from what
            rounding did; descent alone needs it.
        effort: how hard to try.
        force: replace a model that is there already.
    """

    goal: Goal
    calibration: Path
    held_out: Path | None = None
    old: Path | None = None
    effort: Effort = field(default_factory=Effort)
    force: bool = False
