"""A quantized release in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from groundsegment.requantize.grid import Codes, Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A release that could be sent.

    Attributes:
        grid: its scales.
        codes: of each matrix.
        others: stored values of all other tensors.
    """

    grid: Grid
    codes: Mapping[str, Codes]
    others: Mapping[str, NDArray[Any]]
