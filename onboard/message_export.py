"""`skyloadd export-messages`: what the satellite has to say, as plain files, for any way down but the link.

    message-HANDLE.ska          an answer, receipt or event that the ground has not acknowledged yet, as it was signed
    report-SESSION-NUMBER.skr   how things stand now; only with a daemon, which counts them

Copies; what is on board stays there until the ground acknowledges it over the link, or newer messages need its place.
A file has its final name only when it is whole and durable; one that is there already is left as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onboard.config import Config
from onboard.control_socket import ask_daemon
from onboard.errors import BusyError, ConfigError
from onboard.state import layout_of
from onboard.store.disk import replace_file
from protocol.file_names import object_file_name
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.names import is_safe_name
from protocol.objects import ObjectKind, object_handle


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMessage:
    """One file.

    Attributes:
        path: where it is.
        size_bytes: of it.
        is_new: written now; else it was there already.
    """

    path: Path
    size_bytes: int
    is_new: bool

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"path": str(self.path), "size_bytes": self.size_bytes, "is_new": self.is_new}


def export_messages(config: Config, directory: Path) -> Iterator[ExportedMessage]:
    """Write what there is to say; yields each file.

    Raises:
        ConfigError: something else has one of the names.
        StoreError: the disk refused.
    """
    layout = layout_of(config)
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted((layout.state_dir / "messages").glob("*.ska")):
        try:
            with path.open("rb") as file:
                data = file.read(MESSAGE_SIZE_MAX + 1)
        except FileNotFoundError:
            continue  # acknowledged meanwhile
        if object_handle(data).hex() == path.stem:  # else torn: it was never said
            yield _write(directory / object_file_name(ObjectKind.MESSAGE, object_handle(data)), data)
    try:
        report = ask_daemon(layout.run, {"op": "report"})
    except BusyError:
        return
    name = str(report["name"])
    if is_safe_name(name):
        yield _write(directory / name, bytes.fromhex(report["data"]))


def _write(path: Path, data: bytes) -> ExportedMessage:
    is_new = not (path.is_symlink() or path.exists())
    if is_new:
        replace_file(path, data)
    elif path.is_symlink() or not path.is_file() or path.read_bytes() != data:
        raise ConfigError(f"{path}: there, but not what it should be", hint="move it away, or give another directory")
    return ExportedMessage(path=path, size_bytes=len(data), is_new=is_new)
