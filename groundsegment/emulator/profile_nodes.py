"""A profile's YAML as nodes that know their place, and readers of single values. `profile` says what they mean.

Every reader raises InputError with file, line and dotted key.
"""

import difflib
import math
from collections.abc import Callable
from typing import TypeVar

import yaml

from groundsegment.errors import InputError

T = TypeVar("T")
D = TypeVar("D")

HINT_SHOW = "`skyload link show s-band` prints a valid profile to start from"


class Node:
    """A YAML node that knows its place: file, line and dotted key."""

    def __init__(self, source: str, key: str, node: yaml.Node) -> None:
        self.source = source
        self.key = key
        self.node = node

    @property
    def is_null(self) -> bool:
        """Whether it is null or empty."""
        return isinstance(self.node, yaml.ScalarNode) and self.node.tag == "tag:yaml.org,2002:null"

    @property
    def scalar(self) -> str | None:
        """Its text; None if it is a list or a mapping."""
        return self.node.value if isinstance(self.node, yaml.ScalarNode) else None

    def error(self, problem: str, hint: str = HINT_SHOW) -> InputError:
        """What to raise about it."""
        place = f"{self.source}:{self.node.start_mark.line + 1}"
        return InputError(f"{place}: {self.key}: {problem}" if self.key else f"{place}: {problem}", hint=hint)

    def items(self) -> list["Node"]:
        """The elements of a sequence."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("must be a list")
        return [Node(self.source, f"{self.key}[{n}]", child) for n, child in enumerate(self.node.value)]


class Section(Node):
    """A YAML mapping whose keys are taken one by one; `close` refuses what nobody took."""

    def __init__(self, source: str, key: str, node: yaml.Node) -> None:
        super().__init__(source, key, node)
        if not isinstance(node, yaml.MappingNode):
            raise self.error("must be a mapping of keys to values")
        self._children: dict[str, Node] = {}
        self._taken: list[str] = []
        for key_node, value_node in node.value:
            name = str(key_node.value)
            child = Node(source, f"{key}.{name}" if key else name, value_node)
            if name in self._children:
                raise Node(source, child.key, key_node).error("given twice", hint="keep one of the two lines")
            self._children[name] = child

    @property
    def names(self) -> list[str]:
        """Its keys, in order."""
        return list(self._children)

    def take(self, name: str, read: Callable[[Node], T], default: D) -> T | D:
        """The value of a key, or the default where the file does not have it."""
        self._taken.append(name)
        return read(self._children[name]) if name in self._children else default

    def require(self, name: str, read: Callable[[Node], T]) -> T:
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


def open_section(node: Node) -> Section:
    """Take a node for a mapping."""
    return Section(node.source, node.key, node.node)


def optional(read: Callable[[Node], T]) -> Callable[[Node], T | None]:
    """A reader that takes null for None."""
    return lambda node: None if node.is_null else read(node)


def text_of(node: Node) -> str:
    """Text."""
    if node.scalar is None or node.is_null:
        raise node.error("must be text")
    return node.scalar


def number(node: Node) -> float:
    """A finite number."""
    # float() also reads 2e6, which YAML 1.1 takes for text.
    try:
        value = float((node.scalar or "").replace("_", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise node.error(f"must be a number, got {node.scalar!r}" if node.scalar else "must be a number")
    return value


def positive(node: Node) -> float:
    """More than 0."""
    value = number(node)
    if value <= 0:
        raise node.error(f"must be more than 0, got {value:g}")
    return value


def not_negative(node: Node) -> float:
    """0 or more."""
    value = number(node)
    if value < 0:
        raise node.error(f"must be 0 or more, got {value:g}")
    return value


def probability(node: Node) -> float:
    """0 to 1."""
    value = number(node)
    if not 0 <= value <= 1:
        raise node.error(f"must be between 0 and 1, got {value:g}", hint="0.1 is 10 %")
    return value


def whole(node: Node) -> int:
    """A whole number of at least 1."""
    value = number(node)
    if value < 1 or value != int(value):
        raise node.error(f"must be a whole number of at least 1, got {value:g}")
    return int(value)
