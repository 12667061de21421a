"""What the receiver knows of the rest of the daemon: whom it hands whole objects to, and what reports say of updates.

The receiver asks for an `ObjectSink` and a `StatusSource` (`receiver.events`); here the installer and the commander are
those. It decides nothing.
"""

from pathlib import Path

from onboard.commands import Commander
from onboard.installer.core import Fate
from onboard.installer.shell import Installer
from onboard.installer.surroundings import InstallStatus
from onboard.receiver.events import ReportStatus, Verdict
from protocol.frame import HANDLE_SIZE
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.objects import ObjectKind
from protocol.report import NO_HANDLE, UpdateStatus

VERDICTS = dict(zip(Fate, (Verdict.CONSUMED, Verdict.KEPT, Verdict.REFUSED, Verdict.SPOILT), strict=True))


class Sink:
    """What the receiver hands objects to: the installer, or the commander."""

    def __init__(self, installer: Installer, commander: Commander) -> None:
        self._installer, self._commander = installer, commander

    def is_complete(self, handle: bytes) -> bool:
        """See `receiver.events.ObjectSink`."""
        return self._installer.is_complete(handle)

    async def object_ready(self, handle: bytes, kind: ObjectKind, path: Path, size: int, sha256: bytes) -> Verdict:
        """See `receiver.events.ObjectSink`."""
        if kind is ObjectKind.COMMAND and size <= MESSAGE_SIZE_MAX:
            return VERDICTS[self._commander.receive(handle, path.read_bytes())]
        return VERDICTS[await self._installer.object_ready(handle, kind, path, sha256)]


class Status:
    """What reports say of updates."""

    def __init__(self, installer: Installer, *, boot_count: int) -> None:
        self._installer, self._boot_count = installer, boot_count

    def report_status(self) -> ReportStatus:
        """See `receiver.events.StatusSource`."""
        status = self._installer.status()
        return ReportStatus(
            updates=_updates(status),
            serving=status.serving[:HANDLE_SIZE] if status.serving else NO_HANDLE,
            accepted=status.accepted,
            root_version=status.root_version,
            epoch=status.epoch,
            nonce=status.nonce,
            commands=status.commands,
            boot_count=self._boot_count,
            free_mib=status.free_mib,
        )


def _updates(status: InstallStatus) -> tuple[UpdateStatus, ...]:
    return tuple(
        UpdateStatus(handle=update.handle, state=update.state, reason=update.reason, bundle_ranges=update.bundle_ranges)
        for update in status.updates
    )
