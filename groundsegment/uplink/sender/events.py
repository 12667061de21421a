"""What the uplink core says happened. Plain values; the shell shows, stores and logs them."""

from dataclasses import dataclass

from protocol.report import NO_HANDLE, Reason, Report, UpdateState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHeard:
    """A report that was newer than all before it.

    Attributes:
        report: what it says.
        session: of the receiver that made it.
    """

    report: Report
    session: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverRestarted:
    """Reports come from another session than before; what they say is believed, even if it is less."""

    session: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnPathSilent:
    """No report for so long; from now on repair symbols go to all unfinished blocks in turn."""

    silence_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectComplete:
    """The satellite has a whole object.

    Attributes:
        handle: of the object.
        bundle: its number, or None for the metadata or a command.
        update: whose object it is.
    """

    handle: bytes
    bundle: int | None
    update: bytes = NO_HANDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReopened:
    """The satellite no longer has an object that it had reported complete; it is sent again.

    Attributes:
        handle, bundle, update: as above.
    """

    handle: bytes
    bundle: int | None
    update: bytes = NO_HANDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class AllBundlesComplete:
    """Nothing is left to send of an update; the satellite now verifies, tries and decides."""

    update: bytes = NO_HANDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """An update stands elsewhere on board than it did."""

    state: UpdateState
    reason: Reason
    update: bytes = NO_HANDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class DepotBusy:
    """Another process holds the depot's database; nothing is sent until it lets go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUnknown:
    """Nobody has said how fast the link is, and nobody answers: no more is sent until a report comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """Reports came regularly and have stopped: the receiver is called, and no symbols are sent until it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactSkipped:
    """Frames go under another contact's key from now on: nobody answered, or another process began it.

    Attributes:
        number: of the contact.
    """

    number: int


Event = (
    ReportHeard
    | ReceiverRestarted
    | ReturnPathSilent
    | ObjectComplete
    | ObjectReopened
    | AllBundlesComplete
    | StateChanged
    | ContactSkipped
    | DepotBusy
    | HeldBack
    | RateUnknown
)
