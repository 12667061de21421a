"""Imports on the ground: what a satellite said, as files that `skyloadd export-messages` wrote.

Every file is hostile. A message is believed because the satellite signed it; a report because its frame is sealed with
the key of the link. Only regular files are opened, and no more is read of one than a frame or a message may have. What
is believed goes into the depot as if it had come by the link; a second time it is no news.

A stick is carried both ways: what `skyload export` wrote on it goes up, says nothing of the satellite, and is passed
over. What a directory holds beside our files is not even mentioned.
"""

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import HOME_STATION
from groundsegment.downlink import Downlink, ReportReceived
from groundsegment.errors import InputError
from groundsegment.stations.receipts import keep_message
from groundsegment.uplink.flight.outcome import record_report, settle_by_report
from protocol.errors import ProtocolError
from protocol.file_names import REPORT_SUFFIX, SUFFIXES, has_our_suffix
from protocol.frame import HANDLE_SIZE
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.objects import ObjectKind

_FILES_MAX = 20_000
_GOING_UP = tuple(suffix for kind, suffix in SUFFIXES.items() if kind is not ObjectKind.MESSAGE)


class Fate(StrEnum):
    """What became of a file."""

    NEW = "new"
    KNOWN = "already known"
    REFUSED = "refused"
    PASSED_OVER = "passed over"  # it goes up


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One file.

    Attributes:
        path: as it was found.
        fate: what became of it.
        reason: why, if it was refused.
    """

    path: Path
    fate: Fate
    reason: str = ""


class _NotOursError(Exception):
    """Why a file is not believed."""


def import_files(depot: Depot, satellite: str, paths: Iterable[Path]) -> Iterator[Imported]:
    """Take files and directories in; yields what became of each file.

    Raises:
        InputError: a path is not there, or a directory holds too many files.
        UnknownError: no such satellite.
    """
    depot.satellite(satellite)
    reports: list[tuple[ReportReceived, Path]] = []
    for path, is_named in list(_list_files(paths)):
        if path.name.endswith(_GOING_UP):
            yield Imported(path=path, fate=Fate.PASSED_OVER)
            continue
        try:
            data = _read(path)
            if path.name.endswith(REPORT_SUFFIX):
                reports.append((_open_report(depot, satellite, data), path))
            elif data.startswith(ObjectKind.MESSAGE.value):
                is_new = keep_message(depot, satellite, data)
                yield Imported(path=path, fate=Fate.NEW if is_new else Fate.KNOWN)
            else:
                raise _NotOursError("not a message or report of a satellite")
        except (_NotOursError, ProtocolError) as error:
            if is_named or has_our_suffix(path.name):
                yield Imported(path=path, fate=Fate.REFUSED, reason=str(error))
    for received, path in sorted(reports, key=lambda entry: (entry[0].report.boot_count, entry[0].sequence)):
        is_new = _keep_report(depot, satellite, received)
        yield Imported(path=path, fate=Fate.NEW if is_new else Fate.KNOWN)


def _open_report(depot: Depot, satellite: str, data: bytes) -> ReportReceived:
    downlink = Downlink(
        contact_key=depot.contact_key(satellite, HOME_STATION, 0),  # of what is carried in files
        satellite=satellite,
        identity_public=depot.satellite(satellite).identity_public,
        session=secrets.token_bytes(HANDLE_SIZE),
    )
    downlink.receive(data)
    event = downlink.next_event()
    if not isinstance(event, ReportReceived):
        raise _NotOursError(f"not a report of {satellite}, or damaged")
    return event


def _keep_report(depot: Depot, satellite: str, received: ReportReceived) -> bool:
    """Keep a report if it is newer than all that were heard; whether it is."""
    highest = depot.journal.report_sessions(satellite).get(received.session)
    last = depot.journal.last_report(satellite)
    if highest is not None and received.sequence <= highest:
        return False
    if last is not None and received.report.boot_count < last.report.boot_count:
        return False
    record_report(depot, satellite, received, station="by hand")
    settle_by_report(depot, satellite, received.report)
    return True


def _list_files(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """All files that are meant, and whether each was named itself."""
    for path in paths:
        if not path.is_dir():
            if not path.is_symlink() and not path.exists():
                raise InputError(f"{path}: no such file or directory", hint="give files, or the directory they are in")
            yield path, True
            continue
        names = []
        for entry in os.scandir(path):
            names.append(entry.name)
            if len(names) > _FILES_MAX:
                raise InputError(f"{path}: more than {_FILES_MAX} files", hint="give a directory of messages only")
        yield from ((path / name, False) for name in sorted(names) if not (path / name).is_dir())


def _read(path: Path) -> bytes:
    """Read a regular file of at most a message's size, and nothing else."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # first: to open a device may do something
            raise _NotOursError("not a regular file; links are not followed")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            data = file.read(MESSAGE_SIZE_MAX + 1)
    except OSError as error:
        raise _NotOursError(f"cannot be read: {error.strerror}") from error
    if len(data) > MESSAGE_SIZE_MAX:
        raise _NotOursError("too large for a message")
    return data
