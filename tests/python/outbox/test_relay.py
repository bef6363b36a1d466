"""The relay: order, batches, options, rows that were tried before, rows that cannot be stored, and several relays."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from outbox.conftest import Shop
from raftwork import (
    AccessDenied,
    ConfigError,
    InvalidName,
    InvalidOption,
    Job,
    JobState,
    OutboxError,
    Overloaded,
    Raftwork,
    Unique,
    clock,
    events,
)
from raftwork.outbox import pack_row
from raftwork.storage.base import Clash, JobSpec, NewJob
from raftwork.storage.memory import MemoryStorage

PATIENCE_S = 60


def ship(number: int = 7) -> int:
    return number


class Shy(MemoryStorage):
    """Remembers what it was asked, and may refuse."""

    def __init__(self, refuse: Callable[[Sequence[NewJob]], Exception | None] = lambda jobs: None) -> None:
        super().__init__(manual_clock=True)
        self.refuse = refuse
        self.writes: list[list[bytes]] = []

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Clash]:
        self.writes.append([job.id for job in jobs])
        if (error := self.refuse(jobs)) is not None:
            raise error
        return super().enqueue(jobs)


def put(shop: Shop, task: Any, *numbers: int) -> list[Job[Any]]:
    connection = shop.connect()
    jobs = [task.using(connection=connection).enqueue(number) for number in numbers]
    connection.commit()
    connection.close()
    return jobs


def calls(app: Raftwork) -> list[str]:
    """Jobs in the order in which they were stored."""
    return [app.job(info.id).info().call for info in app.jobs()][::-1]


def test_rows_go_in_batches_in_the_order_of_their_insertion(shop: Shop) -> None:
    storage = Shy()
    with Raftwork("shop", storage) as app:
        jobs = put(shop, app.task(ship), *range(25))
        assert app.outbox(shop.url).relay(batch=10) == 25
        assert [len(write) for write in storage.writes] == [10, 10, 5]
        assert [id for write in storage.writes for id in write] == [job.id.bytes for job in jobs]
        assert shop.rows() == []
        assert app.outbox(shop.url).relay() == 0


def test_large_rows_fill_a_write_by_their_bytes(shop: Shop) -> None:
    storage = Shy()
    with Raftwork("shop", storage, compress_above=None) as app:

        @app.task(name="load")
        def load(data: bytes) -> None: ...

        put(shop, load, *[b"x" * 250_000] * 20)  # type: ignore[list-item]
        assert app.outbox(shop.url).relay() == 20
        assert len(storage.writes) == 2
        assert app.counts()["enqueued"] == 20


FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"queue": "mail"}, "queue", "mail"),
        ({"priority": 5}, "priority", 5),
        ({"run_at": FAR}, "run_at", FAR),
        ({"retry": 4}, "max_attempts", 4),
        ({"max_crashes": 2}, "max_crashes", 2),
        ({"tags": ["crm", "b"]}, "tags", ("crm", "b")),
        ({"unique": "order:{number}"}, "unique_key", f"{__name__}.ship:order:7"),
        ({"wait": False}, "state", JobState.ENQUEUED),
    ],
)
def test_options_come_through(app: Raftwork, sqlite_shop: Shop, options: Any, field: str, expected: Any) -> None:
    app.outbox(sqlite_shop.url).create_table()
    (job,) = put(sqlite_shop, app.task(ship).using(**options), 7)
    app.outbox(sqlite_shop.url).relay()
    assert getattr(job.info(), field) == expected


def test_a_delay_counts_from_enqueue(app: Raftwork, sqlite_shop: Shop) -> None:
    app.outbox(sqlite_shop.url).create_table()
    before = clock.now()
    (job,) = put(sqlite_shop, app.task(ship).using(delay="10m"), 7)
    after = clock.now()
    app.storage.advance(5 * 60_000)
    app.outbox(sqlite_shop.url).relay()
    due = job.info().run_at
    assert due is not None
    assert before - timedelta(seconds=1) <= due - timedelta(minutes=10) <= after


def test_unique_keys_are_decided_when_jobs_are_relayed(app: Raftwork, shop: Shop) -> None:
    task = app.task(ship)
    first = task.using(unique="args").enqueue(7)
    (skipped,) = put(shop, task.using(unique="args"), 7)
    (raising,) = put(shop, task.using(unique=Unique("args", on_conflict="raise")), 7)
    (replacing,) = put(shop, task.using(unique=Unique("args", on_conflict="replace")), 7)
    box = app.outbox(shop.url)
    assert box.relay() == 4 - 1
    assert first.info().state is JobState.CANCELLED
    assert replacing.info().state is JobState.ENQUEUED
    (refused,) = box.refused()
    assert refused.id == raising.id
    assert refused.reason.startswith("RW402")
    assert {info.id for info in app.jobs()} == {first.id, replacing.id}
    assert skipped.id not in {info.id for info in app.jobs()}
    replacing.cancel()
    assert box.retry([raising.id]) == 1
    assert box.relay() == 1
    assert raising.info().state is JobState.ENQUEUED


def test_what_was_stored_already_is_not_stored_again(app: Raftwork, shop: Shop) -> None:
    """A relay died between storing and removing, and the job has even run since."""
    jobs = put(shop, app.task(ship), *range(3))
    saved = shop.rows("id, function, queue, job, created_ms, tries")
    assert app.outbox(shop.url).relay() == 3
    session = app.storage.open_session("worker")
    (claimed,) = app.storage.claim(session, [("default", 1)], [jobs[0].info().function])
    for row in saved:
        shop.change(
            "INSERT INTO raftwork_outbox (id, function, queue, job, created_ms, tries) VALUES (?, ?, ?, ?, ?, ?)",
            *row[:5],
            1,
        )
    assert app.outbox(shop.url).relay() == 3
    assert shop.rows() == []
    assert calls(app) == ["ship(0)", "ship(1)", "ship(2)"]
    assert app.counts()["processing"] == 1, claimed


def test_a_tried_row_is_looked_up_before_it_is_stored(shop: Shop) -> None:
    """The write happened, and its answer was lost. The storage may forget finished jobs in its memory meanwhile."""
    storage = Shy()
    with Raftwork("shop", storage) as app:
        (job,) = put(shop, app.task(ship), 7)

        def after_the_fact(jobs: Sequence[NewJob]) -> Exception:
            MemoryStorage.enqueue(storage, jobs)
            return Overloaded("The answer was lost.")

        storage.refuse = after_the_fact
        with pytest.raises(Overloaded):
            app.outbox(shop.url).relay()
        assert shop.rows("tries") == [(1,)]
        storage.refuse = lambda jobs: AssertionError("stored a second time")
        assert app.outbox(shop.url).relay() == 1
        assert [info.id for info in app.jobs()] == [job.id]


def bad_spec() -> bytes:
    return pack_row(NewJob(uuid.UUID(int=3).bytes, JobSpec("f", priority=1_000), b""))


def newer() -> bytes:
    return b"\x02" + bytes(20)


def unknown_field() -> bytes:
    import zlib

    import msgspec

    id = uuid.UUID(int=3).bytes
    body = msgspec.msgpack.encode({"spec": {"function": "f", "moon": "full"}, "args": b""})
    return b"\x01" + zlib.crc32(id + body).to_bytes(4, "big") + body


def flipped() -> bytes:
    whole = bytearray(pack_row(NewJob(uuid.UUID(int=3).bytes, JobSpec("f"), b"abc")))
    whole[-1] ^= 1
    return bytes(whole)


@pytest.mark.parametrize(
    ("id", "poison", "code", "words"),
    [
        (str(uuid.UUID(int=3)), bad_spec, "RW1", "priority"),
        (str(uuid.UUID(int=3)), newer, "RW113", "version 2"),
        (str(uuid.UUID(int=3)), unknown_field, "RW113", "moon"),
        (str(uuid.UUID(int=3)), flipped, "RW802", "not those that were written"),
        (
            str(uuid.UUID(int=4)),
            lambda: pack_row(NewJob(uuid.UUID(int=3).bytes, JobSpec("f"), b"")),
            "RW802",
            "not those",
        ),
        (str(uuid.UUID(int=3)), lambda: b"\x01", "RW802", "cut short"),
        ("7", lambda: b"", "RW802", "no job id"),
    ],
    ids=["spec", "newer", "field", "flipped", "moved", "cut", "id"],
)
def test_a_row_that_cannot_be_stored_is_set_aside(
    app: Raftwork, shop: Shop, id: str, poison: Callable[[], bytes], code: str, words: str
) -> None:
    seen: list[events.Event] = []
    stop = events.subscribe(seen.append)
    task = app.task(ship)
    put(shop, task, 1)
    shop.change(
        "INSERT INTO raftwork_outbox (id, function, queue, job, created_ms) VALUES (?, 'f', 'q', ?, 5)", id, poison()
    )
    put(shop, task, 2, 3)
    box = app.outbox(shop.url)
    assert box.relay() == 4
    stop()
    assert calls(app) == ["ship(1)", "ship(2)", "ship(3)"]
    (refused,) = box.refused()
    assert (str(refused.id), refused.function, refused.queue) == (id, "f", "q")
    assert refused.reason.startswith(code)
    assert words in refused.reason
    assert [event.fields["id"] for event in seen if event.name == "outbox.refused"] == [id]
    assert sum(event.fields["count"] for event in seen if event.name == "outbox.relayed") == 3
    assert box.relay() == 0
    assert box.status().waiting == 0
    assert box.retry([id, "unknown"]) == 1
    assert box.status().waiting == 1
    assert box.relay() == 1
    assert box.discard() == 1
    assert shop.rows() == []


def test_an_error_that_passes_keeps_all_rows(shop: Shop) -> None:
    storage = Shy(lambda jobs: Overloaded("full"))
    with Raftwork("shop", storage) as app:
        put(shop, app.task(ship), 1, 2)
        with pytest.raises(Overloaded):
            app.outbox(shop.url).relay()
        assert [refused for *_, refused in shop.rows()] == [None, None]
        storage.refuse = lambda jobs: None
        assert app.outbox(shop.url).relay() == 2
        assert calls(app) == ["ship(1)", "ship(2)"]


def test_a_queue_that_the_relay_may_not_use_is_set_aside_and_an_unknown_relay_keeps_all(shop: Shop) -> None:
    def denied(jobs: Sequence[NewJob]) -> Exception | None:
        if any(job.spec.queue == "secret" for job in jobs):
            return AccessDenied("no", "token/relay", "enqueue:secret")
        return None

    storage = Shy(denied)
    with Raftwork("shop", storage) as app:
        task = app.task(ship)
        put(shop, task, 1)
        put(shop, task.using(queue="secret"), 2)
        put(shop, task, 3)
        box = app.outbox(shop.url)
        assert box.relay() == 3
        assert [refused.queue for refused in box.refused()] == ["secret"]
        storage.refuse = lambda jobs: AccessDenied("Who are you?")
        put(shop, task, 4)
        with pytest.raises(AccessDenied):
            box.relay()
        assert box.status().waiting == 1


def test_several_relays_store_each_job_once(shop: Shop) -> None:
    storage = Shy()
    with Raftwork("shop", storage) as app:
        jobs = put(shop, app.task(ship), *range(300))
        box = app.outbox(shop.url)
        done = threading.Event()
        seen: list[int] = []

        def count(event: events.Event) -> None:
            if event.name == "outbox.relayed":
                seen.append(event.fields["count"])
                if sum(seen) >= 300:
                    done.set()

        stop = events.subscribe(count)
        relays = [box.relaying(poll="10ms", batch=7) for _ in range(4)]
        for relay in relays:
            relay.start()
        assert done.wait(PATIENCE_S)
        for relay in relays:
            relay.stop()
        stop()
        assert shop.rows() == []
        stored = [id for write in storage.writes for id in write]
        assert sorted(stored) == sorted(job.id.bytes for job in jobs), "each was asked for once"


def test_a_running_application_relays(shop: Shop, tmp_path: Any) -> None:
    app = Raftwork("shop", f"raft:///{tmp_path}/jobs")
    task = app.task(name="ship")(ship)
    with app.running(workers=True, outbox=shop.url):
        (job,) = put(shop, task, 7)
        relayed = threading.Event()
        stop = events.subscribe(lambda event: relayed.set() if event.name == "outbox.relayed" else None)
        assert relayed.wait(PATIENCE_S) or shop.rows() == []
        assert job.result(timeout=PATIENCE_S) == 7
        stop()


def test_a_relay_goes_on_after_the_database_was_away(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with Raftwork("shop", "memory://") as app:
        told = threading.Event()
        relayed = threading.Event()
        monkeypatch.setattr(
            "raftwork.outbox.relay.logger.warning", lambda text, *_: told.set() if "held up" in text else None
        )
        stop = events.subscribe(lambda event: relayed.set() if event.name == "outbox.relayed" else None)
        with app.outbox(sqlite_shop.url).relaying(poll="10ms"):
            assert told.wait(PATIENCE_S), "there is no table"
            app.outbox(sqlite_shop.url).create_table()
            put(sqlite_shop, app.task(ship), 7)
            assert relayed.wait(PATIENCE_S)
        stop()


class Nights(threading.Event):
    """Keeps how long it should have waited, and is over after 1,100 times."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        if len(self.seconds) == 1_100:
            self.set()
        return self.is_set()


