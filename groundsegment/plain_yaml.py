"""YAML as people write it: no aliases, no deep nesting, no tags beyond the plain ones. Pure.

PyYAML's safe loader runs nothing, but a file of a few hundred bytes can say a list of lists of lists by alias that has
a billion entries once somebody prints it, and its composer recurses as deep as the brackets do. Both are refused as
errors of YAML, with their line, so that whoever reads a file has one kind of error to catch.
"""

from typing import Any, NoReturn

import yaml

DEPTH_MAX = 20  # the deepest file that is shipped has five levels


class PlainLoader(yaml.SafeLoader):
    """See the module."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node; MarkedYAMLError for an alias, or if it lies too deep."""
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not read")
        if self._depth >= DEPTH_MAX:
            self._refuse(f"more than {DEPTH_MAX} levels")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

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
