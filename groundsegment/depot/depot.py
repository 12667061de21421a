"""The depot: satellites, releases, updates and bundles, in one directory that any `skyload` process may open.

    depot.db      tables (`tables`); any database SQLAlchemy knows, by URL
    keys/         `groundsegment.signer` keeps its keys here; links/ and stations/ hold the keys of links
    updates/      one directory for each update: metadata.skm, bundle-00000.skb, ...; sealed, so it may be mirrored
    manifests/    what the metadata of each update says, readable: it stays at home
    adapters/     releases that adapters make, as the satellite has them, until nothing is to build on them
    staging/      what `stage` has packed but not yet signed; it may be thrown away
    locks/        who is doing what

Transactions are short, writers wait for each other, and what a method has returned survives a power cut. It does not
know what the bytes of an update mean. Satellites, stations and keys are the `catalogue`'s, updates the `shelf`'s, what
crossed the link is the `journal`'s.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, insert, inspect, select

from groundsegment.depot import migration, tables
from groundsegment.depot.catalogue import Catalogue
from groundsegment.depot.journal import Journal
from groundsegment.depot.records import HOME_STATION
from groundsegment.depot.shelf import Shelf
from groundsegment.errors import BusyError, GroundError, InputError

DATABASE_NAME = "depot.db"
_LOCKS = "locks"
_LOST_HINT = f"there are keys, but {DATABASE_NAME} is gone: restore it from a backup of the depot"


class Depot(Catalogue, Shelf):
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
    def updates_path(self) -> Path:
        """Where updates are, one directory each."""
        return self.path / "updates"

    @property
    def staging_path(self) -> Path:
        """Where `stage` packs."""
        return self.path / "staging"

    @contextmanager
    def uplink_lock(self, satellite: str, station: int) -> Iterator[None]:
        """Hold the lane of one station of one satellite: nobody else sends in it.

        Raises:
            BusyError: another process does.
        """
        with self.lock(f"uplink-{satellite}" if station == HOME_STATION else f"uplink-{satellite}@{station}"):
            yield

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

    # Private

    def _check_schema(self) -> None:
        try:
            versions = [row.version for row in self._rows(select(tables.schema))]
        except GroundError:
            self.close()
            raise
        version = max(versions, default=0)
        if migration.OLDEST_VERSION <= version < tables.SCHEMA_VERSION:
            with self.lock("create"):
                migration.migrate(self._engine, version)
        elif version != tables.SCHEMA_VERSION:
            self.close()
            raise InputError(
                f"{self.path}: a depot of version {version}, this skyload knows version {tables.SCHEMA_VERSION}",
                hint="install the skyload that made it, or a newer one",
            )


def _is_empty(path: Path) -> bool:
    """Whether there is a database file of no bytes; opening it would make a new one."""
    file = path / DATABASE_NAME
    return file.exists() and file.stat().st_size == 0


def _database_url(path: Path) -> str:
    return f"sqlite:///{path.resolve() / DATABASE_NAME}"
