"""`raftwork jobs` and `raftwork job ID`."""

from __future__ import annotations

from typing import Any

import click

from raftwork.cli.output import age, job_fields, moment, parse_id, result_text, say, show, state_style, table
from raftwork.cli.selection import filter_options, text_clauses
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.errors import JobNotFound
from raftwork.job import JobInfo, JobState
from raftwork.storage.base import Clause, JobPage

__all__ = ["job", "jobs"]


@click.command()
@click.argument("filter_text", nargs=-1, metavar="[FILTER]")
@filter_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Jobs to show.")
@target_options
@common
def jobs(filter_text: tuple[str, ...], clauses: list[Clause], limit: int, target: Target, as_json: bool) -> None:
    """List jobs, newest first.

    FILTER is the filter language of the API, for example: state:failed queue:mail args.user_id:7
    """
    clauses = [*clauses, *text_clauses(filter_text)]
    with connected(target) as app:
        found, complete = _first(app.storage.jobs, clauses, limit)
        answer = {"jobs": [job_fields(info, whole=False) for info in found], "complete": complete}
        show(answer, as_json, lambda: _print_jobs(found, complete))


def _first(query: Any, clauses: list[Clause], limit: int) -> tuple[list[JobInfo], bool]:
    """The newest `limit` jobs, and whether there are no others. One page may end early: its scan is bounded."""
    found: list[JobInfo] = []
    cursor: bytes | None = None
    while True:
        page: JobPage = query(clauses, cursor, limit - len(found))
        found += page.jobs
        cursor = page.cursor
        if cursor is None or len(found) >= limit:
            return found, cursor is None


def _print_jobs(found: list[JobInfo], complete: bool) -> None:
    rows = [
        (
            str(info.id),
            state_style(info.state),
            info.queue,
            info.function,
            info.attempt,
            age(info.finished_at or info.started_at or info.run_at or info.created_at),
            (note(info), "dim"),
        )
        for info in found
    ]
    table(["Id", "State", "Queue", "Task", "Attempt#", "When", "Note"], rows, empty="No job fits.")
    if not complete:
        say(f"The newest {len(found)}; there are more (--limit).")


def note(info: JobInfo) -> str:
    """What a person wants to know first about this job."""
    if info.error is not None and info.state is not JobState.SUCCEEDED:
        return f"{info.error.type}: {info.error.message}".splitlines()[0][:80]
    if info.progress is not None and not info.state.final:
        done = f"{info.progress.done:g}" + (f"/{info.progress.total:g}" if info.progress.total else "")
        return f"{done} {info.progress.note}".strip()
    return info.reason or ""


@click.command()
@click.argument("job_id", metavar="ID")
@target_options
@common
def job(job_id: str, target: Target, as_json: bool) -> None:
    """Everything about one job. Exits 4 when there is none."""
    identity = parse_id(job_id)
    with connected(target) as app:
        info = app.storage.job(identity.bytes)
        if info is None:
            raise JobNotFound(
                f"There is no job {identity}. It was deleted, its retention ended, or it lives in another storage.",
                identity,
            )
        show(job_fields(info, whole=True), as_json, lambda: _print_job(info))


def _print_job(info: JobInfo) -> None:
    say(f"{info.call}  [{info.state.value}]")
    lines = [
        ("id", str(info.id)),
        ("task", info.function),
        ("queue", f"{info.queue}, priority {info.priority}"),
        ("attempts", f"{info.attempt} of {info.max_attempts}; crashes {info.crashes} of {info.max_crashes}"),
        ("created", moment(info.created_at)),
        ("due", moment(info.run_at) if info.run_at else ""),
        ("started", moment(info.started_at)),
        ("finished", moment(info.finished_at)),
        ("tags", ", ".join(info.tags)),
        ("unique", info.unique_key or ""),
        ("progress", note(info) if info.progress else ""),
        ("reason", info.reason or ""),
        ("result", result_text(info) or ""),
        ("error", str(info.error) if info.error else ""),
        ("kept", "in the archive" if info.archived else ""),
    ]
    for name, text in lines:
        if text not in ("", "-"):
            say(f"{name:<9} {text}")
    for run in info.attempts:
        ended = f", {run.outcome} {moment(run.ended_at)}" if run.ended_at else ""
        say(f"attempt {run.attempt} started {moment(run.started_at)}{ended}{f': {run.error}' if run.error else ''}")
    if info.error is not None and info.error.traceback:
        say(f"\n{info.error.traceback.rstrip()}")