@pytest.mark.parametrize("error", [OutboxError("gone"), ValueError("gone")])
def test_an_outage_may_last_for_any_time(
    app: Raftwork,
    sqlite_shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    caplog.set_level(logging.CRITICAL, "raftwork.outbox")  # A traceback for each try would take long.

    def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr("raftwork.outbox.relay.relay_batch", fail)
    relay = app.outbox(sqlite_shop.url).relaying(poll="10ms")
    relay._closed = nights = Nights()
    relay._run()
    assert nights.seconds[:3] == [0.02, 0.04, 0.08]
    assert len(nights.seconds) == 1_100 and nights.seconds[-1] == max(filter(None, nights.seconds)) == 30


def test_a_waiting_storage_holds_up_no_writer_of_the_application(shop: Shop) -> None:
    """The cluster may elect a leader meanwhile: the business goes on."""
    asked, answered = threading.Event(), threading.Event()

    def slow(jobs: Sequence[NewJob]) -> None:
        asked.set()
        assert answered.wait(PATIENCE_S)

    storage = Shy(slow)
    with Raftwork("shop", storage) as app:
        task = app.task(ship)
        put(shop, task, 1)
        with app.outbox(shop.url).relaying(poll="10ms"):
            assert asked.wait(PATIENCE_S)
            put(shop, task, 2)
            shop.change("INSERT INTO orders VALUES (1)")
            answered.set()


def test_bad_urls_and_options(app: Raftwork, tmp_path: Any) -> None:
    for url, words in (
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://localhost/shop", "no database that has an outbox"),
        ("shop.db", "no database that has an outbox"),
    ):
        with pytest.raises(ConfigError, match=words):
            app.outbox(url)
        with pytest.raises(ConfigError, match=words):
            app.running(outbox=url)
    with pytest.raises(ConfigError, match="There is no outbox"):
        app.outbox()
    with pytest.raises(ConfigError, match="is not a URL"):
        Raftwork("shop", outbox="shop.db")
    box = app.outbox(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(OutboxError, match="There is no database"):
        box.relay()
    assert not list(tmp_path.glob("none.db*")), "none is made"
    for wrong in (0, 1_001, True, "5"):
        with pytest.raises(InvalidOption, match="batch"):
            box.relay(batch=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="poll"):
        box.relaying(poll="1ms")
    with pytest.raises(InvalidName):
        box.retry("0192")


@pytest.mark.parametrize("keys", [None, "k1:" + "A" * 43 + "="])
def test_payloads_are_written_by_the_applications_codecs(sqlite_shop: Shop, keys: str | None) -> None:
    with Raftwork("shop", "memory://", encryption_keys=keys) as app:

        @app.task(name="tell")
        def tell(word: str) -> None: ...

        app.outbox(sqlite_shop.url).create_table()
        (job,) = put(sqlite_shop, tell, "open sesame")  # type: ignore[arg-type]
        assert (b"open sesame" in sqlite_shop.rows("job")[0][0]) == (keys is None)
        app.outbox(sqlite_shop.url).relay()
        assert job.info().call == "tell('open sesame')"


def test_a_turn_that_cannot_be_had_is_an_error_of_the_outbox(sqlite_shop: Shop, app: Raftwork) -> None:
    app.outbox(sqlite_shop.url).create_table()
    path = sqlite_shop.url.removeprefix("sqlite:///")
    Path(f"{path}-raftwork-relay").mkdir()
    with pytest.raises(OutboxError, match="cannot have its turn"):
        app.outbox(sqlite_shop.url).relay()


def test_no_other_relay_has_the_rows_of_an_open_batch(shop: Shop) -> None:
    """However long the storage takes: on PostgreSQL others take what is left, on SQLite they wait for their turn."""
    asked, answered = threading.Event(), threading.Event()

    def slow_once(jobs: Sequence[NewJob]) -> None:
        if not asked.is_set():
            asked.set()
            assert answered.wait(PATIENCE_S)

    storage = Shy(slow_once)
    with Raftwork("shop", storage) as app:
        jobs = [job.id.bytes for job in put(shop, app.task(ship), *range(20))]
        box = app.outbox(shop.url)
        with box.relaying(batch=10, poll="10ms"):
            assert asked.wait(PATIENCE_S)
            moved = box.relay(batch=10)
            seen = list(storage.writes)
            answered.set()
        assert seen[0] == jobs[:10]
        if shop.kind == "postgresql":
            assert (moved, seen[1:]) == (10, [jobs[10:]])
        else:
            assert (moved, seen[1:]) == (0, [])
