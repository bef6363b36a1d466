"""The relay's own connection: the table, and the SQL with which rows are taken, removed and set aside.

Invariants
* A row is counted as tried, and that is committed, before the storage hears of it. Whoever finds a row that was tried
  knows that its job may be stored, whatever happened to the one that tried.
* While a batch is open no other relay has its rows. PostgreSQL: their locks, which others skip; so several relays share
  the work. SQLite: a lock on the file `DATABASE-raftwork-relay`, which the system gives back when its holder dies; so
  several relays take turns.
* On SQLite no transaction is open while the storage is asked, as it would keep all writers of the application waiting
  for the cluster.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from raftwork.errors import ConfigError, OutboxError

__all__ = ["Database", "Ends", "RefusedRow", "Taken", "database_of"]

DDL: Final = (
    """CREATE TABLE IF NOT EXISTS raftwork_outbox (
    seq        {seq},
    id         text NOT NULL UNIQUE,
    function   text NOT NULL,
    queue      text NOT NULL,
    job        {bytes} NOT NULL,
    created_ms bigint NOT NULL,
    tries      integer NOT NULL DEFAULT 0,
    refused    text
)""",
    "CREATE INDEX IF NOT EXISTS raftwork_outbox_waiting ON raftwork_outbox (seq) WHERE refused IS NULL",
)
BUSY_S: Final = 30.0
"""How long the relay waits for a transaction of the application to end, on SQLite."""


class Taken(NamedTuple):
    """One row of a batch."""

    seq: int
    id: str
    job: bytes
    tries: int
    """1: nobody tried it before."""


class RefusedRow(NamedTuple):
    """One row that was set aside."""

    id: str
    function: str
    queue: str
    created_ms: int
    refused: str


class Ends(NamedTuple):
    """What is to become of the rows of a batch when it closes. Those in neither stay, to be tried again."""

    gone: list[int]
    refused: list[tuple[str, int]]
    """Why, and which."""


class Database(ABC):
    """One database with an outbox. Connects on first use, and anew after an error. For one thread."""

    sign: str
    """What stands for a value in SQL."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        """The URL without a password."""
        self._connection: Any = None

    @abstractmethod
    def ddl(self) -> tuple[str, ...]:
        """The statements that make the table."""

    @abstractmethod
    def batch(self, rows_max: int) -> AbstractContextManager[tuple[list[Taken], Ends]]:
        """The oldest rows that wait, and what is to become of them: done when the block ends without an exception."""

    @abstractmethod
    def _connect(self) -> Any:
        """Open a connection that commits each statement by itself."""

    @abstractmethod
    def _driver_error(self) -> type[Exception]:
        """The base of what the driver raises."""

    def create_table(self) -> None:
        """Make the table, unless it is there."""
        with self._told() as connection:
            for statement in self.ddl():
                connection.execute(statement)

    def waiting(self) -> tuple[int, int | None]:
        """How many rows wait, and when the oldest was written."""
        sql = "SELECT count(*), min(created_ms) FROM raftwork_outbox WHERE refused IS NULL"
        with self._told() as connection:
            count, oldest = connection.execute(sql).fetchone()
            return count, oldest

    def refused(self, rows_max: int) -> list[RefusedRow]:
        """Rows that were set aside, oldest first."""
        sql = (
            "SELECT id, function, queue, created_ms, refused FROM raftwork_outbox "
            f"WHERE refused IS NOT NULL ORDER BY seq LIMIT {self.sign}"
        )
        with self._told() as connection:
            return [RefusedRow(*row) for row in connection.execute(sql, (rows_max,)).fetchall()]

    def put_back(self, ids: Sequence[str] | None) -> int:
        """Let rows that were set aside be relayed again; None: all of them. Answers how many."""
        return self._change_refused("UPDATE raftwork_outbox SET refused = NULL", ids)

    def discard(self, ids: Sequence[str] | None) -> int:
        """Delete rows that were set aside; None: all of them. Answers how many."""
        return self._change_refused("DELETE FROM raftwork_outbox", ids)

    def _change_refused(self, verb: str, ids: Sequence[str] | None) -> int:
        sql = f"{verb} WHERE refused IS NOT NULL"
        with self._told() as connection:
            if ids is None:
                return int(connection.execute(sql).rowcount)
            return sum(connection.execute(f"{sql} AND id = {self.sign}", (id,)).rowcount for id in ids)

    @contextlib.contextmanager
    def _told(self) -> Generator[Any]:
        """The connection; errors of the driver become ours, and the next use connects again."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except self._driver_error() as error:
            self.close()
            hint = ""
            if "raftwork_outbox" in str(error):
                hint = " If the table is missing, `raftwork outbox create-table URL` makes it."
            said = " ".join(str(error).split())
            raise OutboxError(f"The outbox in {self.shown} cannot be used: {said}.{hint}") from error

    def close(self) -> None:
        """Let go of the connection. The next use opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._driver_error()):
                connection.close()


class SqliteDatabase(Database):
    """A file."""

    sign = "?"

    def __init__(self, path: Path, shown: str) -> None:
        super().__init__(shown)
        self._path = path

    def ddl(self) -> tuple[str, ...]:
        words = {"seq": "integer PRIMARY KEY AUTOINCREMENT", "bytes": "blob"}
        return tuple(statement.format(**words) for statement in DDL)

    def _connect(self) -> sqlite3.Connection:
        if not self._path.exists():
            raise OutboxError(
                f"There is no database {self._path.absolute()} ({self.shown}). Name the application's own."
            )
        return sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)

    def _driver_error(self) -> type[Exception]:
        return sqlite3.Error

    @contextlib.contextmanager
    def batch(self, rows_max: int) -> Generator[tuple[list[Taken], Ends]]:
        ends = Ends([], [])
        with self._told() as connection, self._turn() as mine:
            rows = self._take(connection, rows_max) if mine else []
            yield rows, ends
            if not rows:
                return
            with _immediate(connection):
                connection.executemany("DELETE FROM raftwork_outbox WHERE seq = ?", [(seq,) for seq in ends.gone])
                connection.executemany("UPDATE raftwork_outbox SET refused = ? WHERE seq = ?", ends.refused)

    def _take(self, connection: sqlite3.Connection, rows_max: int) -> list[Taken]:
        oldest = "SELECT seq, id, job, tries + 1 FROM raftwork_outbox WHERE refused IS NULL ORDER BY seq LIMIT ?"
        if connection.execute(oldest, (1,)).fetchone() is None:
            return []  # Without a write: mostly there is nothing to do.
        with _immediate(connection):
            rows = [Taken(*row) for row in connection.execute(oldest, (rows_max,)).fetchall()]
            if rows:
                # Those up to the last one are just these.
                tried = "UPDATE raftwork_outbox SET tries = tries + 1 WHERE refused IS NULL AND seq <= ?"
                connection.execute(tried, (rows[-1].seq,))
        return rows

    @contextlib.contextmanager
    def _turn(self) -> Generator[bool]:
        """Whether no other relay has its turn now."""
        try:
            # Only read, as others may have made it: the lock needs no more.
            place = os.open(f"{self._path}-raftwork-relay", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutboxError(f"The relay cannot have its turn at {self.shown}: {error}.") from error
        try:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(place)


@contextlib.contextmanager
def _immediate(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class PostgresDatabase(Database):
    """A PostgreSQL server, by psycopg 3."""

    sign = "%s"

    def __init__(self, url: str) -> None:
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            raise ConfigError(
                "An outbox in PostgreSQL needs the library psycopg, which is not installed. Install raftwork[postgres]."
            ) from None
        # By the library that will connect: whoever reads a URL otherwise takes part of a password for something else.
        try:
            said = conninfo_to_dict(url)
        except (psycopg.ProgrammingError, UnicodeError):
            raise _unreadable() from None  # Not in its words: they quote what could not be read.
        super().__init__(_shown(url, said))
        self._url = url
        self._psycopg = psycopg

    def ddl(self) -> tuple[str, ...]:
        words = {"seq": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "bytes": "bytea"}
        return tuple(statement.format(**words) for statement in DDL)

    def _connect(self) -> Any:
        return self._psycopg.connect(self._url, autocommit=True, connect_timeout=10, application_name="raftwork outbox")

    def _driver_error(self) -> type[Exception]:
        return self._psycopg.Error

    @contextlib.contextmanager
    def batch(self, rows_max: int) -> Generator[tuple[list[Taken], Ends]]:
        ends = Ends([], [])
        with self._told() as connection:
            tried = connection.execute(
                "UPDATE raftwork_outbox SET tries = tries + 1 WHERE seq IN (SELECT seq FROM raftwork_outbox "
                "WHERE refused IS NULL ORDER BY seq LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING seq",
                (rows_max,),
            ).fetchall()
            if not tried:
                yield [], ends
                return
            with connection.transaction():
                # Another relay may have taken some between the two statements. It finds them tried, and looks first.
                rows = connection.execute(
                    "SELECT seq, id, job, tries FROM raftwork_outbox WHERE seq = ANY(%s) AND refused IS NULL "
                    "ORDER BY seq FOR UPDATE SKIP LOCKED",
                    ([seq for (seq,) in tried],),
                ).fetchall()
                yield [Taken(*row) for row in rows], ends
                connection.execute("DELETE FROM raftwork_outbox WHERE seq = ANY(%s)", (ends.gone,))
                for why, seq in ends.refused:
                    connection.execute("UPDATE raftwork_outbox SET refused = %s WHERE seq = %s", (why, seq))


def database_of(url: str) -> Database:
    """The database that a URL names, as SQLAlchemy writes them; a driver behind `+` is ignored. Connects to nothing.

    Raises:
        ConfigError: it is no URL of SQLite or PostgreSQL, cannot be read, names a database in memory, or psycopg is not
            installed.
    """
    scheme = url.partition(":")[0].partition("+")[0].lower()
    if scheme == "sqlite":
        parts = urlsplit(url)
        path = unquote(parts.path[1:])
        if parts.netloc or not path or path == ":memory:" or "\0" in path or parts.query:
            raise ConfigError(
                f"{url!r} names no file. Write sqlite:///shop.db (here) or sqlite:////var/lib/shop.db (absolute). A "
                "database in memory is seen by one connection only, so there is nothing to relay."
            )
        return SqliteDatabase(Path(path), url)
    if scheme in ("postgresql", "postgres"):
        return PostgresDatabase(f"postgresql:{url.partition(':')[2]}")
    raise ConfigError(
        f"{url.partition(':')[0]!r} is no database that has an outbox here. Write sqlite:///shop.db or "
        "postgresql://user@host/database."
    )


def _shown(url: str, said: Mapping[str, Any]) -> str:
    """A URL of what libpq has read in this one, without password and options."""
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    hosts, ports = str(said.get("host", "")).split(","), str(said.get("port", "")).split(",")
    if "@" in path or not all(port == "" or port.isdecimal() for port in ports):
        raise _unreadable()  # A password with a slash ends before it, and the rest passes for port and database.
    places = ",".join(
        (f"[{host}]" if ":" in host else quote(host, safe="")) + (f":{port}" if port else "")
        for host, port in zip_longest(hosts, ports, fillvalue="")
    )
    user = f"{quote(said['user'], safe='')}@" if "user" in said else ""
    return f"postgresql://{user}{places}/{quote(said.get('dbname', ''), safe='')}"


def _unreadable() -> ConfigError:
    return ConfigError(
        "The URL of the outbox cannot be read, which is not shown here as it may hold a password. Write it as "
        "postgresql://user:password@host:port/database, and % / @ inside of the user or the password as %25 %2F %40."
    )
