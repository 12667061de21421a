"""Link profiles as files: YAML in, a checked `LinkProfile` out, or an error that names the key and the line.

Shipped profiles live in `profiles/` and are known by name; anything else is a path. The keys are those of
`LinkProfile` and its parts in conditions.py; docs/link-emulator.md has them in one table. Unknown and
repeated keys are errors: a misspelt `los: 0.1` must not fly as a link without loss.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from groundsegment.emulator.conditions import (
    BurstLoss,
    Contact,
    Direction,
    DirectionProfile,
    LinkProfile,
    PeriodicContacts,
)
from groundsegment.errors import InputError

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

T = TypeVar("T")
D = TypeVar("D")

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
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{source}:{line}: not YAML: {error.problem}", hint=_HINT_SHOW) from error
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not YAML: {error}", hint=_HINT_SHOW) from error
    if root is None:
        raise InputError(f"{source}: empty", hint=_HINT_SHOW)
    section = _Section(source, "", root)
    profile = LinkProfile(
        name=name,
        description=section.take("description", _text, ""),
        up=section.take("up", _direction, DirectionProfile()),
        down=section.take("down", _optional(_direction), DirectionProfile()),
        contacts=section.take("contacts", _contacts, ()),
        time_scale=section.take("time_scale", _positive, 1.0),
    )
    section.close()
    return profile


_HINT_SHOW = "`skyload link show s-band` prints a valid profile to start from"


def _hint_for_name(name: str) -> str:
    near = difflib.get_close_matches(name, profile_names(), n=1)
    question = f"did you mean {near[0]}? " if near else ""
    return f"{question}profiles are {', '.join(profile_names())}, or the path of a YAML file"


class _Node:
    """A YAML node that knows its place: file, line and dotted key."""

    def __init__(self, source: str, key: str, node: yaml.Node) -> None:
        self.source = source
        self.key = key
        self.node = node

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == "tag:yaml.org,2002:null"

    @property
    def scalar(self) -> str | None:
        return self.node.value if isinstance(self.node, yaml.ScalarNode) else None

    def error(self, problem: str, hint: str = _HINT_SHOW) -> InputError:
        place = f"{self.source}:{self.node.start_mark.line + 1}"
        return InputError(f"{place}: {self.key}: {problem}" if self.key else f"{place}: {problem}", hint=hint)

    def items(self) -> list["_Node"]:
        """The elements of a sequence."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("must be a list")
        return [_Node(self.source, f"{self.key}[{n}]", child) for n, child in enumerate(self.node.value)]


