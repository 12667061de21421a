"""What the receiver's core counts. Pure; a snapshot of it is `status.ReceiverStatistics`."""

from onboard.receiver.status import ReceiverStatistics
from protocol.report import Reason

_PLAIN = (
    "symbols_accepted",
    "symbols_duplicate",
    "symbols_surplus",
    "reports_received",
    "reports_sent",
    "blocks_solved",
    "solves_failed",
    "objects_completed",
    "objects_poisoned",
    "objects_refused",
    "objects_spoilt",
    "bytes_completed",
    "files_taken",
    "syncs",
)


class Counters:
    """Numbers by name, and by cause where something is turned away."""

    def __init__(self) -> None:
        self._plain = dict.fromkeys(_PLAIN, 0)
        self._rejected: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._drops: dict[str, int] = {}

    def add(self, name: str, num: int = 1) -> None:
        """So many more of a field of the statistics."""
        self._plain[name] += num

    def reject_frames(self, cause: str, num: int) -> None:
        """Datagrams were no authentic frames."""
        self._rejected[cause] = self._rejected.get(cause, 0) + num

    def refuse_symbols(self, cause: str, num: int) -> None:
        """Authentic symbols were not taken."""
        self._refused[cause] = self._refused.get(cause, 0) + num

    def drop_object(self, cause: str) -> None:
        """An object was let go of before it was used."""
        self._drops[cause] = self._drops.get(cause, 0) + 1

    @property
    def num_rejected(self) -> int:
        """Datagrams that were no authentic frames."""
        return sum(self._rejected.values())

    def statistics(
        self, *, received_of: dict[int, int], open_objects: int, open_bytes: int, trouble: Reason
    ) -> ReceiverStatistics:
        """A snapshot, with what others count: authentic frames by station, and what is open now."""
        return ReceiverStatistics(
            frames_received=sum(received_of.values()),
            frames_received_of=received_of,
            frames_rejected=dict(self._rejected),
            symbols_refused=dict(self._refused),
            objects_dropped=sum(self._drops.values()),
            drops=dict(self._drops),
            open_objects=open_objects,
            open_bytes=open_bytes,
            store_trouble=trouble,
            **self._plain,
        )
