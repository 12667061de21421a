"""The journal: what crossed the link, for each satellite and station, so that a killed process can go on where it was.

Block progress, the newest report, sessions whose reports were heard (reports of older ones are replays), contacts
with their losses, what is believed of each link. Messages and commands are the `mailbox`'s. It does not know updates;
`depot` does.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import Engine, and_, delete, func, insert, or_, select, update

from groundsegment.depot import tables
from groundsegment.depot.mailbox import Mailbox
from groundsegment.depot.records import HOME_STATION, BlockProgress, ContactLog, ReceivedReport
from groundsegment.depot.upsert import upsert
from protocol.errors import DecodeError
from protocol.link_keys import Direction
from protocol.report import Report


class Journal(Mailbox):
    """What crossed the link. Reached as `Depot.journal`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # Block progress

    def save_progress(self, satellite: str, entries: Iterable[BlockProgress], *, station: int = HOME_STATION) -> None:
        """Record how far blocks are in one station's lane, all in one transaction."""
        rows = [{"satellite": satellite, "station": station, **asdict(entry)} for entry in entries]
        if rows:
            with self._engine.begin() as connection:
                upsert(connection, tables.blocks, rows, keys=("satellite", "station", "handle", "block"))

    def progress(
        self, satellite: str, handle: bytes | None = None, *, station: int = HOME_STATION
    ) -> tuple[BlockProgress, ...]:
        """How far the blocks of one object, or of all, are in one station's lane; in order of handle and block."""
        table = tables.blocks
        query = select(table.c.handle, table.c.block, table.c.next_esi, table.c.have)
        query = query.where(table.c.satellite == satellite, table.c.station == station)
        query = query.order_by(table.c.handle, table.c.block)
        if handle is not None:
            query = query.where(table.c.handle == handle)
        return tuple(BlockProgress(**row._mapping) for row in self._rows(query))

    def on_board(self, satellite: str) -> dict[tuple[bytes, int], int]:
        """What is on board of each block (handle, number), as the station that knows most of it says."""
        table = tables.blocks
        query = select(table.c.handle, table.c.block, func.max(table.c.have).label("have"))
        query = query.where(table.c.satellite == satellite).group_by(table.c.handle, table.c.block)
        return {(row.handle, row.block): row.have for row in self._rows(query)}

    def forget_progress(self, satellite: str, handles: Iterable[bytes]) -> None:
        """Drop what is known of objects: nobody sends them any more, or the satellite lost them."""
        table = tables.blocks
        with self._engine.begin() as connection:
            for handle in handles:
                connection.execute(delete(table).where(and_(table.c.satellite == satellite, table.c.handle == handle)))

    # Reports

    def record_report(self, entry: ReceivedReport) -> None:
        """Keep the newest report of a satellite, and how far its session is at that station."""
        values = {
            "satellite": entry.satellite,
            "session": entry.session,
            "sequence": entry.sequence,
            "station": entry.station,
            "station_id": entry.station_id,
            "received_utc": entry.received_utc,
            "data": entry.report.encode(),
        }
        session = {
            "satellite": entry.satellite,
            "station": entry.station_id,
            "session": entry.session,
            "highest_sequence": entry.sequence,
            "first_utc": entry.received_utc,
        }
        table = tables.reports
        # Two processes may listen at one station, and write down what they heard in either order.
        is_news = or_(table.c.session != entry.session, table.c.station_id != entry.station_id)
        with self._engine.begin() as connection:
            upsert(
                connection,
                table,
                [values],
                keys=("satellite",),
                where=or_(is_news, table.c.sequence <= entry.sequence),
            )
            table = tables.sessions
            upsert(
                connection,
                table,
                [session],
                keys=("satellite", "station", "session"),
                changed=("highest_sequence",),
                where=table.c.highest_sequence < entry.sequence,
            )

    def last_report(self, satellite: str) -> ReceivedReport | None:
        """The newest report of a satellite; none, if it is in the layout of another skyload: one comes soon."""
        rows = self._rows(select(tables.reports).where(tables.reports.c.satellite == satellite))
        if not rows:
            return None
        values = dict(rows[0]._mapping)
        try:
            return ReceivedReport(report=Report.decode(values.pop("data")), **values)
        except DecodeError:
            return None

    def keep_sessions(self, satellite: str, sessions: Mapping[bytes, int], *, station: int, utc: datetime) -> None:
        """Know sessions that were heard elsewhere, oldest first, so that their reports are replays here."""
        rows = [
            {
                "satellite": satellite,
                "station": station,
                "session": session,
                "highest_sequence": sequence,
                "first_utc": utc + timedelta(microseconds=number),
            }
            for number, (session, sequence) in enumerate(sessions.items())
        ]
        if rows:
            with self._engine.begin() as connection:
                upsert(connection, tables.sessions, rows, keys=("satellite", "station", "session"))

    def report_sessions(self, satellite: str, *, station: int = HOME_STATION) -> Mapping[bytes, int]:
        """Sessions whose reports a station recorded: the highest sequence of each, oldest session first."""
        table = tables.sessions
        query = select(table).where(table.c.satellite == satellite, table.c.station == station)
        return {row.session: row.highest_sequence for row in self._rows(query.order_by(table.c.first_utc))}

    # Losses

    def save_loss(
        self, satellite: str, station: int, direction: Direction, state: Mapping[str, float], *, utc: datetime
    ) -> None:
        """Keep what is believed of the loss on one station's link in one direction; it means what its maker says."""
        values = {"satellite": satellite, "station": station, "direction": str(direction)}
        values |= {"state": json.dumps(dict(state), sort_keys=True)}
        with self._engine.begin() as connection:
            upsert(
                connection,
                tables.losses,
                [{**values, "updated_utc": utc}],
                keys=("satellite", "station", "direction"),
            )

    def loss(self, satellite: str, station: int, direction: Direction) -> Mapping[str, float] | None:
        """What was kept of the loss on a link."""
        table = tables.losses
        query = select(table.c.state).where(
            table.c.satellite == satellite, table.c.station == station, table.c.direction == str(direction)
        )
        rows = self._rows(query)
        return dict(json.loads(rows[0].state)) if rows else None

    # Contacts

    def begin_contact(
        self, satellite: str, station: str, start_utc: datetime, *, station_id: int = HOME_STATION
    ) -> ContactLog:
        """Open the log of a contact."""
        values = {"satellite": satellite, "station": station, "station_id": station_id, "start_utc": start_utc}
        zeros = {"frames_sent": 0, "bytes_sent": 0, "frames_received": 0}
        with self._engine.begin() as connection:
            key = connection.execute(insert(tables.contacts).values(**values, **zeros)).inserted_primary_key
        assert key is not None
        return ContactLog(id=key[0], satellite=satellite, station=station, station_id=station_id, start_utc=start_utc)

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
