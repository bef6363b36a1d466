"""`raftwork jobs` and `raftwork job ID`."""

from __future__ import annotations

from typing import Any

import click

from raftwork.cli.output import age, job_fields, moment, parse_id, say, show, state_style, table
from raftwork.cli.selection import Selection, filter_options, text_clauses
from raftwork.cli.target import Target, age_of, common, connected, reading_options, target_options
from raftwork.errors import RaftworkError
from raftwork.flow_info import NO_FLOW, FlowInfo
from raftwork.job_info import JobInfo, JobState
from raftwork.limits import JobLimits
from raftwork.reading import AsOf, Reading
from raftwork.storage.base import Clause, JobPage, Storage

__all__ = ["job", "jobs"]


@click.command()
@click.argument("filter_text", nargs=-1, metavar="[FILTER]")
@filter_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Jobs to show.")
@reading_options
@target_options
@common
def jobs(
    filter_text: tuple[str, ...], selection: Selection, limit: int, reading: Reading, target: Target, as_json: bool
) -> None:
    """List jobs, newest first.

    FILTER is the filter language of the API, for example: state:failed queue:mail args.user_id:7
    """
    asked = text_clauses(filter_text)
    with connected(target) as app:
        clauses = [*selection.within(app.storage), *asked]
        found, complete, as_of = _first(app.job_page, clauses, limit, reading)
        answer = {"jobs": [job_fields(info, whole=False) for info in found], "complete": complete, **age_of(as_of)}
        show(answer, as_json, lambda: _print_jobs(found, complete))


def _first(query: Any, clauses: list[Clause], limit: int, reading: Reading) -> tuple[list[JobInfo], bool, AsOf]:
    """The newest `limit` jobs, whether there are no others, and how old the last page is. One page may end early: its
    scan is bounded."""
    found: list[JobInfo] = []
    cursor: bytes | None = None
    while True:
        page: JobPage = query(clauses, cursor, limit - len(found), reading)
        found += page.jobs
        cursor = page.cursor
        if cursor is None or len(found) >= limit:
            return found, cursor is None, page.as_of


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
@reading_options
@target_options
@common
def job(job_id: str, reading: Reading, target: Target, as_json: bool) -> None:
    """Everything about one job. Exits 4 when there is none."""
    identity = parse_id(job_id)
    with connected(target) as app:
        info = app.job_info(identity.bytes, reading)
        fields = job_fields(info, whole=True) | age_of(AsOf(info.as_of_index, info.staleness))
        limits = app.job_limits(identity.bytes, reading) if info.state is JobState.ENQUEUED else None
        if limits is not None:
            fields |= {"limited_by": limits.limited_by, "place": limits.place}
        flow = NO_FLOW if info.in_flow is False else app.job_flow(identity.bytes, reading)
        parents = _parents(app.storage, flow)
        fields |= {"parents": parents, "parents_count": flow.parents_count, "children": flow.children}
        show(fields, as_json, lambda: _print_job(info, limits, _flow_lines(flow, parents)))


def _parents(storage: Storage, flow: FlowInfo) -> list[dict[str, str | None]]:
    """What the job waits or waited for, in which state that is (None: it is forgotten), and where it stands."""
    parents: list[dict[str, str | None]] = []
    for parent in flow.parents:
        info = storage.job(parent.id.bytes)
        batch = storage.batch(parent.id.bytes) if info is None else None
        state = info.state.value if info is not None else None if batch is None else batch.state
        parents.append({"id": str(parent.id), "state": state, "on": parent.on, "standing": parent.standing})
    return parents


def _flow_lines(flow: FlowInfo, parents: list[dict[str, str | None]]) -> list[tuple[str, str]]:
    lines = [
        (
            "after",
            f"{parent['id']} on {parent['on']}, {parent['standing']}  [{parent['state'] or 'not known any more'}]",
        )
        for parent in parents
    ]
    if flow.parents_count > len(parents):
        lines.append(("after", f"and {flow.parents_count - len(parents):,} others"))
    more = "" if flow.children_counted else "at least "
    return [*lines, ("children", f"{more}{flow.children:,} waiting, or cancelled for it" if flow.children else "")]


def _steps(info: JobInfo) -> str:
    """The steps that are remembered."""
    try:
        return ", ".join(info.steps)
    except RaftworkError:
        return "cannot be read here"


def _print_job(info: JobInfo, limits: JobLimits | None, flow: list[tuple[str, str]]) -> None:
    say(f"{info.call}  [{info.state.value}]")
    lines = [
        ("id", str(info.id)),
        ("task", info.function),
        ("version", str(info.version) if info.version != 1 else ""),
        ("queue", f"{info.queue}, priority {info.priority}"),
        ("attempts", f"{info.attempt} of {info.max_attempts}; crashes {info.crashes} of {info.max_crashes}"),
        ("created", moment(info.created_at)),
        ("due", moment(info.run_at) if info.run_at else ""),
        ("started", moment(info.started_at)),
        ("finished", moment(info.finished_at)),
        ("tags", ", ".join(info.tags)),
        ("unique", info.unique_key or ""),
        ("schedule", _schedule_text(info)),
        ("waits", _limit_text(limits)),
        ("batch", str(info.batch or "")),
        *flow,
        ("progress", note(info) if info.progress else ""),
        ("steps", _steps(info)),
        ("reason", info.reason or ""),
        ("result", info.result_text or ""),
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


def _schedule_text(info: JobInfo) -> str:
    if info.schedule is None:
        return ""
    return f"{info.schedule}, triggered" if info.slot is None else f"{info.schedule}, slot {moment(info.slot)}"


def _limit_text(limits: JobLimits | None) -> str:
    if limits is None:
        return ""
    place = "" if limits.place is None else f", place {limits.place}"
    if limits.limited_by is not None:
        return f"limited by {limits.limited_by}{place}"
    turns = next((limit.key for limit in limits.limits if limit.kind == "fair"), None)
    return "" if turns is None else f"for a turn of {turns}{place}"
