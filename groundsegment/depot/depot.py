"""The depot: satellites, releases, updates and bundles, in one directory that any `skyload` process may open.

    depot.db      tables (`tables`); any database SQLAlchemy knows, by URL
    keys/         `groundsegment.signer` keeps its keys here; links/NAME.key is the link key of a satellite
    updates/      one directory for each update: metadata.skm, manifest.msgpack, bundle-00000.skb, ...
    staging/      what `stage` has packed but not yet signed; it may be thrown away
    locks/        who is doing what

Transactions are short, writers wait for each other, and what a method has returned survives a power cut. It does not
know what the bytes of an update mean. What crossed the link is the `journal`'s.
"""

import fcntl
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, Row, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError

from groundsegment.depot import tables
from groundsegment.depot.journal import Journal, upsert
from groundsegment.depot.records import Bundle, FlightState, RegisteredRelease, Satellite, Update
from groundsegment.errors import BusyError, GroundError, InputError, KeyStoreError, UnknownError
from protocol.link_keys import LINK_KEY_SIZE

DATABASE_NAME = "depot.db"
_LOCKS = "locks"
_SEQUENCE = "sequence"
_LOST_HINT = f"there are keys, but {DATABASE_NAME} is gone: restore it from a backup of the depot"


class Depot:
    """One depot. Close it, or use it in a `with`."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine
        self.journal = Journal(engine)

    @classmethod
    def create(cls, path: Path, *, url: str | None = None) -> Self:
        """Make a depot, or open the one that is there.

        Raises:
            InputError: the directory holds something else.
        """
        # An interrupted creation leaves its lock, and perhaps a database without tables.
        names = {entry.name for entry in path.iterdir()} if path.exists() else set()
        if names - {_LOCKS} and DATABASE_NAME not in names:
            hint = _LOST_HINT if (path / "keys").is_dir() else "give an empty or new directory"
            raise InputError(f"{path}: not empty and not a depot", hint=hint)
        if _is_empty(path) and (path / "keys").is_dir():
            raise tables.damaged("it is empty, though there are keys")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = tables.open_engine(url or _database_url(path))
        depot = cls(path, engine)
        with depot.lock("create"):
            if not inspect(engine).has_table("schema"):
                if depot.keys_path.exists():
                    raise tables.damaged("it has no tables, though there are keys")
                with engine.begin() as connection:
                    tables.metadata.create_all(connection)
                    connection.execute(insert(tables.schema).values(version=tables.SCHEMA_VERSION))
        depot._check_schema()
        return depot

    @classmethod
    def open(cls, path: Path, *, url: str | None = None) -> Self:
        """Open a depot.

        Raises:
            InputError: no depot there, or one of a newer version.
        """
        if url is None and not (path / DATABASE_NAME).exists():
            hint = "`skyload keys init` makes one; --depot or SKYLOAD_DEPOT says where it is"
            if (path / "keys").is_dir():
                hint = _LOST_HINT
            raise InputError(f"{path}: no depot there", hint=hint)
        if url is None and _is_empty(path):
            raise tables.damaged("it is empty")
        depot = cls(path, tables.open_engine(url or _database_url(path)))
        depot._check_schema()
        return depot

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def keys_path(self) -> Path:
        """Where the keys are."""
        return self.path / "keys"

    @property
    def updates_path(self) -> Path:
        """Where updates are, one directory each."""
        return self.path / "updates"

    @property
    def staging_path(self) -> Path:
        """Where `stage` packs."""
        return self.path / "staging"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a name against all other processes; it is let go even if we are killed.

        Raises:
            BusyError: another process holds it; says which.
        """
        directory = self.path / _LOCKS
        directory.mkdir(exist_ok=True)
        with (directory / f"{name}.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                hint = "wait until it is done, or stop it; what it has done so far is kept"
                raise BusyError(f"{self.path}: {name} is held by {holder}", hint=hint) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} ({Path(sys.argv[0]).name} {' '.join(sys.argv[1:2])})\n")
            file.flush()
            yield

    # Satellites

    def link_key(self, satellite: str) -> bytes:
        """Return the key of the link to a satellite, 32 bytes.

        Raises:
            UnknownError: no such satellite.
            KeyStoreError: its key file is missing or damaged.
        """
        self.satellite(satellite)
        path = self.link_key_path(satellite)
        hint = "restore it from a backup of the depot; the satellite's kit holds a copy as keys/link.key"
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            raise KeyStoreError(f"{path}: the link key is missing", hint=hint) from None
        except (ValueError, IsADirectoryError):
            raise KeyStoreError(f"{path}: not a key file (64 hex digits)", hint=hint) from None
        if len(key) != LINK_KEY_SIZE:
            raise KeyStoreError(f"{path}: {len(key)} bytes, a link key has {LINK_KEY_SIZE}", hint=hint)
        return key

    def link_key_path(self, satellite: str) -> Path:
        """Where the link key of a satellite is."""
        return self.keys_path / "links" / f"{satellite}.key"

    def add_satellite(self, satellite: Satellite) -> None:
        """Register a satellite.

        Raises:
            InputError: there is one of that name.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(tables.satellites).values(asdict(satellite)))
        except IntegrityError:
            hint = "choose another name; a satellite's kit is made once and never again"
            raise InputError(f"{satellite.name}: there is already a satellite of that name", hint=hint) from None

    def satellites(self) -> tuple[Satellite, ...]:
        """All satellites, by name."""
        return tuple(
            Satellite(**row._mapping)
            for row in self._rows(select(tables.satellites).order_by(tables.satellites.c.name))
        )

    def satellite(self, name: str) -> Satellite:
        """Return one satellite.

        Raises:
            UnknownError: no such satellite; the hint lists those there are.
        """
        known = self.satellites()
        for satellite in known:
            if satellite.name == name:
                return satellite
        names = ", ".join(satellite.name for satellite in known)
        hint = f"known satellites: {names}" if names else "add one: skyload keys add-satellite NAME --kit DIR"
        raise UnknownError(f"{name}: no such satellite in {self.path}", hint=hint)

    # Releases

    def register_release(self, release: RegisteredRelease) -> None:
        """Remember where the files of a release are; the newest place wins."""
        values = {**asdict(release), "path": str(release.path)}
        with self._engine.begin() as connection:
            upsert(connection, tables.releases, [values], keys=("digest",))

    def releases(self) -> tuple[RegisteredRelease, ...]:
        """All releases, newest first."""
        rows = self._rows(select(tables.releases).order_by(tables.releases.c.registered_utc.desc()))
        return tuple(_release(row) for row in rows)

    def find_release(self, digest_start: bytes) -> RegisteredRelease | None:
        """Return the release whose digest starts so (reports carry 8 bytes of it), if it is registered."""
        return next((entry for entry in self.releases() if entry.digest.startswith(digest_start)), None)

    # Updates

    def allocate_sequence(self, *, above: int = 0) -> int:
        """Return a sequence number for an update; none is given out twice.

        Args:
            above: what a satellite has accepted already: a depot made anew must not start below it.
        """
        return self.journal.allocate(_SEQUENCE, above=above)

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

    def update(self, handle: bytes) -> Update:
        """Return one update.

        Raises:
            UnknownError: no such update.
        """
        rows = self._rows(select(tables.updates).where(tables.updates.c.handle == handle))
        if not rows:
            raise UnknownError(f"{handle.hex()}: no such update", hint="`skyload status` lists the updates")
        return self._update(rows[0])

    def find_update(self, handle_start: str) -> Update:
        """Return the one update whose handle starts with these hex digits.

        Raises:
            UnknownError: none, or several.
        """
        wanted = handle_start.lower()
        found = [entry for entry in self.updates() if wanted and entry.handle.hex().startswith(wanted)]
        if len(found) != 1:
            problem = "no such update" if not found else f"{len(found)} updates start so, give more digits"
            raise UnknownError(f"{handle_start!r}: {problem}", hint="`skyload status` lists the updates")
        return found[0]

    def set_update_state(self, handle: bytes, state: FlightState, *, reason: str = "") -> Update:
        """Record where an update stands; returns it as it is now."""
        query = update(tables.updates).where(tables.updates.c.handle == handle)
        with self._engine.begin() as connection:
            connection.execute(query.values(state=str(state), reason=reason))
        return self.update(handle)

    def set_update_priority(self, handle: bytes, priority: int) -> Update:
        """Let an update fly earlier (higher) or later; returns it as it is now."""
        query = update(tables.updates).where(tables.updates.c.handle == handle)
        with self._engine.begin() as connection:
            connection.execute(query.values(priority=priority))
        return self.update(handle)

    def bundles(self, handle: bytes) -> tuple[Bundle, ...]:
        """The bundles of an update, in order."""
        table = tables.bundles
        rows = self._rows(select(table).where(table.c.update == handle).order_by(table.c.number))
        entries = (Bundle(**row._mapping) for row in rows)
        return tuple(replace(entry, path=self.path / entry.path) for entry in entries)

    # Private

    def _check_schema(self) -> None:
        try:
            versions = [row.version for row in self._rows(select(tables.schema))]
        except GroundError:
            self.close()
            raise
        version = max(versions, default=0)
        if version != tables.SCHEMA_VERSION:
            self.close()
            raise InputError(
                f"{self.path}: a depot of version {version}, this skyload knows version {tables.SCHEMA_VERSION}",
                hint="install the skyload that made it, or a newer one",
            )

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


def _is_empty(path: Path) -> bool:
    """Whether there is a database file of no bytes; opening it would make a new one."""
    file = path / DATABASE_NAME
    return file.exists() and file.stat().st_size == 0


def _database_url(path: Path) -> str:
    return f"sqlite:///{path.resolve() / DATABASE_NAME}"


def _release(row: Row[Any]) -> RegisteredRelease:
    values = dict(row._mapping)
    return RegisteredRelease(**{**values, "path": Path(values["path"])})
