"""A database with an outbox and a business table, on SQLite and on a real PostgreSQL server, new for each test."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from raftwork import Raftwork

SERVER = os.environ.get("RAFTWORK_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")
"""Where each test makes a schema of its own, and drops it."""


@dataclass
class Shop:
    """The database of an application."""

    kind: str
    url: str
    connect: Callable[[], Any]
    """A connection as a user opens it, with transactions."""

    def rows(self, columns: str = "id, tries, refused") -> list[Any]:
        """What the outbox holds now, seen from outside."""
        connection = self.connect()
        try:
            return list(connection.execute(f"SELECT {columns} FROM raftwork_outbox ORDER BY seq").fetchall())
        finally:
            connection.close()

    def change(self, sql: str, *values: Any) -> None:
        """Do something to the database behind everybody's back."""
        connection = self.connect()
        try:
            connection.execute(sql.replace("?", "%s") if self.kind == "postgresql" else sql, values)
            connection.commit()
        finally:
            connection.close()


@pytest.fixture
def sqlite_shop(tmp_path: Path) -> Shop:
    """A file."""
    path = tmp_path / "shop.db"
    shop = Shop("sqlite", f"sqlite:///{path}", lambda: sqlite3.connect(path, timeout=30))
    shop.change("CREATE TABLE orders (number integer PRIMARY KEY)")
    return shop


@pytest.fixture
def postgres_shop() -> Iterator[Shop]:
    """A schema of the server."""
    schema = f"raftwork_{uuid.uuid4().hex}"
    try:
        admin = psycopg.connect(SERVER, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {SERVER} (RAFTWORK_TEST_POSTGRES names another): {error}")
    with admin:
        admin.execute(f"CREATE SCHEMA {schema}")
        url = f"{SERVER}?options=-csearch_path%3D{schema}"
        shop = Shop("postgresql", url, lambda: psycopg.connect(url))
        shop.change("CREATE TABLE orders (number integer PRIMARY KEY)")
        yield shop
        admin.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture(params=["sqlite", "postgresql"])
def bare(request: pytest.FixtureRequest) -> Shop:
    """A database without an outbox."""
    found: Shop = request.getfixturevalue("sqlite_shop" if request.param == "sqlite" else "postgres_shop")
    return found


@pytest.fixture
def shop(bare: Shop) -> Shop:
    """A database with an empty outbox."""
    with Raftwork("setup", "memory://") as app:
        app.outbox(bare.url).create_table()
    return bare


@pytest.fixture
def app() -> Iterator[Raftwork]:
    """An application whose time stands still."""
    with Raftwork("shop", "memory://?clock=manual") as app:
        yield app