class _Section(_Node):
    """A YAML mapping whose keys are taken one by one; `close` refuses what nobody took."""

    def __init__(self, source: str, key: str, node: yaml.Node) -> None:
        super().__init__(source, key, node)
        if not isinstance(node, yaml.MappingNode):
            raise self.error("must be a mapping of keys to values")
        self._children: dict[str, _Node] = {}
        self._taken: list[str] = []
        for key_node, value_node in node.value:
            name = str(key_node.value)
            child = _Node(source, f"{key}.{name}" if key else name, value_node)
            if name in self._children:
                raise _Node(source, child.key, key_node).error("given twice", hint="keep one of the two lines")
            self._children[name] = child

    def take(self, name: str, read: Callable[[_Node], T], default: D) -> T | D:
        """The value of a key, or the default where the file does not have it."""
        self._taken.append(name)
        return read(self._children[name]) if name in self._children else default

    def require(self, name: str, read: Callable[[_Node], T]) -> T:
        """The value of a key that must be there."""
        if name not in self._children:
            raise self.error(f"needs the key {name!r}")
        self._taken.append(name)
        return read(self._children[name])

    def close(self) -> None:
        """Refuse keys nobody asked for."""
        for name, child in self._children.items():
            if name not in self._taken:
                near = difflib.get_close_matches(name, self._taken, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"keys here are {', '.join(self._taken)}"
                raise child.error("unknown key", hint=hint)


def _section(node: _Node) -> _Section:
    return _Section(node.source, node.key, node.node)


def _optional(read: Callable[[_Node], T]) -> Callable[[_Node], T | None]:
    return lambda node: None if node.is_null else read(node)


def _text(node: _Node) -> str:
    if node.scalar is None or node.is_null:
        raise node.error("must be text")
    return node.scalar


def _number(node: _Node) -> float:
    # float() also reads 2e6, which YAML 1.1 takes for text.
    try:
        value = float((node.scalar or "").replace("_", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise node.error(f"must be a number, got {node.scalar!r}" if node.scalar else "must be a number")
    return value


def _positive(node: _Node) -> float:
    value = _number(node)
    if value <= 0:
        raise node.error(f"must be more than 0, got {value:g}")
    return value


def _not_negative(node: _Node) -> float:
    value = _number(node)
    if value < 0:
        raise node.error(f"must be 0 or more, got {value:g}")
    return value


def _probability(node: _Node) -> float:
    value = _number(node)
    if not 0 <= value <= 1:
        raise node.error(f"must be between 0 and 1, got {value:g}", hint="0.1 is 10 %")
    return value


def _whole(node: _Node) -> int:
    value = _number(node)
    if value < 1 or value != int(value):
        raise node.error(f"must be a whole number of at least 1, got {value:g}")
    return int(value)


def _direction(node: _Node) -> DirectionProfile:
    section = _section(node)
    values: Mapping[str, Any] = {
        "rate_bps": section.take("rate_bps", _optional(_positive), None),
        "delay_s": section.take("delay_s", _not_negative, 0.0),
        "jitter_s": section.take("jitter_s", _not_negative, 0.0),
        "loss": section.take("loss", _probability, 0.0),
        "burst": section.take("burst", _optional(_burst), None),
        "bit_error_rate": section.take("bit_error_rate", _probability, 0.0),
        "duplicate": section.take("duplicate", _probability, 0.0),
        "queue_bytes_max": section.take("queue_bytes_max", _optional(_whole), None),
    }
    reorder, reorder_delay_s = section.take("reorder", _reorder, (0.0, 0.0))
    section.close()
    return DirectionProfile(**values, reorder=reorder, reorder_delay_s=reorder_delay_s)


def _burst(node: _Node) -> BurstLoss:
    section = _section(node)
    burst = BurstLoss(
        p_good_to_bad=section.require("p_good_to_bad", _probability),
        p_bad_to_good=section.require("p_bad_to_good", _probability),
        loss_good=section.take("loss_good", _probability, 0.0),
        loss_bad=section.take("loss_bad", _probability, 1.0),
    )
    section.close()
    return burst


def _reorder(node: _Node) -> tuple[float, float]:
    section = _section(node)
    reorder = section.require("probability", _probability), section.require("delay_s", _not_negative)
    section.close()
    return reorder


def _contacts(node: _Node) -> tuple[Contact, ...] | PeriodicContacts:
    if node.is_null:
        return ()
    if isinstance(node.node, yaml.MappingNode):
        return _periodic(node)
    return tuple(_contact(item) for item in node.items())


def _contact(node: _Node) -> Contact:
    section = _section(node)
    start_s = section.require("start_s", _not_negative)
    end_s = section.require("end_s", _optional(_positive))  # null: it never ends
    station = section.take("station", _text, "")
    section.close()
    if end_s is not None and end_s <= start_s:
        raise section.error(f"ends at {end_s:g} s, not after its start at {start_s:g} s")
    return Contact(start_s=start_s, end_s=math.inf if end_s is None else end_s, station=station)


def _periodic(node: _Node) -> PeriodicContacts:
    section = _section(node)
    period_s = section.require("period_s", _positive)
    duration_s = section.require("duration_s", _positive)
    first_s = section.take("first_s", _not_negative, 0.0)
    count = section.take("count", _optional(_whole), None)
    section.close()
    if duration_s >= period_s:
        raise section.error(
            f"duration_s {duration_s:g} leaves no gap in a period of {period_s:g} s",
            hint="leave `contacts` out for a link that is always up",
        )
    return PeriodicContacts(period_s=period_s, duration_s=duration_s, first_s=first_s, count=count)
