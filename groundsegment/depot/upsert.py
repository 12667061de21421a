"""Insert or change, in the dialects that know it: what SQLAlchemy has no common word for."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert


def insert_into(connection: Connection, table: Table) -> Insert:
    """Return an insert that may say ON CONFLICT: the same clause in both dialects."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    keys: tuple[str, ...],
    changed: tuple[str, ...] | None = None,
    where: ColumnElement[bool] | None = None,
) -> None:
    """Insert rows, or change those whose keys are there already.

    Args:
        connection: in a transaction.
        table: which one.
        rows: all with the same columns.
        keys: a unique key of the table.
        changed: only these columns change; all but the keys if left out.
        where: only rows of which this holds change.
    """
    query = insert_into(connection, table)
    columns = changed or tuple(column for column in rows[0] if column not in keys)
    values = {column: query.excluded[column] for column in columns}
    connection.execute(query.on_conflict_do_update(index_elements=list(keys), set_=values, where=where), list(rows))
