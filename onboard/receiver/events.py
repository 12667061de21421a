"""Between the receiver and whoever owns it: what it hands over, what it asks, what it counts.

The receiver hands over whole objects whose bytes match their handle and are durable; it knows nothing of trust. The
owner answers with a verdict. Both calls may come again after a restart with an object that was handed over before
(the power can go between the owner's own commit and the end of the file), so the owner must be idempotent: for an
object it has used already, `is_complete` is true, or the verdict is CONSUMED again.
"""

from pathlib import Path
from typing import Protocol

from onboard.receiver.status import FileVerdict, ReceiverStatistics, ReportStatus, Verdict
from protocol.objects import ObjectKind

__all__ = ["FileVerdict", "ObjectSink", "ReceiverStatistics", "ReportStatus", "StatusSource", "Verdict"]


class ObjectSink(Protocol):
    """Takes whole objects."""

    def is_complete(self, handle: bytes) -> bool:
        """Whether no frame of this object is wanted any more. Called for frames: must be quick and not raise."""
        ...

    async def object_ready(self, handle: bytes, kind: ObjectKind, path: Path, size: int, sha256: bytes) -> Verdict:
        """Take an object.

        One call at a time; frames keep being received meanwhile. The file at `path` holds exactly `size` bytes and
        must be neither moved nor changed; after CONSUMED or REFUSED it is gone. An exception counts as KEPT.
        """
        ...


class StatusSource(Protocol):
    """Knows how the updates stand."""

    def report_status(self) -> ReportStatus:
        """Called for every report: must be quick and not raise."""
        ...
