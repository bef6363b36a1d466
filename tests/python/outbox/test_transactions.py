"""A job is enqueued if and only if the transaction that enqueued it is committed, over every kind of connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from outbox.conftest import Shop
from raftwork import InvalidOption, JobNotFound, JobState, OutboxError, Raftwork, SerializationError, chain


def ship(number: int) -> int:
    return number


ORDER = "INSERT INTO orders VALUES (7)"


def plain(shop: Shop, task: Any, commit: bool) -> Any:
    connection = shop.connect()
    connection.execute(ORDER)
    job = task.using(connection=connection).enqueue(7)
    connection.commit() if commit else connection.rollback()
    connection.close()
    return job


def from_a_loop(shop: Shop, task: Any, commit: bool) -> Any:
    connection = shop.connect()
    connection.execute(ORDER)
    job = asyncio.run(task.using(connection=connection).aenqueue(7))
    connection.commit() if commit else connection.rollback()
    connection.close()
    return job


def alchemy_url(shop: Shop) -> str:
    return shop.url.replace("postgresql:", "postgresql+psycopg:")


def alchemy_connection(shop: Shop, task: Any, commit: bool) -> Any:
    engine = sqlalchemy.create_engine(alchemy_url(shop))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(ORDER))
        job = task.using(connection=connection).enqueue(7)
        if commit:
            connection.commit()
    engine.dispose()
    return job


def alchemy_session(shop: Shop, task: Any, commit: bool) -> Any:
    engine = sqlalchemy.create_engine(alchemy_url(shop))
    with Session(engine) as session:
        session.execute(sqlalchemy.text(ORDER))
        job = task.using(connection=session).enqueue(7)
        if commit:
            session.commit()
    engine.dispose()
    return job


WAYS = [plain, from_a_loop, alchemy_connection, alchemy_session]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
def test_the_job_and_the_order_are_one_transaction(
    app: Raftwork, shop: Shop, way: Callable[..., Any], commit: bool
) -> None:
    job = way(shop, app.task(ship), commit)
    with pytest.raises(JobNotFound):
        job.info()
    assert app.outbox(shop.url).relay() == int(commit)
    assert shop.rows() == []
    if commit:
        info = job.info()
        assert (info.state, info.call) == (JobState.ENQUEUED, "ship(7)")
    else:
        assert list(app.jobs()) == []


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
def test_async_psycopg(app: Raftwork, postgres_shop: Shop, commit: bool) -> None:
    app.outbox(postgres_shop.url).create_table()
    task = app.task(ship)

    async def order() -> Any:
        async with await psycopg.AsyncConnection.connect(postgres_shop.url) as connection:
            await connection.execute(ORDER)
            copy = task.using(connection=connection)
            with pytest.raises(InvalidOption, match="aenqueue"):
                copy.enqueue(7)
            job = await copy.aenqueue(7)
            await (connection.commit() if commit else connection.rollback())
            return job

    job = asyncio.run(order())
    assert app.outbox(postgres_shop.url).relay() == int(commit)
    assert [info.id for info in app.jobs()] == [job.id] * commit


def test_async_sqlalchemy(app: Raftwork, postgres_shop: Shop) -> None:
    app.outbox(postgres_shop.url).create_table()
    task = app.task(ship)

    async def order() -> None:
        engine = create_async_engine(alchemy_url(postgres_shop))
        async with AsyncSession(engine) as session:
            copy = task.using(connection=session)
            with pytest.raises(InvalidOption, match="aenqueue"):
                copy.enqueue(7)
            await copy.aenqueue(7)
            await session.commit()
        async with engine.begin() as connection:
            await task.using(connection=connection).aenqueue(8)
        async with engine.connect() as connection:
            await task.using(connection=connection).aenqueue(9)
        await engine.dispose()

    asyncio.run(order())
    assert app.outbox(postgres_shop.url).relay() == 2
    assert sorted(app.job(info.id).info().call for info in app.jobs()) == ["ship(7)", "ship(8)"]


def test_a_missing_table_is_told_with_what_makes_it(app: Raftwork, bare: Shop) -> None:
    task = app.task(ship)
    connection = bare.connect()
    with pytest.raises((sqlite3.Error, psycopg.Error)) as told:
        task.using(connection=connection).enqueue(7)
    connection.close()
    assert "create-table" in told.value.__notes__[0]
    for verb in ("relay", "status", "refused", "retry"):
        with pytest.raises(OutboxError, match="create-table"):
            getattr(app.outbox(bare.url), verb)()


@pytest.mark.parametrize("wrong", [7, "sqlite:///shop.db", sqlalchemy.create_engine("sqlite://")])
def test_what_is_no_connection_is_refused(app: Raftwork, wrong: Any) -> None:
    with pytest.raises(InvalidOption, match="the connection itself, not a cursor"):
        app.task(ship).using(connection=wrong)


def test_another_database_is_refused(app: Raftwork) -> None:
    engine = sqlalchemy.create_mock_engine("mysql://", lambda sql: None)

    class Connection(sqlalchemy.Connection):
        def __init__(self) -> None:
            self.dialect = engine.dialect

        def __del__(self) -> None: ...

    with pytest.raises(InvalidOption, match="is to mysql"):
        app.task(ship).using(connection=Connection())


def test_a_connection_goes_no_further_than_its_copy(app: Raftwork, sqlite_shop: Shop) -> None:
    app.outbox(sqlite_shop.url).create_table()
    task = app.task(ship)
    connection = sqlite_shop.connect()
    copy = task.using(connection=connection)
    with pytest.raises(InvalidOption, match="s\\(\\) is enqueued later"):
        copy.s(7)
    for steps in ((task.s(6), copy), (copy, task)):
        with pytest.raises(InvalidOption, match="has a connection"):
            chain(*steps)
    copy.using(priority=5).enqueue(7)
    task.enqueue(8)
    copy.using(connection=None).enqueue(9)
    connection.commit()
    connection.close()
    assert sorted(app.job(info.id).info().call for info in app.jobs()) == ["ship(8)", "ship(9)"]
    with pytest.raises(InvalidOption, match="connection is not an option"):
        app.task(connection=connection)  # type: ignore[call-overload]


def test_wrong_arguments_write_nothing(app: Raftwork, sqlite_shop: Shop) -> None:
    app.outbox(sqlite_shop.url).create_table()
    connection = sqlite_shop.connect()
    task: Any = app.task(ship).using(connection=connection)
    with pytest.raises(TypeError):
        task.enqueue()
    with pytest.raises(SerializationError):
        task.enqueue(object())
    connection.commit()
    connection.close()
    assert sqlite_shop.rows() == []
