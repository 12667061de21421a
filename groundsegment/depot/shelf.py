"""The depot's shelf: updates and their bundles. A part of `depot.Depot`.

It knows where their files lie and where each update stands, not what their bytes mean.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from groundsegment.depot import tables
from groundsegment.depot.journal import Journal
from groundsegment.depot.records import FORGOTTEN_HERE, FORGOTTEN_ON_BOARD, Bundle, FlightState, Update
from groundsegment.errors import InputError, UnknownError
from protocol.report import Reason

_SEQUENCE = "sequence"
BASE_TROUBLES = (Reason.BASE_MISSING.name, Reason.BASE_DAMAGED.name)  # as reports say them


class Shelf:
    """Updates of one depot."""

    path: Path
    journal: Journal
    _engine: Engine

    def allocate_sequence(self, *, above: int = 0) -> int:
        """Return a sequence number for an update; none is given out twice.

        Args:
            above: what a satellite has accepted already: a depot made anew must not start below it.
        """
        return self.journal.allocate(_SEQUENCE, above=above)

    def last_sequence(self) -> int:
        """The sequence number given out last; 0 if none was."""
        return self.journal.allocated(_SEQUENCE)

    def add_update(self, entry: Update, bundles: Sequence[Bundle]) -> None:
        """Register an update and its bundles; their files must be in place and synced.

        Raises:
            InputError: it is registered already.
        """
        values = {**asdict(entry), "directory": self._relative(entry.directory)}
        rows = [{**asdict(bundle), "path": self._relative(bundle.path)} for bundle in bundles]
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(tables.updates).values(values))
                if rows:
                    connection.execute(insert(tables.bundles), rows)
        except IntegrityError as error:
            hint = "`skyload status` lists what is registered; stage it again"
            raise InputError(f"update {entry.handle.hex()}: cannot be registered: {error.orig}", hint=hint) from error

    def updates(self, satellite: str | None = None, states: Iterable[FlightState] | None = None) -> tuple[Update, ...]:
        """Updates, highest priority first, then in order of sequence; of one satellite or state where given."""
        table = tables.updates
        query = select(table).order_by(table.c.priority.desc(), table.c.sequence)
        if satellite is not None:
            query = query.where(table.c.satellite == satellite)
        if states is not None:
            query = query.where(table.c.state.in_([str(state) for state in states]))
        return tuple(self._update(row) for row in self._rows(query))

    def open_updates(self, satellite: str) -> tuple[Update, ...]:
        """Updates of a satellite of which something can still come, as they fly."""
        return self.updates(satellite, [state for state in FlightState if state.is_open])

    def update(self, handle: bytes) -> Update:
        """Return one update.

        Raises:
            UnknownError: no such update.
        """
        rows = self._rows(select(tables.updates).where(tables.updates.c.handle == handle))
        if not rows:
            raise UnknownError(f"{handle.hex()}: no such update", hint="`skyload status` lists the updates")
        return self._update(rows[0])

    def set_update_state(self, handle: bytes, state: FlightState, *, reason: str = "") -> Update:
        """Record where an update stands; returns it as it is now.

        One that ends unconfirmed goes on saying that its base was missing or damaged: whoever stages next must know.
        One that was forgotten goes on saying so, though its receipt comes again.
        """
        if not state.is_open:
            before = self.update(handle).reason
            for trouble in BASE_TROUBLES if state is not FlightState.CONFIRMED else ():
                if trouble in before and trouble not in reason:
                    reason = f"{reason} ({trouble})" if reason else trouble
            for word in (FORGOTTEN_ON_BOARD, FORGOTTEN_HERE):
                if word in before and word not in reason:
                    reason = f"{reason}; {word}" if reason else word
        return self._set_update(handle, state=str(state), reason=reason)

    def set_update_share(self, handle: bytes, *, priority: int, weight: float) -> Update:
        """Let an update fly earlier (higher priority) or later, and with another share; returns it as it is now."""
        return self._set_update(handle, priority=priority, weight=weight)

    def bundles(self, handle: bytes) -> tuple[Bundle, ...]:
        """The bundles of an update, in order."""
        table = tables.bundles
        rows = self._rows(select(table).where(table.c.update == handle).order_by(table.c.number))
        entries = (Bundle(**row._mapping) for row in rows)
        return tuple(replace(entry, path=self.path / entry.path) for entry in entries)

    def _set_update(self, handle: bytes, **values: Any) -> Update:  # noqa: ANN401 - columns
        with self._engine.begin() as connection:
            connection.execute(update(tables.updates).where(tables.updates.c.handle == handle).values(**values))
        return self.update(handle)

    def _rows(self, query: Any) -> Sequence[Row[Any]]:  # noqa: ANN401 - Select of any row
        with self._engine.connect() as connection:
            return connection.execute(query).all()

    def _update(self, row: Row[Any]) -> Update:
        values = dict(row._mapping)
        values["state"] = FlightState(values["state"])
        values["directory"] = self.path / values["directory"]
        return Update(**values)

    def _relative(self, path: Path) -> str:
        return str(path.resolve().relative_to(self.path.resolve()))
