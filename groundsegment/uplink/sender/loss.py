"""How many frames get lost: a Beta posterior over the loss probability, with forgetting. Pure.

Fed with counts of settled frames (those whose fate a report has told). It knows how sure it is, keeps what it
learned across contacts as a weak prior, and forgets slowly, because a link at 5 degrees of elevation is not the link
at 60. Where loss comes in bursts, counts scatter more than chance alone would have it: that is learned too, and frames
then say less than so many independent ones.

There is one for each satellite, station and direction. `to_dict` and `from_dict` carry it across restarts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

WEIGHT_MAX = 20_000.0  # frames remembered within a contact: a minute or two of S-band
PRIOR_WEIGHT_MAX = 400.0  # frames that all earlier contacts together count for
LOSS_MAX = 0.95  # beyond this nothing sensible can be planned
_WEIGHT_MIN_FOR_SCATTER = 200.0  # frames: before that, not knowing the mean is all that one sees
_SCATTER_PRIOR, _DISPERSION_PRIOR = 8.0, 2.0  # so many samples that say: losses may well come in twos
_SCATTER_SAMPLES_MAX = 40.0  # remembered
_MEAN_MIN = 0.01  # of the loss, to say how much chance there is in a count
_SCATTER_MAX = 30.0  # of one sample: no single surprise decides


@dataclass(frozen=True, slots=True, kw_only=True)
class LossEstimate:
    """Beta(lost, arrived) over the probability that a frame is lost, and how much its counts scatter.

    Attributes:
        lost: weight of lost frames, > 0.
        arrived: weight of frames that arrived, > 0.
        scatter: sum over samples of (deviation from the expected count)^2 / (variance of independent losses).
        samples: how many those were.
    """

    lost: float = 1.0
    arrived: float = 19.0
    scatter: float = 0.0
    samples: float = 0.0

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

    @property
    def dispersion(self) -> float:
        """Variance of a count of losses, in units of what independent losses would have: 1, or more for bursts."""
        return max(1.0, (_SCATTER_PRIOR * _DISPERSION_PRIOR + self.scatter) / (_SCATTER_PRIOR + self.samples))

    def with_sample(
        self, *, sent: int, arrived: int, is_exact: bool = False, miscounted: float = 0.0
    ) -> "LossEstimate":
        """Return the estimate after `sent` frames of which `arrived` arrived; duplicates count at most once.

        Args:
            sent: frames.
            arrived: of them.
            is_exact: it is known of which frames, so that what scatters is the link, not the counting.
            miscounted: so many frames the counts may be wrong by, as a standard deviation.
        """
        arrived = max(0, min(arrived, sent))
        scatter, samples = self.scatter, self.samples
        if is_exact and self.weight >= _WEIGHT_MIN_FOR_SCATTER and sent:
            keep = min(1.0, _SCATTER_SAMPLES_MAX / (samples + 1))
            scatter, samples = keep * (scatter + self._surprise(sent, arrived)), keep * (samples + 1)
        mean = max(self.mean, _MEAN_MIN)
        chance = sent * mean * (1 - mean) * self.dispersion
        worth = chance / (chance + miscounted**2) / self.dispersion if sent else 0.0
        lost, good = self.lost + (sent - arrived) * worth, self.arrived + arrived * worth
        shrink = min(1.0, WEIGHT_MAX / (lost + good))
        return LossEstimate(
            lost=max(lost * shrink, 1e-3), arrived=max(good * shrink, 1e-3), scatter=scatter, samples=samples
        )

    def as_prior(self) -> "LossEstimate":
        """Return the same belief, held less firmly: for the next contact."""
        shrink = min(1.0, PRIOR_WEIGHT_MAX / self.weight)
        return LossEstimate(
            lost=self.lost * shrink, arrived=self.arrived * shrink, scatter=self.scatter / 2, samples=self.samples / 2
        )

    def _surprise(self, sent: int, arrived: int) -> float:
        mean = self.lost / self.weight
        variance = sent * mean * (1 - mean) + (sent * self.deviation) ** 2
        return min((sent - arrived - sent * mean) ** 2 / max(variance, 0.5), _SCATTER_MAX)

    @classmethod
    def of_mean(cls, mean: float, weight: float = 20.0) -> "LossEstimate":
        """Return a weak belief in a given loss."""
        mean = min(max(mean, 0.001), LOSS_MAX)
        return cls(lost=mean * weight, arrived=(1 - mean) * weight)

    # Kept across restarts

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers by name."""
        return {"lost": self.lost, "arrived": self.arrived, "scatter": self.scatter, "samples": self.samples}

    @classmethod
    def from_dict(cls, state: Mapping[str, float]) -> "LossEstimate":
        """Return what `to_dict` said; the default where that makes no sense."""
        values = [state.get(name, 0.0) for name in ("lost", "arrived", "scatter", "samples")]
        is_sound = all(isinstance(value, int | float) and 0 <= value < math.inf for value in values)
        if not is_sound or min(values[:2]) <= 0:
            return cls()
        return cls(lost=values[0], arrived=values[1], scatter=values[2], samples=values[3])
