"""Which open updates fly now, and why the others wait. Pure.

A satellite follows the newest update it accepted, unless that was staged to go beside the others. So of two updates
the newer of which would end the older, only one flies: the newer if it is more urgent, else the older first. All others
fly together, as many as a satellite keeps: the core shares the link among them by priority and weight. One that was
signed again flies in the place of the old one.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from groundsegment.depot.records import Update
from protocol.report import UPDATES_MAX


class Waiting(StrEnum):
    """Why an open update does not fly now."""

    EXPIRED = "its metadata has expired"
    SIGNED_AGAIN = "it was signed again"
    NO_LANE = "it was staged before this station was registered"
    OLDER_FIRST = "an older update comes first"
    OVERTAKEN = "a newer, more urgent update ends it"
    NO_ROOM = "a satellite keeps no more updates at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    """What flies.

    Attributes:
        flying: most urgent first.
        waiting: the others, and why.
    """

    flying: tuple[Update, ...]
    waiting: tuple[tuple[Update, Waiting], ...]


def line_up(
    updates: Iterable[Update],
    *,
    station: int,
    utc: datetime,
    on_board: Collection[bytes] = (),
    stuck: Collection[bytes] = (),
) -> Lineup:
    """Decide who flies.

    Args:
        updates: all that are open.
        station: whose lane there must be.
        utc: now.
        on_board: handles of updates whose metadata was accepted: expiry is never asked again.
        stuck: handles of updates that stand still for good: a newer one is the cure.
    """
    ordered = sorted(updates, key=lambda update: (-update.priority, update.sequence))
    flying: list[Update] = []
    waiting: list[tuple[Update, Waiting]] = []
    able = []
    for update in ordered:
        why = _hindrance(update, station, utc, on_board)
        if why is None:
            able.append(update)
        else:
            waiting.append((update, why))
    # Of two that make one release, and so share their bundles, the satellite keeps the newer: it goes on where it was.
    newest = {update.release_digest: update for update in sorted(able, key=lambda update: update.sequence)}
    rivals = [update for update in able if newest[update.release_digest] is update]
    waiting += [(update, Waiting.SIGNED_AGAIN) for update in able if newest[update.release_digest] is not update]
    for update in rivals:
        why = _rivalry(update, rivals, stuck)
        if why is None and len(flying) >= UPDATES_MAX:
            why = Waiting.NO_ROOM
        if why is None:
            flying.append(update)
        else:
            waiting.append((update, why))
    return Lineup(flying=tuple(flying), waiting=tuple(waiting))


def _hindrance(update: Update, station: int, utc: datetime, on_board: Collection[bytes]) -> Waiting | None:
    if update.expires_utc is not None and update.expires_utc <= utc and update.handle not in on_board:
        return Waiting.EXPIRED
    return Waiting.NO_LANE if station >= update.lanes else None


def _rivalry(update: Update, rivals: Sequence[Update], stuck: Collection[bytes]) -> Waiting | None:
    for other in rivals:
        if other.sequence < update.sequence and not update.beside:
            if other.priority >= update.priority and other.handle not in stuck:
                return Waiting.OLDER_FIRST
        elif other.sequence > update.sequence and not other.beside and other.priority > update.priority:
            return Waiting.OVERTAKEN
    return None
