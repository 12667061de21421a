"""The depot's tables, and how a connection to them is set up.

Times are stored as ISO 8601 text in UTC, paths inside the depot relative to it, so that a depot can be moved.
SCHEMA_VERSION rises with every change that older code would misread; `migration` brings an older depot up to it.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.types import BigInteger, TypeDecorator

from groundsegment.errors import BusyError, DiskError, GroundError
from protocol.frame import HANDLE_SIZE
from protocol.limits import SYMBOL_SIZE_DEFAULT

SCHEMA_VERSION = 3
_DAMAGE = ("not a database", "malformed", "no such table", "no such column", "encrypted")  # in SQLite's words
BUSY_TIMEOUT_MS = 15_000  # another process commits in milliseconds; a stopped one must not hang us for ever


class UtcText(TypeDecorator[datetime]):
    """An aware datetime, kept as text that sorts by time."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Turn a datetime into text."""
        if value is None:
            return None
        assert value.tzinfo is not None
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ANN401
        """Turn text into a datetime."""
        return None if value is None else datetime.fromisoformat(value)


metadata = MetaData()

schema = Table("schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

counters = Table(
    "counters", metadata, Column("name", String(200), primary_key=True), Column("value", BigInteger, nullable=False)
)

satellites = Table(
    "satellites",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("identity_public", LargeBinary(32), nullable=False),
    Column("release_public", LargeBinary, nullable=False),
    Column("added_utc", UtcText, nullable=False),
    Column("symbol_size", Integer, nullable=False, server_default=str(SYMBOL_SIZE_DEFAULT)),
)

stations = Table(
    "stations",
    metadata,
    Column("satellite", ForeignKey("satellites.name"), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(128), nullable=False),
    Column("added_utc", UtcText, nullable=False),
    UniqueConstraint("satellite", "name"),
)

releases = Table(
    "releases",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("registered_utc", UtcText, nullable=False),
)

updates = Table(
    "updates",
    metadata,
    Column("handle", LargeBinary(HANDLE_SIZE), primary_key=True),
    Column("sequence", BigInteger, nullable=False, unique=True),
    Column("satellite", ForeignKey("satellites.name"), nullable=False, index=True),
    Column("release_name", String(128), nullable=False),
    Column("release_digest", LargeBinary(32), nullable=False),
    Column("base_digest", LargeBinary(32)),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("weight", Float, nullable=False, server_default="1"),
    Column("lanes", Integer, nullable=False, server_default="1"),
    Column("symbol_size", Integer, nullable=False, server_default=str(SYMBOL_SIZE_DEFAULT)),
    Column("beside", Boolean, nullable=False, server_default=false()),
    Column("expires_utc", UtcText),
    Column("payload_bytes", BigInteger, nullable=False),
    Column("directory", Text, nullable=False),
    Column("created_utc", UtcText, nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    Column("update", ForeignKey("updates.handle"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("num_segments", Integer, nullable=False),
    Column("path", Text, nullable=False),
)

blocks = Table(
    "blocks",
    metadata,
    Column("satellite", String(128), primary_key=True),
    Column("station", Integer, primary_key=True, autoincrement=False),
    Column("handle", LargeBinary(HANDLE_SIZE), primary_key=True),
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("next_esi", Integer, nullable=False),
    Column("have", Integer, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("satellite", String(128), primary_key=True),
    Column("session", LargeBinary(HANDLE_SIZE), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("station", String(128), nullable=False),
    Column("station_id", Integer, nullable=False),
    Column("received_utc", UtcText, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("satellite", String(128), primary_key=True),
    Column("station", Integer, primary_key=True, autoincrement=False),
    Column("session", LargeBinary(HANDLE_SIZE), primary_key=True),
    Column("highest_sequence", BigInteger, nullable=False),
    Column("first_utc", UtcText, nullable=False),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("satellite", String(128), nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("re", LargeBinary(HANDLE_SIZE), nullable=False),
    Column("body", Text, nullable=False),
    Column("received_utc", UtcText, nullable=False),
    Column("data", LargeBinary),
    UniqueConstraint("satellite", "counter"),
    Index("messages_re", "re"),
)

contacts = Table(
    "contacts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("satellite", String(128), nullable=False, index=True),
    Column("station", String(128), nullable=False),
    Column("station_id", Integer, nullable=False, server_default="0"),
    Column("start_utc", UtcText, nullable=False),
    Column("end_utc", UtcText),
    Column("frames_sent", BigInteger, nullable=False),
    Column("bytes_sent", BigInteger, nullable=False),
    Column("frames_received", BigInteger, nullable=False),
    Column("loss", Float),
    Column("loss_deviation", Float),
    Column("frames_heard", BigInteger, nullable=False, server_default="0"),
    Column("loss_down", Float),
)

losses = Table(
    "losses",
    metadata,
    Column("satellite", String(128), primary_key=True),
    Column("station", Integer, primary_key=True, autoincrement=False),
    Column("direction", String(8), primary_key=True),
    Column("state", Text, nullable=False),
    Column("updated_utc", UtcText, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("handle", LargeBinary(HANDLE_SIZE), primary_key=True),
    Column("satellite", String(128), nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("operation", String(32), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_utc", UtcText, nullable=False),
    UniqueConstraint("satellite", "counter"),
)


# What is known only because a station said so, by the column that has its number; its contacts are history.
OF_A_STATION = (
    (blocks, blocks.c.station),
    (sessions, sessions.c.station),
    (losses, losses.c.station),
    (reports, reports.c.station_id),
    (stations, stations.c.id),
)


def open_engine(url: str) -> Engine:
    """Return an engine whose commits survive a power cut and whose writers wait for each other."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "handle_error", _say_whose_fault, retval=True)
    return engine


def damaged(problem: str) -> DiskError:
    """What to raise when the database is there and not what it was."""
    hint = "restore depot.db from a backup of the depot, or make a new depot with `skyload keys init`"
    return DiskError(f"the depot's database is damaged: {problem}", hint=hint)


def _say_whose_fault(context: ExceptionContext) -> GroundError | None:
    """Turn what the disk or another process did to the database into the ground's own errors."""
    if not isinstance(context.sqlalchemy_exception, DatabaseError):
        return None
    text = str(context.original_exception)
    if any(words in text for words in _DAMAGE):
        return damaged(text)
    if not isinstance(context.sqlalchemy_exception, OperationalError):
        return None
    if "locked" in text or "busy" in text:
        hint = "wait until the other skyload is done, or stop it, then run the same command again"
        return BusyError(f"the depot's database is in use: {text}", hint=hint)
    hint = "check space and permissions of the depot's disk, then run the same command again"
    return DiskError(f"the depot's database: {text}", hint=hint)


def _set_pragmas(connection: Any, record: object) -> None:  # noqa: ANN401 - DBAPI connection
    cursor = connection.cursor()
    # FULL: with NORMAL a power cut may take back a command counter or a sequence number that already flew.
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
