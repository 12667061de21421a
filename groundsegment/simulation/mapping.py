"""A mapping of a scenario's YAML: every key is taken, or it is an error."""

from typing import Any

from groundsegment.errors import InputError

HINT = "`skyload simulate --list` names those that are shipped; docs/simulation.md has the keys"


class Mapping:
    """A YAML mapping of which every key must be taken."""

    def __init__(self, value: object, source: str, key: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{source}: {key or 'this'} must be a mapping of keys to values", hint=HINT)
        self._value: dict[Any, Any] = value
        self._place, self._taken = f"{source}: {key}." if key else f"{source}: ", set[str]()

    def take(self, name: str, default: Any) -> Any:  # noqa: ANN401 - YAML
        """The value of a key."""
        self._taken.add(name)
        return self._value.get(name, default)

    def number(self, name: str, default: float, *, least: float = 0.0, most: float = 1e15) -> float:
        """The value of a key, a number in a range."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise InputError(
                f"{self._place}{name} must be a number from {least:g} to {most:g}, got {value!r}", hint=HINT
            )
        return float(value)

    def items_of(self, name: str) -> list[Any]:
        """The value of a key, a list."""
        value = self.take(name, [])
        if not isinstance(value, list):
            raise InputError(f"{self._place}{name} must be a list", hint=HINT)
        return value

    def items(self) -> list[tuple[Any, Any]]:
        """All keys and values, known or not."""
        return list(self._value.items())

    def close(self) -> None:
        """Refuse keys that nobody asked for."""
        unknown = [str(name) for name in self._value if str(name) not in self._taken]
        if unknown:
            known = ", ".join(sorted(self._taken))
            raise InputError(f"{self._place}{unknown[0]}: unknown key", hint=f"keys here are {known}")
