"""The application, as both builds run it: it uses only what the older one has. It writes down, outside of the cluster:

| file     | line                                                                                           |
|----------|------------------------------------------------------------------------------------------------|
| `stored` | build, tag, jobs: so many were acknowledged under this tag; id: the last of them               |
| `doubt`  | build, tag, jobs: so many were not, and may be there all the same; error                       |
| `ran`    | build, tag: the last job of the tag ran, and its function is done; the build is the worker's   |
"""

import os
from collections.abc import Callable
from pathlib import Path

from raftwork import Job, JobContext, Limit, Raftwork, Retry, chain

FOLDER = Path(os.environ["BUILDS_FOLDER"])
BUILD = os.environ["BUILDS_BUILD"]
KEYS = 3

# While nobody leads, locks fail, and a worker that cannot make itself heard gives its jobs back: no fault of theirs.
RETRY = Retry(10_000, backoff="fixed", base="100ms", jitter=0)
app = Raftwork("builds", max_crashes=10_000)


def write(file: str, *words: object) -> None:
    """One line, in one write: whoever is killed leaves a whole one or none."""
    place = os.open(FOLDER / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(place, (" ".join(map(str, (BUILD, *words))) + "\n").encode())
    finally:
        os.close(place)


@app.task(name="builds.plain", retry=RETRY)
def plain(tag: str) -> None:
    """Only writes its line."""
    write("ran", tag)


@app.task(name="builds.begun", retry=RETRY)
def begun(tag: str) -> str:
    """The first job of a chain."""
    return tag


@app.task(name="builds.ended", retry=RETRY)
def ended(result: str, tag: str) -> None:
    """The last one, which is given what the first one returned."""
    assert result == tag
    write("ran", tag)


@app.task(name="builds.flaky", retry=RETRY)
def flaky(ctx: JobContext, tag: str) -> None:
    """Fails once."""
    if ctx.attempt == 1:
        raise ValueError("the first attempt")
    write("ran", tag)


@app.task(name="builds.limited", retry=RETRY, limit=Limit(1, per="key"))
def limited(tag: str, key: int) -> None:
    """One of several that run one after the other."""
    write("ran", tag)


@app.task(name="builds.locked", retry=RETRY)
def locked(tag: str) -> None:
    """Holds a lock."""
    with app.lock("builds", timeout=20.0):
        write("ran", tag)


@app.every("1s", name="builds.tick")
@app.task(name="builds.tick", retry=RETRY)
def tick() -> None:
    """The job of each second."""


WAYS: tuple[tuple[Callable[[str], Job[None]], int], ...] = (
    (plain.enqueue, 1),
    (plain.using(delay="200ms", priority=5).enqueue, 1),
    (lambda tag: chain(begun.s(tag), ended.s(tag)).enqueue(), 2),
    (flaky.enqueue, 1),
    (lambda tag: limited.enqueue(tag, hash(tag) % KEYS), 1),
    (locked.enqueue, 1),
)
"""How a client asks for jobs under a tag, and for how many."""
