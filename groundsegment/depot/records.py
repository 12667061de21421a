"""What the depot hands out and takes in: frozen records, one for each kind of row. They know no database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from protocol.limits import SYMBOL_SIZE_DEFAULT
from protocol.objects import handle_of_digest
from protocol.report import Report

ROTATE = "rotate"  # what flies beside the commands and is none: new roots, see `signer.publishing`
FORGOTTEN_HERE = "forgotten here"  # in the reason of an update: no file of it, and no key, is in the depot any more
FORGOTTEN_ON_BOARD = "forgotten on board"  # and this: its satellite said that it wiped the release
HOME_STATION = 0  # the home ground: the depot itself
METADATA_NAME = "metadata.skm"
MANIFEST_NAME = "manifest.msgpack"


class FlightState(StrEnum):
    """Where an update stands, seen from the ground."""

    STAGED = "staged"  # packed, signed, registered; nothing was sent
    FLYING = "flying"  # frames of it were sent
    COMPLETE = "complete"  # the satellite reports every bundle complete
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its metadata was good for nothing before the satellite had it

    @property
    def is_open(self) -> bool:
        """Whether something can still come of it."""
        return self in {FlightState.STAGED, FlightState.FLYING, FlightState.COMPLETE}


class CommandState(StrEnum):
    """Where a command stands."""

    QUEUED = "queued"  # any uplink that flies this satellite sends it
    IN_HAND = "in hand"  # whoever signed it sends it, and waits for the answer
    DONE = "done"  # the satellite signed a word about it
    DROPPED = "dropped"  # nobody waits for it any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Satellite:
    """One satellite.

    Attributes:
        name: as manifests and commands say it.
        identity_public: raw Ed25519 public key that its messages are signed with, 32 bytes.
        release_public: that release keys are wrapped for: X25519, or the ML-KEM hybrid; see `protocol.recipient_keys`.
        added_utc: when.
        symbol_size: bytes of a symbol (T) of its updates, unless one is staged with another.
    """

    name: str
    identity_public: bytes
    release_public: bytes
    added_utc: datetime
    symbol_size: int = SYMBOL_SIZE_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A ground station that may fly a satellite. The home ground is none of them: it is always there, as 0.

    Attributes:
        satellite: which one.
        id: 1 .. STATIONS_MAX - 1: its lane of ESIs, and the number in its frames.
        name: as contact plans say it.
        added_utc: when.
    """

    satellite: str
    id: int
    name: str
    added_utc: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredRelease:
    """A release whose files the ground has, or had, on a disk.

    Attributes:
        digest: of the release, 32 bytes.
        name: as its manifest says it.
        path: the model directory or GGUF file it was staged from. It may have changed since: check its digest.
        size_bytes: of all files.
        registered_utc: when it was staged last.
    """

    digest: bytes
    name: str
    path: Path
    size_bytes: int
    registered_utc: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update for one satellite.

    Attributes:
        handle: of its metadata object.
        sequence: of its manifest.
        satellite: whom it is for.
        release_name: of the target release.
        release_digest: of the target release, 32 bytes.
        base_digest: of the release it builds on; None for a full update.
        state: where it stands.
        reason: why it was rejected or stands still, and whether it was forgotten; empty otherwise.
        priority: higher flies first, strictly.
        weight: its share of the link among updates of one priority, > 0.
        lanes: ESI lanes its symbols are cut into, one for each station; frozen when staged.
        symbol_size: bytes of a symbol (T), frozen when staged.
        beside: whether updates that are under way go on beside it, instead of being superseded.
        expires_utc: its metadata is good for nothing afterwards; None if nobody says.
        payload_bytes: of all bundles.
        directory: where its files are.
        created_utc: when it was signed.
    """

    handle: bytes
    sequence: int
    satellite: str
    release_name: str
    release_digest: bytes
    base_digest: bytes | None
    state: FlightState
    reason: str = ""
    priority: int = 0
    weight: float = 1.0
    lanes: int = 1
    symbol_size: int = SYMBOL_SIZE_DEFAULT
    beside: bool = False
    expires_utc: datetime | None = None
    payload_bytes: int
    directory: Path
    created_utc: datetime

    @property
    def is_forgotten_here(self) -> bool:
        """Whether the depot wiped it; its history stays."""
        return FORGOTTEN_HERE in self.reason

    @property
    def is_forgotten_on_board(self) -> bool:
        """Whether the satellite wiped the release that this update brought."""
        return FORGOTTEN_ON_BOARD in self.reason

    @property
    def metadata_path(self) -> Path:
        """The metadata object's file."""
        return self.directory / METADATA_NAME

    @property
    def manifest_path(self) -> Path:
        """The manifest's file, readable: at home, outside of what stations mirror; older depots have it in there."""
        old = self.directory / MANIFEST_NAME
        return old if old.exists() else self.directory.parent.parent / "manifests" / f"{self.handle.hex()}.msgpack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One bundle of an update.

    Attributes:
        update: handle of the update.
        number: which one of the update, from 0.
        sha256: of the whole object.
        size_bytes: of the whole object.
        num_segments: in it.
        path: its file.
    """

    update: bytes
    number: int
    sha256: bytes
    size_bytes: int
    num_segments: int
    path: Path

    @property
    def handle(self) -> bytes:
        """The object's handle."""
        return handle_of_digest(self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockProgress:
    """How far one block of one object is, for one satellite and one station.

    Attributes:
        handle: of the object.
        block: its number in the object.
        next_esi: the first encoding symbol never sent.
        have: durable symbols on board as last reported; `protocol.report.SOLVED` once solved.
    """

    handle: bytes
    block: int
    next_esi: int
    have: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReport:
    """The newest report of a satellite.

    Attributes:
        satellite: who said it.
        session: of the frame it came in.
        sequence: of the frame it came in.
        station: who heard it, as the contact plan says.
        station_id: to which station it was sent: what it counts is that station's.
        received_utc: when.
        report: what it says.
    """

    satellite: str
    session: bytes
    sequence: int
    station: str = ""
    station_id: int = HOME_STATION
    received_utc: datetime
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """A verified message of a satellite.

    Attributes:
        satellite: who said it.
        counter: its number; a satellite never uses one twice.
        kind: `protocol.message.MessageKind`, as text.
        re: handle of the command or update it answers; all zero for none.
        body: what it says; JSON types only.
        received_utc: when.
        data: the whole signed object, so that others may verify it too; empty in an old depot.
    """

    satellite: str
    counter: int
    kind: str
    re: bytes
    body: Mapping[str, Any] = field(default_factory=dict)
    received_utc: datetime
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactLog:
    """What one contact carried.

    Attributes:
        id: given by `Journal.begin_contact`.
        satellite: with whom.
        station: through which ground station, as the contact plan says.
        station_id: in whose lane.
        start_utc: of the contact.
        end_utc: of the contact; None while it is on, or if its process was killed.
        frames_sent: up, of all kinds.
        bytes_sent: up, frames whole.
        frames_received: how many of those that reports could tell of have arrived.
        loss: share of them that was lost on average, 0..1; None without reports.
        loss_deviation: by so much that may be wrong, as a standard deviation; None where it is not known.
        frames_heard: down, authentic ones.
        loss_down: share of the frames down that was lost on average, 0..1; None if too few came.
    """

    id: int
    satellite: str
    station: str
    station_id: int = HOME_STATION
    start_utc: datetime
    end_utc: datetime | None = None
    frames_sent: int = 0
    bytes_sent: int = 0
    frames_received: int = 0
    loss: float | None = None
    loss_deviation: float | None = None
    frames_heard: int = 0
    loss_down: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedCommand:
    """A signed command.

    Attributes:
        handle: of the command object.
        satellite: whom it is for.
        counter: its number.
        operation: `protocol.command.Operation`, as text, or ROTATE.
        data: the whole object.
        state: where it stands.
        created_utc: when it was signed.
    """

    handle: bytes
    satellite: str
    counter: int
    operation: str
    data: bytes
    state: CommandState
    created_utc: datetime
