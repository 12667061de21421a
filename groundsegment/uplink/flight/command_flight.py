"""Commands that wait in the depot, on their way up beside the updates: whoever queued them need not stay. A shell.

`shell` drives it. A command is sent until a report says that it has arrived, or its answer came; it may cross the link
any number of times, for a satellite obeys a counter once. It has right of way: a frame or two are never felt.
"""

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import CommandState
from protocol.exchange import Outbox
from protocol.frame import Frame
from protocol.report import Report

RETRY_S = 1.0


class CommandFlight:
    """The queued commands of one satellite."""

    def __init__(self, depot: Depot, satellite: str) -> None:
        self._depot, self._satellite = depot, satellite
        self._outbox = Outbox(retry_s=RETRY_S)
        self._waiting: set[bytes] = set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def look(self, now: float) -> None:
        """See what was queued, or taken back, meanwhile."""
        queued = {entry.handle: entry for entry in self._depot.journal.commands(self._satellite, CommandState.QUEUED)}
        for handle in self._waiting - queued.keys():
            self._outbox.drop(handle)
        for handle in queued.keys() - self._waiting:
            self._outbox.put(queued[handle].data, now)
        self._waiting = set(queued)

    def begin_contact(self, now: float) -> None:
        """Somebody may listen again."""
        self._outbox.hurry(now)

    def heard(self, report: Report) -> None:
        """A report came: what has arrived need not be sent."""
        for handle in self._waiting & set(report.complete):
            self._done(handle)

    def answered(self, handle: bytes) -> None:
        """An answer to a command is safe in the depot."""
        if handle in self._waiting:
            self._done(handle)

    def frames_to_send(self, now: float) -> list[Frame]:
        """Frames that are due."""
        return self._outbox.frames_to_send(now)

    def _done(self, handle: bytes) -> None:
        self._depot.journal.set_command_state(handle, CommandState.DONE)
        self._outbox.acknowledge(handle)
        self._waiting.discard(handle)
