"""What a command to scrub says, and what is answered; and whether the link is quiet enough for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onboard.scrub.damage import ScrubOutcome
from protocol.packing import Fields

_QUIET_S = 2.0


class LinkWatch:
    """Whether frames came lately.

    Args:
        count: how many frames there were so far.
        now: monotonic seconds.
    """

    def __init__(self, count: Callable[[], int], now: Callable[[], float]) -> None:
        self._count, self._now = count, now
        self._seen, self._changed_s = 0, float("-inf")

    def is_busy(self) -> bool:
        """Whether there was a frame in the last seconds."""
        count, now = self._count(), self._now()
        if count != self._seen:
            self._seen, self._changed_s = count, now
        return now - self._changed_s < _QUIET_S


def read_scrub(args: Mapping[str, Any]) -> tuple[bytes | None, bool]:
    """Return the release that a `scrub` command means, None for all, and whether at full speed.

    Raises:
        DecodeError: an argument is missing or of another type.
    """
    fields = Fields(dict(args), unit="scrub")
    digest = None if fields.is_none("release") else fields.data("release", size=32)
    is_now = fields.boolean("now")
    fields.finish()
    return digest, is_now


def scrub_text(outcomes: Sequence[ScrubOutcome]) -> str:
    """What came of it, in a sentence for each release."""
    return "; ".join(_sentence(outcome) for outcome in outcomes) or "scrubbing begins anew, at the slow pace"


def outcome_fields(outcome: ScrubOutcome) -> dict[str, Any]:
    """An outcome as JSON."""
    return {
        "digest": outcome.release.hex(),
        "flips_found": outcome.num_found,
        "flips_repaired": outcome.num_repaired,
        "flips": [
            {
                "file": flip.file,
                "offset": flip.offset,
                "num_bits": flip.num_bits,
                "bits": list(flip.bits),
                "is_repaired": flip.is_repaired,
            }
            for flip in outcome.flips
        ],
        "lost": [{"file": each.file, "offset": each.offset, "size": each.size} for each in outcome.lost],
        "num_bytes": outcome.num_bytes,
        "is_direct": outcome.is_direct,
        "trouble": outcome.trouble,
        "is_whole": outcome.is_whole,
    }


def _sentence(outcome: ScrubOutcome) -> str:
    name = outcome.release.hex()[:16]
    if outcome.is_whole and not outcome.flips:
        return f"{name} is whole"
    said = f"{name}: {outcome.num_found} flipped bits found, {outcome.num_repaired} repaired"
    if outcome.lost:
        said += f", {sum(each.size for each in outcome.lost)} bytes lost in {len(outcome.lost)} places"
    return said + (f" ({outcome.trouble})" if outcome.trouble else "")
