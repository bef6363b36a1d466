"""The application of the soak: every kind of job, each of which writes into a ledger that it ran.

RAFTWORK_STORAGE=... RAFTWORK_SOAK_LEDGER=FILE raftwork worker soak_jobs:app
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from raftwork import Discard, Fair, JobContext, Limit, Raftwork, Rate, Retry, Snooze
from raftwork.events import Event

QUICK = Retry(3, backoff="fixed", base="50ms", jitter=0.0)
LEDGER = "RAFTWORK_SOAK_LEDGER"
KEPT = {"keep_result": "1m", "keep_failed": "1m"}


def note(line: str) -> None:
    """One line of the ledger, whole whoever else writes."""
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def application() -> Raftwork:
    """The same application in all processes. What finished is kept for a minute, so that the size settles."""
    app = Raftwork("soak")

    @app.task(name="soak.plain", tags=["soak"], **KEPT)
    def plain(number: int) -> int:
        note(f"{number}")
        return number

    @app.task(name="soak.coroutine", **KEPT)
    async def coroutine(number: int) -> int:
        note(f"{number}")
        return number

    @app.task(name="soak.child", executor="process", **KEPT)
    def child(number: int) -> int:
        note(f"{number}")
        return number

    @app.task(name="soak.flaky", retry=QUICK, **KEPT)
    def flaky(ctx: JobContext, number: int) -> None:
        if ctx.attempt < 3:
            raise ValueError(f"attempt {ctx.attempt} of {number}")
        note(f"{number}")

    @app.task(name="soak.hopeless", retry=QUICK, **KEPT)
    def hopeless(number: int) -> None:
        note(f"{number}")
        raise Discard("it never works")

    @app.task(name="soak.saving", **KEPT)
    def saving(ctx: JobContext, number: int) -> None:
        if ctx.state is None:
            ctx.save({"number": number})
            ctx.progress(1, 2, "half of it")
            raise Snooze("100ms")
        assert ctx.state["number"] == number
        note(f"{number}")

    @app.task(name="soak.first", **KEPT)
    def first(number: int) -> int:
        return number

    @app.every("1s", name="soak.every", overlap="skip")
    @app.task(name="soak.ticking", **KEPT)
    def ticking() -> None:
        note("tick")

    taking_turns(app)
    watched(app)
    return app


def taking_turns(app: Raftwork) -> None:
    """Jobs that wait for each other: for locks, for the limits of their keys, or until it is their turn."""

    @app.task(name="soak.locking", **KEPT)
    def locking(number: int) -> None:
        with app.lock(f"soak-{number % 7}", ttl="15s"):
            note(f"{number}")

    @app.task(name="soak.limited", limit=Limit(2, per="key"), **KEPT)
    def limited(key: int, number: int) -> None:
        note(f"{number}")

    @app.task(name="soak.sharing", **KEPT)
    def sharing(number: int) -> None:
        with app.semaphore("soak-pool", 3, ttl="15s"):
            note(f"{number}")

    @app.task(name="soak.reading", **KEPT)
    def reading(number: int) -> None:
        gate = app.rwlock("soak-map", ttl="15s")
        with gate.write() if number % 10 == 0 else gate.read():
            note(f"{number}")

    @app.task(name="soak.stepping", retry=QUICK, **KEPT)
    def stepping(ctx: JobContext, number: int) -> None:
        ctx.step("note", note, f"{number}")
        if ctx.attempt == 1:
            raise ValueError(f"{number} has more to do")

    @app.task(name="soak.rated", limit=Rate(300, "1s", burst=50), **KEPT)
    def rated(number: int) -> None:
        note(f"{number}")

    @app.task(name="soak.fair", limit=Fair(per="tenant"), **KEPT)
    def fair(tenant: int, number: int) -> None:
        note(f"{number}")


def watched(app: Raftwork) -> None:
    """Middleware around everything, and a listener to all events of this process."""
    seen: Counter[str] = Counter()

    def count(event: Event) -> None:
        seen[event.name] += 1

    @app.middleware.run
    def around(job: JobContext) -> Iterator[None]:
        yield

    app.subscribe(count)


app = application()
