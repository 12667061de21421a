"""Commands that wait in the depot, on their way up beside the updates: whoever queued them need not stay. A shell.

`shell` drives it. A command waits until the satellite has signed a word about it: an answer, or an event. It may cross
the link any number of times, for a satellite obeys a counter once. It has right of way: a frame or two are never felt.

A report that says that it has arrived only makes it rare, and lets an uplink end a little later: whoever has the keys
of a contact can forge one, and would void a command, or the root that replaces a stolen key. A word may be lost, in
a power cut on board: what a report knows of is given up when it is a week old.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import CommandState, QueuedCommand
from protocol.exchange import Outbox
from protocol.frame import Frame
from protocol.report import Report

RETRY_S = 1.0
AGAIN_S = 60.0  # what is said to have arrived
WORD_S = 5.0  # it takes a satellite that obeys a second or two to say so
GIVEN_UP = timedelta(days=7)  # after it was signed


class CommandFlight:
    """The queued commands of one satellite.

    Args:
        depot: where they wait.
        satellite: its name.
        utc: the time.
    """

    def __init__(self, depot: Depot, satellite: str, utc: Callable[[], datetime] | None = None) -> None:
        self._depot, self._satellite, self._utc = depot, satellite, utc or _utc
        self._outbox = Outbox(retry_s=RETRY_S)
        self._waiting: dict[bytes, QueuedCommand] = {}
        self._arrived_s: dict[bytes, float] = {}  # as is said: since when
        self._again_s: dict[bytes, float] = {}  # and when it is sent again

    def has_work(self, now: float) -> bool:
        """Whether something waits to arrive, or arrived so lately that its word is on its way."""
        return any(now < self._arrived_s.get(handle, now) + WORD_S for handle in self._waiting)

    def look(self, now: float) -> None:
        """See what was queued, or taken back, meanwhile."""
        queued = {entry.handle: entry for entry in self._depot.journal.commands(self._satellite, CommandState.QUEUED)}
        for handle in self._waiting.keys() - queued.keys():
            self._outbox.drop(handle)
            self._forget(handle)
        for handle in queued.keys() - self._waiting.keys():
            self._outbox.put(queued[handle].data, now)
        self._waiting = queued

    def begin_contact(self, now: float) -> None:
        """Somebody may listen again."""
        self._outbox.hurry(now)

    def heard(self, report: Report, now: float) -> None:
        """A report came: what it says has arrived is sent now and then."""
        for handle in self._waiting.keys() & set(report.complete):
            if self._utc() - self._waiting[handle].created_utc > GIVEN_UP:
                self._done(handle)
            elif handle in self._outbox:
                self._outbox.acknowledge(handle)
                self._arrived_s.setdefault(handle, now)
                self._again_s[handle] = now + AGAIN_S

    def answered(self, handle: bytes) -> None:
        """A word about a command, signed by the satellite, is safe in the depot."""
        if handle in self._waiting:
            self._done(handle)

    def frames_to_send(self, now: float) -> list[Frame]:
        """Frames that are due."""
        for handle, due_s in self._again_s.items():
            if due_s <= now and handle not in self._outbox:
                self._outbox.put(self._waiting[handle].data, now)
        return self._outbox.frames_to_send(now)

    def _done(self, handle: bytes) -> None:
        self._depot.journal.set_command_state(handle, CommandState.DONE)
        self._outbox.acknowledge(handle)
        self._waiting.pop(handle, None)
        self._forget(handle)

    def _forget(self, handle: bytes) -> None:
        self._arrived_s.pop(handle, None)
        self._again_s.pop(handle, None)


def _utc() -> datetime:
    return datetime.now(tz=UTC)  # noqa: TID251 - a shell
