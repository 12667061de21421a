"""What the daemon answers over its control socket: status, revert, import, report, scrub. See `control_socket`.

It holds nothing and decides nothing: it asks the parts of the daemon, and words what they say as JSON values.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onboard.control_socket import Operation
from onboard.errors import UnknownError
from onboard.file_import import FileImport
from onboard.installer.serving import ServingProblem
from onboard.installer.shell import Installer
from onboard.installer.surroundings import UpdateStanding
from onboard.messages import MessageBox
from onboard.receiver.shell import Receiver
from onboard.scrub.answering import outcome_fields
from onboard.scrub.shell import Scrubber
from onboard.serving_process import ServingSupervision
from onboard.state import find_release
from onboard.store.record import RecordStore
from onboard.telemetry import Telemetry
from protocol.file_names import report_file_name
from protocol.report import NO_HANDLE

_SERVING_STATUS_S = 2.0  # whoever asks for our status waits no longer for a serving process that hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is asked."""

    satellite: str
    store: RecordStore
    installer: Installer
    receiver: Receiver
    imports: FileImport
    scrubber: Scrubber
    serving: ServingSupervision
    messages: MessageBox
    telemetry: Telemetry
    uptime_s: Callable[[], float]


class ControlAnswers:
    """The answers.

    Args:
        parts: whom to ask.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def operations(self) -> dict[str, Operation]:
        """By the name of what is asked."""
        return {
            "status": self._status,
            "revert": self._revert,
            "import": self._import,
            "report": self._report,
            "scrub": self._scrub,
        }

    async def _revert(self, asked: dict[str, Any]) -> dict[str, Any]:
        prefix = asked.get("digest")
        digest = find_release(self._parts.store.record, str(prefix)).digest if prefix is not None else None
        reverted = await self._parts.installer.revert(digest, why="by hand")
        known, interrupted = reverted.known, reverted.interrupted
        return {
            "digest": known.digest.hex(),
            "name": known.name,
            "interrupted": interrupted.hex() if interrupted else None,
        }

    async def _import(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            sha256 = bytes.fromhex(str(asked.get("sha256")))
        except ValueError:
            raise UnknownError("import: no digest") from None
        await self._parts.receiver.started.wait()
        outcome = await self._parts.imports.take(sha256)
        return {"outcome": outcome and outcome.fortune, "reason": outcome.reason if outcome else ""}

    async def _report(self, _asked: dict[str, Any]) -> dict[str, Any]:
        await self._parts.receiver.started.wait()
        frame, data = self._parts.receiver.report_now()
        return {"name": report_file_name(frame.handle, frame.sequence), "data": data.hex()}

    async def _scrub(self, asked: dict[str, Any]) -> dict[str, Any]:
        prefix = asked.get("digest")
        digest = find_release(self._parts.store.record, str(prefix)).digest if prefix is not None else None
        outcomes = await self._parts.scrubber.scrub(digest, is_fast=bool(asked.get("now")))
        return {"releases": [outcome_fields(outcome) for outcome in outcomes]}

    async def _status(self, _asked: dict[str, Any]) -> dict[str, Any]:
        record, status = self._parts.store.record, self._parts.installer.status()
        serving = record.release(status.serving) if status.serving else None
        process: dict[str, Any] | None = None
        with contextlib.suppress(ServingProblem, TimeoutError):
            async with asyncio.timeout(_SERVING_STATUS_S):
                process = dataclasses.asdict(await self._parts.serving.status())
        return {
            "status": {
                "satellite": self._parts.satellite,
                "read_only": False,
                "boot_count": record.boot_count,
                "uptime_s": round(self._parts.uptime_s(), 3),
                "accepted": record.accepted,
                "floor": record.floor,
                "epoch": record.epoch,
                "root_version": status.root_version,
                "record_slots_mended": record.num_mended,
                "free_mib": status.free_mib,
                "endpoint": self._parts.serving.endpoint,
                "serving": {
                    "digest": status.serving.hex() if status.serving else None,
                    "name": serving.name if serving else None,
                    "sequence": serving.sequence if serving else None,
                    "is_serving": bool(process and process["is_serving"]),
                    "trouble": self._parts.serving.trouble,
                },
                "update": _update_fields(status.first),
                "updates": [_update_fields(update) for update in status.updates],
                "releases": [
                    {
                        "digest": known.digest.hex(),
                        "name": known.name,
                        "sequence": known.sequence,
                        "is_current": known.digest == record.current,
                    }
                    for known in record.releases
                ],
                "scrub": self._parts.scrubber.status(),
                "num_messages_waiting": len(self._parts.messages),
                "num_files_waiting": self._parts.imports.num_waiting,
                "receiver": _jsonable(dataclasses.asdict(self._parts.receiver.statistics())),
                "serving_process": process,
                "events": self._parts.telemetry.counters(),
            }
        }


def _update_fields(update: UpdateStanding) -> dict[str, Any]:
    installed = sum(last - first + 1 for first, last in update.bundle_ranges)
    return {
        "handle": update.handle.hex() if update.handle != NO_HANDLE else None,
        "state": update.state.name.lower(),
        "reason": update.reason.name.lower(),
        "sequence": update.sequence,
        "release": update.release.hex() if update.release else None,
        "attempts": update.attempts,
        "bundles_installed": installed,
        "num_bundles": update.num_bundles,
    }


def _jsonable(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value.name.lower() if hasattr(value, "name") else value for name, value in fields.items()}
