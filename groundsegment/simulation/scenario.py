"""What is flown over which links: a scenario, in full or scaled. Pure; `scenario_file` reads them.

A scaled scenario keeps rates, delays and gaps: a second is a second, there are only fewer of them in a contact. What
happens at the ends of contacts weighs more than it would in full.
"""

from dataclasses import dataclass, replace

from groundsegment.emulator.conditions import Contact, LinkProfile, PeriodicContacts
from protocol.limits import MIB, SYMBOL_SIZE_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUpdate:
    """One update of a scenario.

    Attributes:
        name: of it.
        size_bytes: of its payload.
        priority: higher goes first.
        weight: share within its priority.
        staged_s: when it is there to be sent.
    """

    name: str
    size_bytes: int
    priority: int = 0
    weight: float = 1.0
    staged_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """See the module.

    Attributes:
        links: one for each station, with its contacts.
        silences: (from, to) in virtual seconds.
    """

    name: str
    description: str
    updates: tuple[PlannedUpdate, ...]
    links: tuple[LinkProfile, ...]
    until_s: float
    scale: float = 1.0
    symbol_size: int = SYMBOL_SIZE_DEFAULT
    bundle_bytes: int = 16 * MIB
    known_loss: float = 0.05
    ground_kills: int = 0
    satellite_kills: int = 0
    silences: tuple[tuple[float, float], ...] = ()
    is_compared: bool = False
    seed: int = 1

    @property
    def payload_bytes(self) -> int:
        """Of all updates, as flown."""
        return sum(update.size_bytes for update in self.updates)

    def scaled(self, scale: float) -> "Scenario":
        """The same, with payload and contacts so many times smaller than the file says."""
        change = scale / self.scale
        updates = tuple(
            replace(update, size_bytes=max(1, round(update.size_bytes / change))) for update in self.updates
        )
        return replace(self, scale=scale, updates=updates, links=tuple(_shortened(link, change) for link in self.links))


def _shortened(link: LinkProfile, change: float) -> LinkProfile:
    contacts = link.contacts
    if isinstance(contacts, PeriodicContacts):
        return replace(link, contacts=replace(contacts, duration_s=contacts.duration_s / change))
    return replace(
        link,
        contacts=tuple(
            Contact(
                start_s=contact.start_s,
                end_s=contact.start_s + (contact.end_s - contact.start_s) / change,
                station=contact.station,
            )
            for contact in contacts
        ),
    )
