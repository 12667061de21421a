"""Bring the database of an older depot up to what this code knows. Nothing but the database is touched.

Version 2 shortened the handles of objects from 8 to 6 bytes, cut blocks otherwise, and keeps progress for each station.
Satellites, releases, updates, messages and commands stay; what was known of blocks under way and of reports does not:
the satellite says it again. Version 3 says how sure the loss of a contact is; that only adds a column.
"""

from sqlalchemy import Connection, Engine, delete, func, insert, inspect, update
from sqlalchemy.schema import CreateColumn

from groundsegment.depot import tables
from groundsegment.errors import InputError
from protocol.frame import HANDLE_SIZE

OLDEST_VERSION = 1
_SHORT_HANDLES = 2
_MADE_ANEW = (tables.blocks, tables.reports, tables.sessions)
_HANDLES = (
    (tables.updates, "handle"),
    (tables.bundles, "update"),
    (tables.messages, "re"),
    (tables.commands, "handle"),
)


def migrate(engine: Engine, version: int) -> None:
    """Go from an older version to SCHEMA_VERSION, all in one transaction. The caller holds the depot's lock.

    Raises:
        InputError: a database that we cannot change so.
    """
    assert OLDEST_VERSION <= version < tables.SCHEMA_VERSION
    if engine.dialect.name != "sqlite":
        hint = "finish its flights with the skyload that made it, then make a new depot"
        raise InputError(f"a depot of version {version} can be brought up to date in SQLite only", hint=hint)
    # SQLite's driver begins no transaction before a change of tables: we say BEGIN ourselves, for all or nothing.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Handles are keys of one table and references of another: they agree again at the end.
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            _change(connection, version)
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _change(connection: Connection, version: int) -> None:
    for table in _MADE_ANEW if version < _SHORT_HANDLES else ():
        table.drop(connection, checkfirst=True)
    tables.metadata.create_all(connection)
    for table in tables.metadata.sorted_tables:
        there = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                words = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {words}")
    for table, name in _HANDLES if version < _SHORT_HANDLES else ():
        connection.execute(update(table).values({name: func.substr(table.c[name], 1, HANDLE_SIZE)}))
    connection.execute(delete(tables.schema))
    connection.execute(insert(tables.schema).values(version=tables.SCHEMA_VERSION))
