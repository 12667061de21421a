"""The journal: what crossed the link, for each satellite, so that a killed process can go on where it was.

Block progress, the newest report, sessions whose reports were heard (a report of an older session is a replay),
verified messages, contacts with their losses, commands and the counters they are numbered with. It does not know
updates; `depot` does.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, and_, case, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from groundsegment.depot import tables
from groundsegment.depot.records import (
    BlockProgress,
    CommandState,
    ContactLog,
    QueuedCommand,
    ReceivedMessage,
    ReceivedReport,
)
from protocol.report import Report


class Journal:
    """What crossed the link. Reached as `Depot.journal`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # Block progress

    def save_progress(self, satellite: str, entries: Iterable[BlockProgress]) -> None:
        """Record how far blocks are, all in one transaction."""
        rows = [{"satellite": satellite, **asdict(entry)} for entry in entries]
        if rows:
            with self._engine.begin() as connection:
                upsert(connection, tables.blocks, rows, keys=("satellite", "handle", "block"))

    def progress(self, satellite: str, handle: bytes | None = None) -> tuple[BlockProgress, ...]:
        """How far the blocks of one object, or of all, are; in order of handle and block."""
        table = tables.blocks
        query = select(table.c.handle, table.c.block, table.c.next_esi, table.c.have)
        query = query.where(table.c.satellite == satellite).order_by(table.c.handle, table.c.block)
        if handle is not None:
            query = query.where(table.c.handle == handle)
        return tuple(BlockProgress(**row._mapping) for row in self._rows(query))

    def forget_progress(self, satellite: str, handles: Iterable[bytes]) -> None:
        """Drop what is known of objects: nobody sends them any more, or the satellite lost them."""
        table = tables.blocks
        with self._engine.begin() as connection:
            for handle in handles:
                connection.execute(delete(table).where(and_(table.c.satellite == satellite, table.c.handle == handle)))

    # Reports

    def record_report(self, entry: ReceivedReport) -> None:
        """Keep the newest report of a satellite, and how far its session is."""
        values = {
            "satellite": entry.satellite,
            "session": entry.session,
            "sequence": entry.sequence,
            "station": entry.station,
            "received_utc": entry.received_utc,
            "data": entry.report.encode(),
        }
        session = {
            "satellite": entry.satellite,
            "session": entry.session,
            "highest_sequence": entry.sequence,
            "first_utc": entry.received_utc,
        }
        with self._engine.begin() as connection:
            upsert(connection, tables.reports, [values], keys=("satellite",))
            upsert(connection, tables.sessions, [session], keys=("satellite", "session"), changed=("highest_sequence",))

    def last_report(self, satellite: str) -> ReceivedReport | None:
        """The newest report of a satellite."""
        rows = self._rows(select(tables.reports).where(tables.reports.c.satellite == satellite))
        if not rows:
            return None
        values = dict(rows[0]._mapping)
        return ReceivedReport(report=Report.decode(values.pop("data")), **values)

    def report_sessions(self, satellite: str) -> Mapping[bytes, int]:
        """Sessions whose reports were recorded: the highest sequence of each, oldest session first."""
        table = tables.sessions
        rows = self._rows(select(table).where(table.c.satellite == satellite).order_by(table.c.first_utc))
        return {row.session: row.highest_sequence for row in rows}

    # Messages

    def add_message(self, entry: ReceivedMessage) -> bool:
        """Keep a verified message; False if it was kept before (the satellite sends until it is acknowledged)."""
        values = {**asdict(entry), "body": json.dumps(dict(entry.body), default=_as_json, sort_keys=True)}
        table = tables.messages
        with self._engine.begin() as connection:
            return connection.execute(_insert(connection, table).values(values).on_conflict_do_nothing()).rowcount == 1

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

    # Contacts

    def begin_contact(self, satellite: str, station: str, start_utc: datetime) -> ContactLog:
        """Open the log of a contact."""
        values = {"satellite": satellite, "station": station, "start_utc": start_utc}
        zeros = {"frames_sent": 0, "bytes_sent": 0, "frames_received": 0}
        with self._engine.begin() as connection:
            key = connection.execute(insert(tables.contacts).values(**values, **zeros)).inserted_primary_key
        assert key is not None
        return ContactLog(id=key[0], satellite=satellite, station=station, start_utc=start_utc)

    def save_contact(self, entry: ContactLog) -> None:
        """Write the log of a contact as it is now."""
        query = update(tables.contacts).where(tables.contacts.c.id == entry.id)
        with self._engine.begin() as connection:
            connection.execute(query.values(asdict(entry)))

    def contacts(self, satellite: str, *, newest: int | None = None) -> tuple[ContactLog, ...]:
        """Contacts in time order; with `newest`, only so many of the last ones."""
        table = tables.contacts
        query = select(table).where(table.c.satellite == satellite).order_by(table.c.id.desc()).limit(newest)
        return tuple(ContactLog(**row._mapping) for row in reversed(self._rows(query)))

    # Commands

    def allocate_command_counter(self, satellite: str) -> int:
        """Return a number for a command to a satellite; none is given out twice."""
        return self.allocate(f"command {satellite}")

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
            connection.execute(_insert(connection, table).values(name=name, value=0).on_conflict_do_nothing())
            raised = case((table.c.value < above, above), else_=table.c.value) + 1
            connection.execute(update(table).where(table.c.name == name).values(value=raised))
            value: int = connection.execute(select(table.c.value).where(table.c.name == name)).scalar_one()
            return value

    def _rows(self, query: Any) -> Sequence[Row[Any]]:  # noqa: ANN401 - Select of any row
        with self._engine.connect() as connection:
            return connection.execute(query).all()


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    keys: tuple[str, ...],
    changed: tuple[str, ...] | None = None,
) -> None:
    """Insert rows, or change those whose keys are there already (only the `changed` columns, where given)."""
    query = _insert(connection, table)
    columns = changed or tuple(column for column in rows[0] if column not in keys)
    values = {column: query.excluded[column] for column in columns}
    connection.execute(query.on_conflict_do_update(index_elements=list(keys), set_=values), list(rows))


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    # ON CONFLICT is the same clause in both dialects, but SQLAlchemy has no common word for it.
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _message(row: Row[Any]) -> ReceivedMessage:
    values = dict(row._mapping)
    del values["id"]
    return ReceivedMessage(**{**values, "body": json.loads(values["body"])})


def _as_json(value: object) -> str:
    """Digests and handles become hex."""
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")
