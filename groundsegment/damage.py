"""What satellites lost of their releases and cannot repair themselves, by what they said last of each."""

from dataclasses import dataclass
from datetime import datetime

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ReceivedMessage
from protocol.damage import DamageReport
from protocol.errors import DecodeError
from protocol.message import MessageKind


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDamage:
    """Damage that a satellite asked the ground to undo.

    Attributes:
        report: what is lost.
        name: of the release, empty if the depot does not know it.
        received_utc: when it was said.
    """

    report: DamageReport
    name: str
    received_utc: datetime


def damage_of(depot: Depot, satellite: str) -> tuple[KnownDamage, ...]:
    """What is lost on board of a satellite, the newest first; a release that it found whole again is not there."""
    said: dict[bytes, KnownDamage] = {}
    for entry in depot.journal.messages(satellite, kind=str(MessageKind.DAMAGE)):
        report = _read(entry)
        if report is None:
            continue
        said.pop(report.release, None)
        if report.lost:
            known = depot.find_release(report.release)
            said[report.release] = KnownDamage(
                report=report, name=known.name if known else "", received_utc=entry.received_utc
            )
    return tuple(reversed(said.values()))


def _read(entry: ReceivedMessage) -> DamageReport | None:
    body = dict(entry.body)
    try:  # it was kept as JSON
        return DamageReport.from_body({**body, "release": bytes.fromhex(str(body.get("release")))})
    except (DecodeError, ValueError):
        return None
