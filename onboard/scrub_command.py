"""`skyloadd scrub`: through the daemon if one runs, otherwise by itself, under the lock."""

from typing import Any

from onboard.config import Config
from onboard.control_socket import ask_here
from onboard.errors import BusyError, StoreError
from onboard.installer.release import ReleaseDirectory
from onboard.scrub.answering import outcome_fields
from onboard.scrub.scrub import scrub_release
from onboard.state import find_release, layout_of, locked_state, open_record
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout


def scrub_on_board(config: Config, prefix: str | None) -> list[dict[str, Any]]:
    """Scrub at full speed; returns the outcomes as JSON.

    Args:
        config: of the satellite.
        prefix: first digits of a release's digest; None for all.

    Raises:
        OnboardError: there is no such release, or the disk refused.
    """
    try:
        request = {"op": "scrub", "digest": prefix, "now": True}
        releases: list[dict[str, Any]] = ask_here(layout_of(config), request)["releases"]
    except BusyError:
        with locked_state(config) as layout:  # raises BusyError again if one runs that does not answer
            return _scrub(layout, prefix)
    return releases


def _scrub(layout: StateLayout, prefix: str | None) -> list[dict[str, Any]]:
    record = open_record(layout).record
    chosen = record.releases if prefix is None else (find_release(record, prefix),)
    return [_scrub_one(layout, known.digest) for known in chosen]


def _scrub_one(layout: StateLayout, digest: bytes) -> dict[str, Any]:
    directory = layout.release(digest)
    try:
        outcome = scrub_release(
            directory, digest, RealDisk(), files=lambda: ReleaseDirectory.open(directory, digest).files
        )
    except StoreError as error:
        return {
            "digest": digest.hex(),
            "flips_found": 0,
            "flips_repaired": 0,
            "flips": [],
            "lost": [],
            "num_bytes": 0,
            "is_direct": False,
            "trouble": str(error),
            "is_whole": False,
        }
    return outcome_fields(outcome)
