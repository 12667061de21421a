"""Orders: what home tells a station: whom to fly, when, with which updates, and what is on board already. Pure.

Everything a station needs beside the bundles themselves. They replace all earlier orders: an update they do not list
must not fly any more. An update is listed only for a station that has a lane in it.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from groundsegment.depot.records import ROTATE, BlockProgress, CommandState, FlightState, QueuedCommand
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.stations.letters import LetterKind, open_letter, seal_letter
from groundsegment.stations.ordered_update import OrderedUpdate, read_update, update_json
from groundsegment.stations.reading import Reader, blob_text, line_text, utc_text
from protocol.command import Operation
from protocol.contacts import CONTACT_MAX
from protocol.limits import BLOCKS_MAX, ESI_MAX, MESSAGE_SIZE_MAX, STATIONS_MAX
from protocol.link_keys import CONTACTS_PER_BATCH, WRAPPED_BATCH_SIZE
from protocol.names import is_safe_name
from protocol.objects import object_handle

UPDATES_MAX = 64  # open ones
CONTACTS_MAX = 1000
BLOCKS_LISTED_MAX = 20_000
COMMANDS_MAX = 16
BATCHES_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An update that flies no more: handle, how it ended, and why."""

    handle: bytes
    state: FlightState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """One letter.

    Attributes:
        satellite: whom to fly.
        station: the number of the station that this is for: its lane.
        name: of that station.
        instance: of the station's directory; another one must not fly.
        serial: rising; older orders are void.
        written_utc: when.
        endpoint: HOST:PORT of the link there; empty if home does not know.
        contacts: of this station; None if home has no plan for it.
        updates: open ones in which it has a lane, as they fly.
        ended: those that flew lately.
        on_board: what home knows to be on board, of blocks of open updates; `next_esi` means nothing here.
        on_board_utc: as of when: of the report that says it; None if none did.
        commands: signed ones that wait for a contact; questions (`ask`) are not among them.
        batches: keys of its next contacts, by number of the batch, wrapped so that only the station can read them.
    """

    satellite: str
    station: int
    name: str
    instance: str
    serial: int
    written_utc: datetime
    endpoint: str = ""
    contacts: tuple[PlannedContact, ...] | None = None
    updates: tuple[OrderedUpdate, ...] = ()
    ended: tuple[Ended, ...] = ()
    on_board: tuple[BlockProgress, ...] = ()
    on_board_utc: datetime | None = None
    commands: tuple[QueuedCommand, ...] = ()
    batches: tuple[tuple[int, bytes], ...] = ()

    def seal(self, letters_key: bytes) -> bytes:
        """Return the letter."""
        return seal_letter(LetterKind.ORDERS, letters_key, self.as_json())

    @classmethod
    def open(cls, data: bytes, letters_key: bytes) -> "Orders":
        """Verify and read a letter.

        Raises:
            LetterError: it is none, or not from home.
        """
        return _orders(Reader(open_letter(LetterKind.ORDERS, letters_key, data), "orders"))

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "satellite": self.satellite,
            "station": self.station,
            "name": self.name,
            "instance": self.instance,
            "serial": self.serial,
            "written_utc": utc_text(self.written_utc),
            "endpoint": self.endpoint,
            "contacts": None if self.contacts is None else [contact_json(contact) for contact in self.contacts],
            "updates": [update_json(entry) for entry in self.updates],
            "ended": [
                {"handle": entry.handle.hex(), "state": str(entry.state), "reason": line_text(entry.reason)}
                for entry in self.ended
            ],
            "on_board": [
                {"handle": entry.handle.hex(), "block": entry.block, "have": entry.have} for entry in self.on_board
            ],
            "on_board_utc": None if self.on_board_utc is None else utc_text(self.on_board_utc),
            "commands": [_command_json(entry) for entry in self.commands],
            "batches": [{"number": number, "key": wrapped.hex()} for number, wrapped in self.batches],
        }


