"""`raftwork status` and `raftwork queues`: how the storage is, and what waits where."""

from __future__ import annotations

from typing import Any

import click

from raftwork import clock
from raftwork.app import Raftwork
from raftwork.cli.output import age, moment, say, show, state_style, table
from raftwork.cli.target import Target, age_of, common, connected, reading_options, target_options
from raftwork.errors import ConfigError
from raftwork.job_info import JobState
from raftwork.known import Known, UnknownJobs, own_labels, unknown_in, unknown_jobs
from raftwork.reading import Reading
from raftwork.storage.base import QueueInfo, QueueLimit
from raftwork.storage.raft import RaftStorage
from raftwork.storage.remote import RemoteStorage

__all__ = ["metrics", "queues", "status"]

# Shown first, in this order; what else a storage reports follows.
_HEALTH_FIRST = ("status", "role", "durability", "directory")
UNKNOWN_MAX = 10
"""Lines about functions that no worker knows."""


@click.command()
@reading_options
@target_options
@common
def status(reading: Reading, target: Target, as_json: bool) -> int:
    """How the storage is, how many jobs are in which state, and which processes are connected.

    Exits 0 when the storage answers and is well, 3 when it is not.
    """
    with connected(target) as app:
        report, unknown = _report(app, reading)
        show(report, as_json, lambda: _print_report(app, report, unknown))
        return 0 if report["health"].get("status") == "ok" else 3


def _report(app: Raftwork, reading: Reading) -> tuple[dict[str, Any], list[UnknownJobs]]:
    storage = app.storage
    unknown = unknown_jobs(storage, reading)
    counts = storage.counts(reading)
    sessions = [session for session in storage.sessions(reading) if session.leases or session.kind == "worker"]
    report = {
        "storage": app.setting("storage"),
        "health": storage.health(),
        "jobs": counts,
        **age_of(counts.as_of),
        "totals": storage.totals(reading),
        "workers": [
            {
                "session": session.session,
                "host": session.host,
                "pid": session.pid,
                "since": clock.from_ms(session.opened_ms),
                "running": session.leases,
                "labels": own_labels(session.labels),
            }
            for session in sessions
        ],
        "unknown_jobs": [row._asdict() for row in unknown],
    }
    return report, unknown


def _print_report(app: Raftwork, report: dict[str, Any], unknown: list[UnknownJobs]) -> None:
    health = report["health"]
    names = [*_HEALTH_FIRST, *sorted(health.keys() - set(_HEALTH_FIRST))]
    plain = {name: health[name] for name in names if isinstance(health.get(name), str | int | float | bool)}
    width = max(len(name) for name in ("storage", *plain))
    for name, value in {"storage": report["storage"], **plain}.items():
        if value != "":
            say(f"{name:<{width}} {value}")
    for alarm in health.get("alarms") or ():
        say(click.style(f"{'alarm':<{width}} {alarm}", fg="red"))
    say("")
    counts = report["jobs"]
    table(["State", "Jobs#"], [(state_style(state), counts.get(state.value, 0)) for state in JobState], empty="")
    say("")
    rows = [
        (worker["session"], worker["pid"], worker["host"], age(worker["since"]), worker["running"])
        for worker in report["workers"]
    ]
    table(["Worker#", "Pid#", "Host", "Since", "Running#"], rows, empty="No worker is connected.")
    if rows:  # Without a worker everything that waits is unknown, which the line above says shorter.
        _print_unknown(unknown)


def _print_unknown(unknown: list[UnknownJobs]) -> None:
    """What waits although workers are there, the most first."""
    if unknown:
        say("")
    for row in sorted(unknown, key=lambda row: -row.waiting)[:UNKNOWN_MAX]:
        jobs = f"1 job of {row.function} waits" if row.waiting == 1 else f"{row.waiting:,} jobs of {row.function} wait"
        say(click.style(f"{jobs} and no connected worker knows it.", fg="yellow"))
    if len(unknown) > UNKNOWN_MAX:
        say(f"And those of {len(unknown) - UNKNOWN_MAX:,} other functions; --json has them all.")


@click.command()
@target_options
@common
def metrics(target: Target, as_json: bool) -> None:
    """What the node that answers counts: the text of /metrics, or with --json one number for each name and labels."""
    with connected(target) as app:
        storage = app.storage
        if not isinstance(storage, RaftStorage | RemoteStorage):
            raise ConfigError(f"{storage!r} has no node that counts.")
        text = storage.metrics_text()
        show(storage.metrics() if as_json else None, as_json, lambda: say(text.rstrip()))


@click.command()
@reading_options
@target_options
@common
def queues(reading: Reading, target: Target, as_json: bool) -> None:
    """Every queue: what waits, what runs, what went through, and whether it is paused."""
    with connected(target) as app:
        found = app.storage.queues(reading)
        limits = {row.name: row for row in app.storage.queue_limits(reading)}
        unknown = unknown_jobs(app.storage, reading)
        fields = [
            _queue_fields(queue, limits.get(queue.name))
            | {"unknown": unknown_in(app.storage, queue.name, unknown) if queue.enqueued else 0}
            for queue in found
        ]
        workers = Known(app.storage.sessions(reading)).workers
        show(fields, as_json, lambda: _print_queues(found, limits, unknown if workers else []))


def _queue_fields(queue: QueueInfo, limit: QueueLimit | None) -> dict[str, Any]:
    fields = queue._asdict()
    fields |= {"limit": limit and limit.limit, "held_back": 0 if limit is None else limit.held_back}
    for name in ("paused_until_ms", "oldest_enqueued_ms"):
        ms = fields.pop(name)
        fields[name.removesuffix("_ms")] = None if ms is None else clock.from_ms(ms)
    return fields


def _print_queues(found: list[QueueInfo], limits: dict[str, QueueLimit], unknown: list[UnknownJobs]) -> None:
    columns = ["Queue", "Enqueued#", "Running#", "Scheduled#", "Retrying#", "Oldest", "Succeeded#", "Failed#", ""]
    rows = [
        (
            queue.name,
            queue.enqueued,
            queue.processing,
            queue.scheduled,
            queue.retrying,
            "-" if queue.oldest_enqueued_ms is None else age(clock.from_ms(queue.oldest_enqueued_ms)),
            queue.total_succeeded,
            queue.total_failed,
            (_note(queue, limits.get(queue.name)), "yellow"),
        )
        for queue in found
    ]
    table(columns, rows, empty="No queue has had a job.")
    _print_unknown(unknown)


def _note(queue: QueueInfo, limit: QueueLimit | None) -> str:
    words = [_pause_text(queue)] if queue.paused else []
    if limit is not None and limit.limit is not None:
        words.append(f"at most {limit.limit} at once")
    if limit is not None and limit.held_back:
        words.append(f"{limit.held_back} held back by limits")
    return ", ".join(words)


def _pause_text(queue: QueueInfo) -> str:
    until = "" if queue.paused_until_ms is None else f" until {moment(clock.from_ms(queue.paused_until_ms))}"
    return f"paused{until}{': ' + queue.reason if queue.reason else ''}"
