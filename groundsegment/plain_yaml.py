"""YAML as people write it: no bombs, no deep nesting, no tags beyond the plain ones. Pure.

PyYAML's safe loader runs nothing, but a file of a few hundred bytes can say a list of lists of lists by alias that has
a billion entries once somebody prints it, or that contains itself, and its composer recurses as deep as the brackets
do. All are refused as errors of YAML, with their line, so that whoever reads a file has one kind of error to catch.
Aliases are counted as what they stand for.
"""

from typing import Any, NoReturn

import yaml

DEPTH_MAX = 20  # the deepest file that is shipped has five levels
NODES_MAX = 200_000  # a plan of a year of passes has some tens of thousands


class PlainLoader(yaml.SafeLoader):
    """See the module."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._deepest = self._num_nodes = 0
        self._anchored: dict[str, tuple[int, int]] = {}  # how many nodes and levels an anchor stands for

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node; MarkedYAMLError if it contains itself, lies too deep, or there are too many."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._anchored:
                self._refuse("it contains itself")
            self._take(*self._anchored.get(str(event.anchor), (1, 1)))  # an unknown one is the composer's to refuse
            return super().compose_node(parent, index)
        num_before, deepest_before = self._num_nodes, self._deepest
        self._take(1, 1)
        self._depth += 1
        self._deepest = self._depth
        try:
            node = super().compose_node(parent, index)
        finally:
            self._depth -= 1
        if event.anchor is not None:
            self._anchored[event.anchor] = self._num_nodes - num_before, self._deepest - self._depth
        self._deepest = max(self._deepest, deepest_before)
        return node

    def _take(self, num_nodes: int, num_levels: int) -> None:
        self._num_nodes += num_nodes
        self._deepest = max(self._deepest, self._depth + num_levels)
        if self._depth + num_levels > DEPTH_MAX:
            self._refuse(f"more than {DEPTH_MAX} levels")
        if self._num_nodes > NODES_MAX:
            self._refuse(f"more than {NODES_MAX} entries")

    def _refuse(self, problem: str) -> NoReturn:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def load(text: str) -> Any:  # noqa: ANN401 - whatever the file says
    """Return what a text says.

    Raises:
        yaml.YAMLError: it is not YAML, or not plain.
    """
    try:
        return yaml.load(text, Loader=PlainLoader)  # noqa: S506 - a safe loader
    except (ValueError, OverflowError) as error:  # 2026-13-45 looks like a date
        raise yaml.YAMLError(str(error)) from None


def compose(text: str) -> yaml.Node | None:
    """Return the nodes of a text, None for an empty one. Raises as `load`."""
    return yaml.compose(text, Loader=PlainLoader)