def _orders(reader: Reader) -> Orders:
    return Orders(
        satellite=_name(reader, "satellite"),
        station=reader.integer("station", lowest=1, highest=STATIONS_MAX - 1),
        name=_name(reader, "name"),
        instance=reader.text("instance", length_max=64),
        serial=reader.integer("serial"),
        written_utc=reader.utc("written_utc"),
        endpoint=reader.text("endpoint", length_max=300),
        contacts=reader.optional("contacts", lambda name: reader.items(name, read_contact, count_max=CONTACTS_MAX)),
        updates=reader.items("updates", read_update, count_max=UPDATES_MAX),
        ended=reader.items("ended", _ended, count_max=UPDATES_MAX),
        on_board=reader.items("on_board", _block, count_max=BLOCKS_LISTED_MAX),
        on_board_utc=reader.optional("on_board_utc", reader.utc),
        commands=reader.items("commands", _command, count_max=COMMANDS_MAX),
        batches=reader.items("batches", _batch, count_max=BATCHES_MAX),
    )


def _name(reader: Reader, name: str) -> str:
    value = reader.text(name)
    if not is_safe_name(value):
        raise reader.error(name, "not a safe name")
    return value


# Contacts


def contact_json(contact: PlannedContact) -> dict[str, Any]:
    """As JSON values; whose it is, the letter says."""
    return {
        "start_s": None if math.isinf(contact.start_s) else contact.start_s,
        "end_s": None if math.isinf(contact.end_s) else contact.end_s,
        "rate_bps": contact.rate_bps,
        "guard_s": contact.guard_s,
        "loss": contact.loss,
    }


def read_contact(reader: Reader) -> PlannedContact:
    """Read one."""
    start_s = reader.optional("start_s", reader.number)
    end_s = reader.optional("end_s", reader.number)
    return PlannedContact(
        station="",
        start_s=-math.inf if start_s is None else start_s,
        end_s=math.inf if end_s is None else end_s,
        rate_bps=reader.optional("rate_bps", lambda name: reader.number(name, lowest=1.0, highest=1e12)),
        guard_s=reader.number("guard_s", lowest=0.0, highest=1e6),
        loss=reader.optional("loss", lambda name: reader.number(name, lowest=0.0, highest=1.0 - 1e-9)),
    )


def _ended(reader: Reader) -> Ended:
    state = reader.choice("state", FlightState)
    if state.is_open:
        raise reader.error("state", "not an end")
    return Ended(handle=reader.handle("handle"), state=state, reason=reader.text("reason"))


def _block(reader: Reader) -> BlockProgress:
    return BlockProgress(
        handle=reader.handle("handle"),
        block=reader.integer("block", highest=BLOCKS_MAX - 1),
        next_esi=0,
        have=reader.integer("have", highest=ESI_MAX),
    )


def _batch(reader: Reader) -> tuple[int, bytes]:
    number = reader.integer("number", highest=CONTACT_MAX // CONTACTS_PER_BATCH)
    return number, reader.data("key", size=WRAPPED_BATCH_SIZE)


def _command_json(entry: QueuedCommand) -> dict[str, Any]:
    return {
        "counter": entry.counter,
        "operation": entry.operation,
        "created_utc": utc_text(entry.created_utc),
        "data": blob_text(entry.data),
    }


def _operation(reader: Reader) -> str:
    operation = reader.text("operation")
    if operation not in {*Operation, ROTATE}:
        raise reader.error("operation", f"not one of {', '.join((*Operation, ROTATE))}")
    return operation


def _command(reader: Reader) -> QueuedCommand:
    data = reader.blob("data", size_max=MESSAGE_SIZE_MAX)
    return QueuedCommand(
        handle=object_handle(data),
        satellite="",
        counter=reader.integer("counter", lowest=1),
        operation=_operation(reader),
        data=data,
        state=CommandState.QUEUED,
        created_utc=reader.utc("created_utc"),
    )
