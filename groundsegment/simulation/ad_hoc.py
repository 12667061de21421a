"""Scenarios of a contact plan, or of a link profile of the emulator, without a file of their own."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from groundsegment.emulator.conditions import Contact, DirectionProfile, LinkProfile
from groundsegment.emulator.profile import load_profile
from groundsegment.planner.contact_plan import PlannedContact, load_contact_plan
from groundsegment.simulation.scenario import PlannedUpdate, Scenario

DEFAULT_SIZE = 50_000_000
_UNTIL_S = 60 * 86_400.0
_CONTACTS_MAX = 2000
_DELAY_S = 0.03
_LOSS = 0.05  # where a plan does not say


def of_profile(name: str, *, seed: int | None) -> Scenario:
    """A scenario over the links of a profile.

    Raises:
        InputError: there is no such profile, or it is not valid.
    """
    profile = load_profile(name)
    links = tuple(replace(link, stations=()) for link in (profile.stations or (replace(profile, name=""),)))
    return _scenario(profile.name, links, seed)


def of_plan(path: Path, *, seed: int | None) -> Scenario:
    """A scenario over the contacts of a plan: rates and losses are its own, the way back is as lossy as the way up.

    Raises:
        InputError: no such file, or not a contact plan.
    """
    plan = load_contact_plan(path, now_s=0.0).whole()
    contacts = list(itertools.islice(plan.from_time(-math.inf), _CONTACTS_MAX))
    epoch_s = min(contact.start_s for contact in contacts)
    names = list(dict.fromkeys(contact.station for contact in contacts))
    links = [
        _link(name, [contact for contact in contacts if contact.station == name], epoch_s, plan.loss) for name in names
    ]
    return _scenario(path.stem, tuple(links), seed)


def _link(name: str, contacts: Iterable[PlannedContact], epoch_s: float, loss: float | None) -> LinkProfile:
    own = list(contacts)
    expected = own[0].loss if own[0].loss is not None else loss
    found = _LOSS if expected is None else expected
    return LinkProfile(
        name=name,
        up=DirectionProfile(rate_bps=own[0].rate_bps, delay_s=_DELAY_S, loss=found),
        down=DirectionProfile(delay_s=_DELAY_S, loss=found),
        contacts=tuple(
            Contact(start_s=contact.start_s - epoch_s, end_s=contact.end_s - epoch_s, station=name) for contact in own
        ),
    )


def _scenario(name: str, links: tuple[LinkProfile, ...], seed: int | None) -> Scenario:
    update = PlannedUpdate(name="update", size_bytes=DEFAULT_SIZE)
    return Scenario(
        name=name, description="", updates=(update,), links=links, until_s=_UNTIL_S, seed=1 if seed is None else seed
    )
