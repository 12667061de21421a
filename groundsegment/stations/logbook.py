"""The logbook: what a station brings home: how far its lane is, what it heard, its contacts and losses. Pure.

Whoever stole a station can write one, so reading it checks every type and range, and `collecting` believes only what
a thief may say: how far things are. What an update came to is in `messages`, which the satellite signed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from groundsegment.depot.records import BlockProgress, ContactLog, FlightState
from groundsegment.stations.letters import LetterKind, open_letter, seal_letter
from groundsegment.stations.reading import Reader, blob_text, line_text, utc_text
from protocol.contacts import CONTACT_MAX
from protocol.frame import HANDLE_SIZE
from protocol.limits import BLOCKS_MAX, ESI_MAX, MESSAGE_SIZE_MAX, REPORT_SIZE_MAX, STATIONS_MAX
from protocol.link_keys import Direction
from protocol.names import is_safe_name

BLOCKS_LISTED_MAX = 20_000
CONTACTS_MAX = 256
MESSAGES_MAX = 32
CLAIMS_MAX = 64
_LOSS_KEYS_MAX = 16
_SEQUENCE_MAX = 2**40 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardReport:
    """The newest report that the station heard.

    Attributes:
        session: of its frame.
        sequence: of its frame.
        received_utc: by the station's clock.
        data: as it came, not decoded yet.
    """

    session: bytes
    sequence: int
    received_utc: datetime
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Where the station believes an update to stand: handle, state and reason."""

    handle: bytes
    state: FlightState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the station believes of its link in one direction; see `Journal.save_loss`."""

    direction: Direction
    state: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logbook:
    """One letter.

    Attributes:
        satellite: whom it flies.
        station: its number.
        instance: of its directory.
        serial: rising.
        orders: serial of the newest orders it has.
        written_utc: by the station's clock.
        is_complete: whether it has all files of the updates it was ordered to fly.
        progress: of its own lane.
        report: the newest one heard; None if none was.
        messages: signed objects, oldest first, the newest of them all.
        contacts: the newest ones; ids and names mean nothing here.
        claims: where it believes updates to stand.
        losses: of its link.
        contact: number of its last contact.
        heard: number of the last one in which the satellite answered it; 0 if it does not say.
    """

    satellite: str
    station: int
    instance: str
    serial: int
    orders: int
    written_utc: datetime
    is_complete: bool = True
    progress: tuple[BlockProgress, ...] = ()
    report: HeardReport | None = None
    messages: tuple[bytes, ...] = ()
    contacts: tuple[ContactLog, ...] = ()
    claims: tuple[Claim, ...] = ()
    losses: tuple[Loss, ...] = ()
    contact: int = 0
    heard: int = 0

    def seal(self, letters_key: bytes) -> bytes:
        """Return the letter."""
        return seal_letter(LetterKind.LOGBOOK, letters_key, self.as_json())

    @classmethod
    def open(cls, data: bytes, letters_key: bytes) -> "Logbook":
        """Verify and read a letter.

        Raises:
            LetterError: it is none, or says what cannot be.
        """
        return _logbook(Reader(open_letter(LetterKind.LOGBOOK, letters_key, data), "logbook"))

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "satellite": self.satellite,
            "station": self.station,
            "instance": self.instance,
            "serial": self.serial,
            "orders": self.orders,
            "written_utc": utc_text(self.written_utc),
            "is_complete": self.is_complete,
            "progress": [
                {"handle": entry.handle.hex(), "block": entry.block, "next_esi": entry.next_esi, "have": entry.have}
                for entry in self.progress
            ],
            "report": None if self.report is None else _report_json(self.report),
            "messages": [{"data": blob_text(data)} for data in self.messages],
            "contacts": [_contact_json(entry) for entry in self.contacts],
            "claims": [
                {"handle": entry.handle.hex(), "state": str(entry.state), "reason": line_text(entry.reason)}
                for entry in self.claims
            ],
            "contact": self.contact,
            "heard": self.heard,
            "losses": [{"direction": str(entry.direction), "state": dict(entry.state)} for entry in self.losses],
        }


def _logbook(reader: Reader) -> Logbook:
    satellite, station = reader.text("satellite"), reader.integer("station", lowest=1, highest=STATIONS_MAX - 1)
    if not is_safe_name(satellite):
        raise reader.error("satellite", "not a safe name")
    return Logbook(
        satellite=satellite,
        station=station,
        instance=reader.text("instance", length_max=64),
        serial=reader.integer("serial"),
        orders=reader.integer("orders"),
        written_utc=reader.utc("written_utc"),
        is_complete=reader.flag("is_complete"),
        progress=reader.items("progress", _block, count_max=BLOCKS_LISTED_MAX),
        report=_report(reader.child("report")) if reader.has("report") else None,
        messages=reader.items(
            "messages", lambda item: item.blob("data", size_max=MESSAGE_SIZE_MAX), count_max=MESSAGES_MAX
        ),
        contacts=reader.items("contacts", lambda item: _contact(item, satellite, station), count_max=CONTACTS_MAX),
        claims=reader.items("claims", _claim, count_max=CLAIMS_MAX),
        contact=reader.integer("contact", highest=CONTACT_MAX),
        heard=reader.integer("heard", highest=CONTACT_MAX) if reader.has("heard") else 0,
        losses=reader.items("losses", _loss, count_max=len(Direction)),
    )


def _block(reader: Reader) -> BlockProgress:
    return BlockProgress(
        handle=reader.handle("handle"),
        block=reader.integer("block", highest=BLOCKS_MAX - 1),
        next_esi=reader.integer("next_esi", highest=ESI_MAX + 1),
        have=reader.integer("have", highest=ESI_MAX),
    )


def _report_json(report: HeardReport) -> dict[str, Any]:
    return {
        "session": report.session.hex(),
        "sequence": report.sequence,
        "received_utc": utc_text(report.received_utc),
        "data": blob_text(report.data),
    }


def _report(reader: Reader) -> HeardReport:
    return HeardReport(
        session=reader.data("session", size=HANDLE_SIZE),
        sequence=reader.integer("sequence", highest=_SEQUENCE_MAX),
        received_utc=reader.utc("received_utc"),
        data=reader.blob("data", size_max=REPORT_SIZE_MAX),
    )


def _contact_json(entry: ContactLog) -> dict[str, Any]:
    return {
        "start_utc": utc_text(entry.start_utc),
        "end_utc": None if entry.end_utc is None else utc_text(entry.end_utc),
        "frames_sent": entry.frames_sent,
        "bytes_sent": entry.bytes_sent,
        "frames_received": entry.frames_received,
        "loss": entry.loss,
        "loss_deviation": entry.loss_deviation,
        "frames_heard": entry.frames_heard,
        "loss_down": entry.loss_down,
    }


def _contact(reader: Reader, satellite: str, station: int) -> ContactLog:
    def share(name: str) -> float:
        return reader.number(name, lowest=0.0, highest=1.0)

    return ContactLog(
        id=0,
        satellite=satellite,
        station="",
        station_id=station,
        start_utc=reader.utc("start_utc"),
        end_utc=reader.optional("end_utc", reader.utc),
        frames_sent=reader.integer("frames_sent"),
        bytes_sent=reader.integer("bytes_sent"),
        frames_received=reader.integer("frames_received"),
        loss=reader.optional("loss", share),
        loss_deviation=reader.optional("loss_deviation", share),
        frames_heard=reader.integer("frames_heard"),
        loss_down=reader.optional("loss_down", share),
    )


def _claim(reader: Reader) -> Claim:
    return Claim(
        handle=reader.handle("handle"), state=reader.choice("state", FlightState), reason=reader.text("reason")
    )


def _loss(reader: Reader) -> Loss:
    names = reader.child("state").names(count_max=_LOSS_KEYS_MAX)
    return Loss(
        direction=reader.choice("direction", Direction),
        state={name: reader.child("state").number(name) for name in names},
    )
