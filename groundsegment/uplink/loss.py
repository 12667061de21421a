"""How many frames get lost: a Beta posterior over the loss probability, with forgetting. Pure.

Fed with counts of settled frames (those whose fate a report has told). It knows how sure it is, keeps what it
learned across contacts as a weak prior, and forgets slowly, because a link at 5 degrees of elevation is not the link
at 60.
"""

import math
from dataclasses import dataclass

WEIGHT_MAX = 20_000.0  # frames remembered within a contact: a minute or two of S-band
PRIOR_WEIGHT_MAX = 400.0  # frames that all earlier contacts together count for
LOSS_MAX = 0.95  # beyond this nothing sensible can be planned


@dataclass(frozen=True, slots=True, kw_only=True)
class LossEstimate:
    """Beta(lost, arrived) over the probability that a frame is lost.

    Attributes:
        lost: weight of lost frames, > 0.
        arrived: weight of frames that arrived, > 0.
    """

    lost: float = 1.0
    arrived: float = 19.0

    @property
    def weight(self) -> float:
        """How many frames this knowledge is worth."""
        return self.lost + self.arrived

    @property
    def mean(self) -> float:
        """The expected loss probability."""
        return min(self.lost / self.weight, LOSS_MAX)

    @property
    def deviation(self) -> float:
        """Standard deviation of the loss probability: how unsure we are."""
        mean = self.lost / self.weight
        return math.sqrt(mean * (1 - mean) / (self.weight + 1))

    def with_sample(self, *, sent: int, arrived: int) -> "LossEstimate":
        """Return the estimate after `sent` frames of which `arrived` arrived; duplicates count at most once."""
        arrived = max(0, min(arrived, sent))
        lost, good = self.lost + sent - arrived, self.arrived + arrived
        shrink = min(1.0, WEIGHT_MAX / (lost + good))
        return LossEstimate(lost=max(lost * shrink, 1e-3), arrived=max(good * shrink, 1e-3))

    def as_prior(self) -> "LossEstimate":
        """Return the same belief, held less firmly: for the next contact."""
        shrink = min(1.0, PRIOR_WEIGHT_MAX / self.weight)
        return LossEstimate(lost=self.lost * shrink, arrived=self.arrived * shrink)

    @classmethod
    def of_mean(cls, mean: float, weight: float = 20.0) -> "LossEstimate":
        """Return a weak belief in a given loss."""
        mean = min(max(mean, 0.001), LOSS_MAX)
        return cls(lost=mean * weight, arrived=(1 - mean) * weight)
