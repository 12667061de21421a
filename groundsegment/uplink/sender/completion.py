"""How probable it is that all of an update is on board, as far as what was sent and heard can tell. Pure.

Each block needs K symbols of those that arrived; how many did is chance, and the loss itself is known only so well.
That not knowing is common to all blocks, so the loss is integrated over last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from groundsegment.uplink.sender.loss import LossEstimate

_POINTS = 41  # of the loss, between four standard deviations below and above
_WIDTH = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SentBlock:
    """What was sent of one block.

    Attributes:
        num_source: K.
        have: symbols that are known to be there.
        sent: symbols of which nobody has said what became of them.
    """

    num_source: int
    have: int
    sent: int


def probability_complete(blocks: Sequence[SentBlock], loss: LossEstimate) -> float:
    """The probability that every block has as many symbols as it needs."""
    open_blocks = [block for block in blocks if block.have < block.num_source]
    if not open_blocks:
        return 1.0
    total = weights = 0.0
    for number in range(_POINTS):
        sigmas = _WIDTH * (2 * number / (_POINTS - 1) - 1)
        share_lost = min(max(loss.mean + sigmas * loss.deviation, 0.0), 1.0)
        weight = math.exp(-(sigmas**2) / 2)
        weights += weight
        total += weight * math.prod(_p_block(block, share_lost, loss.dispersion) for block in open_blocks)
    return total / weights


def _p_block(block: SentBlock, share_lost: float, dispersion: float) -> float:
    """That so many of those sent arrive, by the normal approximation, half a symbol for its being whole numbers."""
    needed = block.num_source - block.have
    if block.sent < needed:
        return 0.0
    mean = block.sent * (1 - share_lost)
    deviation = math.sqrt(max(block.sent * share_lost * (1 - share_lost) * dispersion, 1e-12))
    return 0.5 * math.erfc((needed - 0.5 - mean) / deviation / math.sqrt(2))
