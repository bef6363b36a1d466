"""One row over a connection of the user's, inside whatever transaction is open there. Nothing is committed here.

Connections are known by their class, so that no driver is imported that the user does not have:

| connection                                                    | `enqueue` | `aenqueue` |
|---------------------------------------------------------------|-----------|------------|
| `sqlite3.Connection`                                          | yes       | yes        |
| `psycopg.Connection`                                          | yes       | yes        |
| `psycopg.AsyncConnection`                                     | no        | yes        |
| SQLAlchemy `Connection`, `Session`, over SQLite or PostgreSQL | yes       | yes        |
| SQLAlchemy `AsyncConnection`, `AsyncSession`                  | no        | yes        |
"""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, Final, NamedTuple

from raftwork.errors import InvalidOption

__all__ = ["COLUMNS", "Row", "Writer", "writer_of"]

COLUMNS: Final = ("id", "function", "queue", "job", "created_ms")
_INTO: Final = f"INSERT INTO raftwork_outbox ({', '.join(COLUMNS)}) VALUES "
_HINT: Final = (
    "If the table is missing: `raftwork outbox create-table URL` makes it, and with --print shows the statements for "
    "your own migrations."
)


class Row(NamedTuple):
    """What is inserted, in the order of `COLUMNS`."""

    id: str
    function: str
    queue: str
    job: bytes
    created_ms: int


class Writer(ABC):
    """Writes rows over one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @abstractmethod
    def write(self, row: Row) -> None:
        """Insert one row.

        Raises:
            InvalidOption: the connection is for event loops only.
            Exception: whatever the driver raises; the row is as the transaction then is.
        """

    async def awrite(self, row: Row) -> None:
        """`write` for a running event loop. Over a plain connection it blocks the loop as the user's own SQL does."""
        self.write(row)


class _Plain(Writer):
    """A connection with `execute(sql, values)`: sqlite3 and psycopg."""

    def __init__(self, connection: Any, sign: str) -> None:
        super().__init__(connection)
        self._sql = f"{_INTO}({', '.join([sign] * len(COLUMNS))})"

    def write(self, row: Row) -> None:
        with _hinted():
            self._connection.execute(self._sql, tuple(row))


class _AsyncPlain(_Plain):
    def write(self, row: Row) -> None:
        raise _only_async(self._connection)

    async def awrite(self, row: Row) -> None:
        with _hinted():
            await self._connection.execute(self._sql, tuple(row))


class _Alchemy(Writer):
    """SQLAlchemy knows how each driver takes values."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        import sqlalchemy  # It is there: the connection is one of its own.

        names = ", ".join(f":{name}" for name in COLUMNS)
        self._sql = sqlalchemy.text(f"{_INTO}({names})")

    def write(self, row: Row) -> None:
        with _hinted():
            self._connection.execute(self._sql, row._asdict())


class _AsyncAlchemy(_Alchemy):
    def write(self, row: Row) -> None:
        raise _only_async(self._connection)

    async def awrite(self, row: Row) -> None:
        with _hinted():
            await self._connection.execute(self._sql, row._asdict())


def writer_of(connection: Any) -> Writer:
    """How rows are written over this connection.

    Raises:
        InvalidOption: it is no connection that is known, or one to another database.
    """
    if isinstance(connection, sqlite3.Connection):
        return _Plain(connection, "?")
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(connection).__mro__}
    if "psycopg.AsyncConnection" in kinds:
        return _AsyncPlain(connection, "%s")
    if "psycopg.Connection" in kinds:
        return _Plain(connection, "%s")
    if kinds & {"sqlalchemy.AsyncSession", "sqlalchemy.AsyncConnection", "sqlalchemy.async_scoped_session"}:
        return _checked(_AsyncAlchemy(connection), connection)
    if kinds & {"sqlalchemy.Session", "sqlalchemy.Connection", "sqlalchemy.scoped_session"}:
        return _checked(_Alchemy(connection), connection)
    raise InvalidOption(
        f"connection={connection!r:.100} is no connection that is known. Give one of sqlite3, psycopg 3 or SQLAlchemy: "
        "the connection itself, not a cursor, an engine or a pool."
    )


def _checked(writer: Writer, connection: Any) -> Writer:
    bind = connection.get_bind() if hasattr(connection, "get_bind") else connection
    name = bind.dialect.name
    if name not in ("sqlite", "postgresql"):
        raise InvalidOption(f"connection={connection!r:.100} is to {name}. The outbox is for sqlite and postgresql.")
    return writer


def _only_async(connection: Any) -> InvalidOption:
    return InvalidOption(
        f"connection={connection!r:.100} is for event loops. Write await task.using(...).aenqueue(...)."
    )


@contextlib.contextmanager
def _hinted() -> Generator[None]:
    """Errors of the driver pass as they are, with what is most often the reason."""
    try:
        yield
    except Exception as error:
        if "raftwork_outbox" in str(error):
            error.add_note(_HINT)
        raise
