"""What a simulated mission was, contact by contact and in all: plain values, JSON on request."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactRow:
    """One contact of one station.

    Attributes:
        number: in order of their ends.
        station: its name; may be empty.
        start_s: virtual seconds from the mission's start.
        duration_s: of the contact.
        frames_sent: of all kinds.
        frames_lost: or damaged, on the way.
        bytes_sent: frames whole.
        symbols_sent: of all updates, metadata among them.
        symbols_useful: lacking when they came.
        symbols_surplus: arrived, but were of no use.
        symbols_lost: the rest.
        share_done: of all source symbols, on board at its end.
        loss_true: share of this contact's frames that the link took; None if none were sent.
        loss_estimated: what the sender believed at the end.
        loss_deviation: how unsure it was.
        was_heard: whether a report came down.
    """

    number: int
    station: str
    start_s: float
    duration_s: float
    frames_sent: int
    frames_lost: int
    bytes_sent: int
    symbols_sent: int
    symbols_useful: int
    symbols_surplus: int
    symbols_lost: int
    share_done: float
    loss_true: float | None
    loss_estimated: float
    loss_deviation: float
    was_heard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What became of one update.

    Attributes:
        name: of it.
        payload_bytes: of its bundles.
        staged_s: when it was there to be sent.
        on_board_s: when its last bundle was whole on board; None if it never was.
        is_confirmed: on board.
        is_known: whether the ground knows.
        wrong_bytes: objects delivered that are not what was sent.
    """

    name: str
    payload_bytes: int
    staged_s: float
    on_board_s: float | None
    is_confirmed: bool
    is_known: bool
    wrong_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTotals:
    """What went over, all stations together.

    Attributes:
        frames_sent: of all kinds.
        bytes_sent: frames whole.
        symbols_sent: of bundles and metadata.
        symbols_arrived: what of them would have arrived, had none been sent into the end of a contact: the erasures
            of the link itself, station by station.
        bytes_arrived: the same of bytes.
        symbols_needed: source symbols of all objects.
        symbols_cut: that a power cut on board took back.
        symbols_repeated: an ESI was used twice.
        num_kills: of either side.
    """

    frames_sent: int
    bytes_sent: int
    symbols_sent: int
    symbols_arrived: float
    bytes_arrived: float
    symbols_needed: int
    symbols_cut: int
    symbols_repeated: int
    num_kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionResult:
    """A whole mission.

    Attributes:
        contacts: used, in order of their ends.
        updates: in order of staging.
        totals: at the end.
        complete_s: when everything was on board; None if it never was.
        done_s: when the ground knew it; None if it never did.
        at_complete: totals when everything was on board.
        wall_s: seconds this took to simulate.
    """

    contacts: tuple[ContactRow, ...]
    updates: tuple[UpdateResult, ...]
    totals: LinkTotals
    complete_s: float | None
    done_s: float | None
    at_complete: LinkTotals | None
    wall_s: float

    @property
    def payload_bytes(self) -> int:
        """Of all bundles of all updates."""
        return sum(update.payload_bytes for update in self.updates)

    @property
    def wrong_bytes(self) -> int:
        """Objects delivered that are not what was sent."""
        return sum(update.wrong_bytes for update in self.updates)

    @property
    def symbol_ratio(self) -> float:
        """Symbols sent over the limit that the link's real losses set; what power cuts took counts as needed."""
        totals = self.totals
        return totals.symbols_arrived / (totals.symbols_needed + totals.symbols_cut)

    @property
    def link_ratio(self) -> float:
        """Bytes sent, all headers and hellos, over payload / (1 - p)."""
        return self.totals.bytes_arrived / self.payload_bytes if self.payload_bytes else math.nan

    @property
    def num_contacts(self) -> int:
        """Contacts in which something was sent before everything was on board."""
        end_s = math.inf if self.complete_s is None else self.complete_s
        return sum(row.start_s <= end_s and row.symbols_sent > 0 for row in self.contacts)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        return {
            "contacts": [_rounded(asdict(row)) for row in self.contacts],
            "updates": [_rounded(asdict(update)) for update in self.updates],
            "totals": _rounded(asdict(self.totals)),
            "num_contacts": self.num_contacts,
            "complete_s": self.complete_s if self.complete_s is None else round(self.complete_s, 2),
            "done_s": self.done_s if self.done_s is None else round(self.done_s, 2),
            "payload_bytes": self.payload_bytes,
            "wrong_bytes": self.wrong_bytes,
            "symbol_ratio": round(self.symbol_ratio, 5),
            "link_ratio": round(self.link_ratio, 5),
            "wall_s": round(self.wall_s, 2),
        }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


def share_per_contact(contacts: Sequence[ContactRow]) -> list[float]:
    """The share done after each contact, 0 first."""
    return [0.0, *(row.share_done for row in contacts)]
