"""The journal's mailbox: verified messages of satellites, signed commands to them, and the counters that number them.

A part of `journal.Journal`. Numbers are given out once, across all processes and power cuts.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Engine, Row, case, insert, select, update

from groundsegment.depot import tables
from groundsegment.depot.records import CommandState, QueuedCommand, ReceivedMessage
from groundsegment.depot.upsert import insert_into


class Mailbox:
    """Messages and commands of one depot."""

    _engine: Engine

    # Messages

    def add_message(self, entry: ReceivedMessage) -> bool:
        """Keep a verified message; False if it was kept before (the satellite sends until it is acknowledged)."""
        values = {**asdict(entry), "body": json.dumps(dict(entry.body), default=_as_json, sort_keys=True)}
        with self._engine.begin() as connection:
            query = insert_into(connection, tables.messages).values(values).on_conflict_do_nothing()
            return connection.execute(query).rowcount == 1

    def messages(
        self,
        satellite: str | None = None,
        *,
        kind: str | None = None,
        re: bytes | None = None,
        newest: int | None = None,
    ) -> tuple[ReceivedMessage, ...]:
        """Messages in the order they came; with `newest`, only so many of the last ones."""
        table = tables.messages
        query = select(table).order_by(table.c.id.desc()).limit(newest)
        for column, wanted in ((table.c.satellite, satellite), (table.c.kind, kind), (table.c.re, re)):
            if wanted is not None:
                query = query.where(column == wanted)
        return tuple(_message(row) for row in reversed(self._rows(query)))

    # Commands

    def allocate_command_counter(self, satellite: str, *, above: int = 0) -> int:
        """Return a number for a command to a satellite, above another one where wanted; none is given out twice."""
        return self.allocate(f"command {satellite}", above=above)

    def add_command(self, entry: QueuedCommand) -> None:
        """Keep a signed command, to be sent until the satellite has it."""
        with self._engine.begin() as connection:
            connection.execute(insert(tables.commands).values({**asdict(entry), "state": str(entry.state)}))

    def commands(self, satellite: str, state: CommandState | None = None) -> tuple[QueuedCommand, ...]:
        """Commands to a satellite in order of their numbers, of one state where given."""
        table = tables.commands
        query = select(table).where(table.c.satellite == satellite).order_by(table.c.counter)
        if state is not None:
            query = query.where(table.c.state == str(state))
        return tuple(QueuedCommand(**{**row._mapping, "state": CommandState(row.state)}) for row in self._rows(query))

    def set_command_state(self, handle: bytes, state: CommandState) -> None:
        """Record where a command stands."""
        query = update(tables.commands).where(tables.commands.c.handle == handle)
        with self._engine.begin() as connection:
            connection.execute(query.values(state=str(state)))

    # Counters

    def allocate(self, name: str, *, above: int = 0) -> int:
        """Return 1, 2, 3, ... for a name, or the next number above another; across all processes and power cuts."""
        table = tables.counters
        with self._engine.begin() as connection:
            # The write comes first: it takes the lock, so nobody can read the same value in between.
            connection.execute(insert_into(connection, table).values(name=name, value=0).on_conflict_do_nothing())
            raised = case((table.c.value < above, above), else_=table.c.value) + 1
            connection.execute(update(table).where(table.c.name == name).values(value=raised))
            value: int = connection.execute(select(table.c.value).where(table.c.name == name)).scalar_one()
            return value

    def raise_counter(self, name: str, value: int) -> None:
        """Set a counter to a value, if it is below: whoever else has raised it further is not undone, nor passed."""
        table = tables.counters
        with self._engine.begin() as connection:
            connection.execute(insert_into(connection, table).values(name=name, value=0).on_conflict_do_nothing())
            lower = (table.c.name == name) & (table.c.value < value)
            connection.execute(update(table).where(lower).values(value=value))

    def allocated(self, name: str) -> int:
        """The number given out last for a name; 0 if none was."""
        table = tables.counters
        rows = self._rows(select(table.c.value).where(table.c.name == name))
        return int(rows[0].value) if rows else 0

    def _rows(self, query: Any) -> Sequence[Row[Any]]:  # noqa: ANN401 - Select of any row
        with self._engine.connect() as connection:
            return connection.execute(query).all()


def _message(row: Row[Any]) -> ReceivedMessage:
    values = dict(row._mapping)
    del values["id"]
    return ReceivedMessage(**{**values, "body": json.loads(values["body"]), "data": values["data"] or b""})


def _as_json(value: object) -> str:
    """Digests and handles become hex."""
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")
