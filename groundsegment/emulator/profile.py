"""Link profiles as files: YAML in, a checked `LinkProfile` out, or an error that names the key and the line.

Shipped profiles live in `profiles/` and are known by name; anything else is a path. The keys are those of
`LinkProfile` and its parts in conditions.py; docs/link-emulator.md has them in one table. Unknown and
repeated keys are errors: a misspelt `los: 0.1` must not fly as a link without loss.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from groundsegment import plain_yaml
from groundsegment.emulator.conditions import (
    BurstLoss,
    Contact,
    Direction,
    DirectionProfile,
    LinkProfile,
    PeriodicContacts,
)
from groundsegment.emulator.profile_nodes import (
    HINT_SHOW,
    Node,
    Section,
    not_negative,
    open_section,
    optional,
    positive,
    probability,
    text_of,
    whole,
)
from groundsegment.errors import InputError
from protocol.limits import STATIONS_MAX
from protocol.names import is_safe_name

__all__ = [
    "BurstLoss",
    "Contact",
    "Direction",
    "DirectionProfile",
    "LinkProfile",
    "PeriodicContacts",
    "load_profile",
    "parse_profile",
    "profile_names",
    "profile_text",
]

# A day of contacts at one line each is 100 lines; a file beyond this is not a profile.
PROFILE_BYTES_MAX = 256 * 1024

_SHIPPED = resources.files("groundsegment.emulator") / "profiles"


def profile_names() -> list[str]:
    """The names of the shipped profiles, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def profile_text(name_or_path: str) -> str:
    """The YAML of a profile, shipped or a file's.

    Raises:
        InputError: there is no such profile, or it is not text.
    """
    if name_or_path in profile_names():
        return (_SHIPPED / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise InputError(f"no link profile {name_or_path!r}", hint=_hint_for_name(name_or_path))
    try:
        with path.open("rb") as file:
            raw = file.read(PROFILE_BYTES_MAX + 1)
        if len(raw) > PROFILE_BYTES_MAX:
            raise InputError(
                f"{path}: larger than {PROFILE_BYTES_MAX} bytes",
                hint="a link profile is a short YAML file; is this the right path?",
            )
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text", hint="a link profile is a YAML file in UTF-8") from error


def load_profile(name_or_path: str | Path) -> LinkProfile:
    """Read and check a profile, shipped or a file's.

    Raises:
        InputError: there is no such profile, or it is not valid; names key and line.
    """
    text = profile_text(str(name_or_path))
    is_shipped = str(name_or_path) in profile_names()
    name = str(name_or_path) if is_shipped else Path(name_or_path).stem
    return parse_profile(text, name=name, source=f"{name}.yaml" if is_shipped else str(name_or_path))


def parse_profile(text: str, *, name: str, source: str) -> LinkProfile:
    """Check a profile's YAML.

    Args:
        text: the YAML.
        name: what to call the link.
        source: what to call the text in errors, usually its path.

    Raises:
        InputError: not valid; names key and line.
    """
    try:
        root = plain_yaml.compose(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{source}:{line}: not YAML: {error.problem}", hint=HINT_SHOW) from error
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not YAML: {error}", hint=HINT_SHOW) from error
    if root is None:
        raise InputError(f"{source}: empty", hint=HINT_SHOW)
    section = Section(source, "", root)
    profile = LinkProfile(
        name=name,
        description=section.take("description", text_of, ""),
        up=section.take("up", _direction, DirectionProfile()),
        down=section.take("down", optional(_direction), DirectionProfile()),
        contacts=section.take("contacts", _contacts, ()),
        time_scale=section.take("time_scale", positive, 1.0),
    )
    stations = section.take("stations", lambda node: _stations(node, profile), ())
    section.close()
    return dataclasses.replace(profile, stations=stations)


def _hint_for_name(name: str) -> str:
    near = difflib.get_close_matches(name, profile_names(), n=1)
    question = f"did you mean {near[0]}? " if near else ""
    return f"{question}profiles are {', '.join(profile_names())}, or the path of a YAML file"


def _stations(node: Node, common: LinkProfile) -> tuple[LinkProfile, ...]:
    """Links of stations: what a station does not say is as for all, its contacts those that bear its name."""
    section = open_section(node)
    if len(section.names) > STATIONS_MAX - 1:
        problem = f"{len(section.names)} stations"
        raise node.error(problem, hint=f"there can be {STATIONS_MAX - 1} beside the home station")
    return tuple(section.require(name, partial(_station, name=name, common=common)) for name in section.names)


def _station(node: Node, *, name: str, common: LinkProfile) -> LinkProfile:
    if not is_safe_name(name):
        raise node.error("cannot be a station's name", hint="use letters, digits, dot, dash, underscore")
    section = open_section(node)
    contacts = section.take("contacts", _contacts, None)
    link = LinkProfile(
        name=name,
        description=section.take("description", text_of, ""),
        up=section.take("up", _direction, common.up),
        down=section.take("down", optional(_direction), common.down),
        contacts=_contacts_of(node, name, common) if contacts is None else contacts,
        time_scale=common.time_scale,
    )
    section.close()
    return link


def _contacts_of(node: Node, name: str, common: LinkProfile) -> tuple[Contact, ...] | PeriodicContacts:
    contacts = common.contacts
    if isinstance(contacts, PeriodicContacts) or not any(contact.station for contact in contacts):
        return contacts
    own = tuple(contact for contact in contacts if contact.station == name)
    if not own:
        raise node.error(
            "no contact bears its name", hint="give it `contacts` of its own, or name it in the list above"
        )
    return own


def _direction(node: Node) -> DirectionProfile:
    section = open_section(node)
    values: Mapping[str, Any] = {
        "rate_bps": section.take("rate_bps", optional(positive), None),
        "delay_s": section.take("delay_s", not_negative, 0.0),
        "jitter_s": section.take("jitter_s", not_negative, 0.0),
        "loss": section.take("loss", probability, 0.0),
        "burst": section.take("burst", optional(_burst), None),
        "bit_error_rate": section.take("bit_error_rate", probability, 0.0),
        "duplicate": section.take("duplicate", probability, 0.0),
        "queue_bytes_max": section.take("queue_bytes_max", optional(whole), None),
    }
    reorder, reorder_delay_s = section.take("reorder", _reorder, (0.0, 0.0))
    section.close()
    return DirectionProfile(**values, reorder=reorder, reorder_delay_s=reorder_delay_s)


def _burst(node: Node) -> BurstLoss:
    section = open_section(node)
    burst = BurstLoss(
        p_good_to_bad=section.require("p_good_to_bad", probability),
        p_bad_to_good=section.require("p_bad_to_good", probability),
        loss_good=section.take("loss_good", probability, 0.0),
        loss_bad=section.take("loss_bad", probability, 1.0),
    )
    section.close()
    return burst


def _reorder(node: Node) -> tuple[float, float]:
    section = open_section(node)
    reorder = section.require("probability", probability), section.require("delay_s", not_negative)
    section.close()
    return reorder


def _contacts(node: Node) -> tuple[Contact, ...] | PeriodicContacts:
    if node.is_null:
        return ()
    if isinstance(node.node, yaml.MappingNode):
        return _periodic(node)
    return tuple(_contact(item) for item in node.items())


def _contact(node: Node) -> Contact:
    section = open_section(node)
    start_s = section.require("start_s", not_negative)
    end_s = section.require("end_s", optional(positive))  # null: it never ends
    station = section.take("station", text_of, "")
    section.close()
    if end_s is not None and end_s <= start_s:
        raise section.error(f"ends at {end_s:g} s, not after its start at {start_s:g} s")
    return Contact(start_s=start_s, end_s=math.inf if end_s is None else end_s, station=station)


def _periodic(node: Node) -> PeriodicContacts:
    section = open_section(node)
    period_s = section.require("period_s", positive)
    duration_s = section.require("duration_s", positive)
    first_s = section.take("first_s", not_negative, 0.0)
    count = section.take("count", optional(whole), None)
    section.close()
    if duration_s >= period_s:
        raise section.error(
            f"duration_s {duration_s:g} leaves no gap in a period of {period_s:g} s",
            hint="leave `contacts` out for a link that is always up",
        )
    return PeriodicContacts(period_s=period_s, duration_s=duration_s, first_s=first_s, count=count)
