"""Tasks with middleware and dependencies that run in child processes. What happened in a process is kept in it."""

from __future__ import annotations

from collections.abc import Iterator

from raftwork import JobContext, Raftwork, depends

app = Raftwork("held", "memory://")
happened: list[str] = []
"""Of this process."""


@app.middleware.worker
def around_worker() -> Iterator[None]:
    """Tell the start."""
    happened.append("worker starts")
    yield


@app.middleware.run
def around_run(job: JobContext) -> Iterator[None]:
    """Tell start and end of each job; refuse one."""
    if job.tags == ("refused",):
        raise PermissionError("not this one")
    happened.append("job starts")
    yield
    happened.append("job ends")


def connection() -> Iterator[list[str]]:
    """A value of the process."""
    happened.append("connects")
    yield []


def session(ctx: JobContext) -> Iterator[str]:
    """A value of one run."""
    happened.append("session begins")
    yield f"session {ctx.attempt}"
    happened.append("session ends")


@app.task(executor="process", retry=1)
def works(
    text: str, *, db: list[str] = depends(connection, scope="worker"), within: str = depends(session)
) -> tuple[list[str], str, list[str]]:
    """Answer what was filled in, and what happened so far."""
    db.append(text)
    return db, within, list(happened)
