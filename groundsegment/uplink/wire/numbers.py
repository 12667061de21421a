"""The numbers of commands, where a depot is behind its satellite: it was restored from a backup.

A satellite obeys a number once, so what such a depot signs next is refused as replayed. Reports tell the highest number
that a satellite has seen; what is signed after one was heard is numbered above it. Who holds a station's key can forge
a report, and a thief of a command key can use numbers up: a leap beyond all that a depot may have forgotten is followed
by nobody.
"""

from groundsegment.depot.depot import Depot
from groundsegment.errors import KeyStoreError
from protocol.report import Report

_NUMBERS_FORGOTTEN_MAX = 2**20
_REPLACED_HINT = "`skyload keys revoke command`: a root without the old command keys lets numbers start again on board"


class NumbersBehindError(KeyStoreError):
    """The satellite has seen numbers that this depot has still to give: the command is refused on board.

    Args:
        depot: whose.
        satellite: its name.
        report: that told it; it is kept, so that the next command is numbered above.
    """

    def __init__(self, depot: Depot, satellite: str, report: Report) -> None:
        super().__init__(
            f"{satellite} has seen command {report.commands}, this depot gave {_given(depot, satellite)} last: "
            "was it restored from a backup? The command is refused as replayed",
            hint="give it again: it is numbered above now. Commands that waited for an uplink must be given again too",
        )


def is_behind(depot: Depot, satellite: str, report: Report) -> bool:
    """Whether a report tells of numbers that this depot has still to give."""
    return report.commands > _given(depot, satellite)


def commands_seen(depot: Depot, satellite: str) -> int:
    """The number that the next command has to be above.

    Raises:
        KeyStoreError: it is so far above ours that somebody else must have used them up.
    """
    heard = depot.journal.last_report(satellite)
    seen, ours = (0 if heard is None else heard.report.commands), _given(depot, satellite)
    if seen > ours + _NUMBERS_FORGOTTEN_MAX:
        problem = f"{satellite} has seen command {seen}, this depot gave {ours} last: somebody else has the command key"
        raise KeyStoreError(problem, hint=_REPLACED_HINT)
    return seen


def _given(depot: Depot, satellite: str) -> int:
    return depot.journal.allocated(f"command {satellite}")
