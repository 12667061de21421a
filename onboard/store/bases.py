"""Which release an adapter's release is served with: it says so itself, and its base lies beside it.

Both the installer, which must not delete that base, and whoever starts an engine ask here.
"""

from pathlib import Path

from onboard.store.layout import directory_name
from protocol.adapters import base_note
from protocol.adapters.errors import AdapterError
from protocol.adapters.names import NOTE_NAME


def base_of(release: Path) -> bytes | None:
    """Return the digest of the release that the one in a directory is an adapter of; None if it is none."""
    try:
        with (release / NOTE_NAME).open("rb") as file:
            return base_note.decode(file.read(base_note.NOTE_SIZE_MAX + 1))
    except (OSError, AdapterError):
        return None


def base_directory_of(release: Path) -> Path | None:
    """Return where the base of an adapter's release lies, whether or not it is there; None for any other release."""
    base = base_of(release)
    return None if base is None else release.absolute().parent / directory_name(base)
