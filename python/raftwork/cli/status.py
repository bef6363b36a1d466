"""`raftwork status` and `raftwork queues`: how the storage is, and what waits where."""

from __future__ import annotations

from typing import Any

import click

from raftwork import clock
from raftwork.app import Raftwork
from raftwork.cli.output import age, moment, say, show, state_style, table
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.job import JobState
from raftwork.storage.base import QueueInfo

__all__ = ["queues", "status"]

# Shown first, in this order; what else a storage reports follows.
_HEALTH_FIRST = ("status", "role", "durability", "directory")


@click.command()
@target_options
@common
def status(target: Target, as_json: bool) -> int:
    """How the storage is, how many jobs are in which state, and which processes are connected.

    Exits 0 when the storage answers and is well, 3 when it is not.
    """
    with connected(target) as app:
        report = _report(app)
        show(report, as_json, lambda: _print_report(app, report))
        return 0 if report["health"].get("status") == "ok" else 3


def _report(app: Raftwork) -> dict[str, Any]:
    storage = app.storage
    sessions = [session for session in storage.sessions() if session.leases or session.kind == "worker"]
    return {
        "storage": app.setting("storage"),
        "health": storage.health(),
        "jobs": storage.counts(),
        "totals": storage.totals(),
        "workers": [
            {
                "session": session.session,
                "host": session.host,
                "pid": session.pid,
                "since": clock.from_ms(session.opened_ms),
                "running": session.leases,
                "labels": session.labels,
            }
            for session in sessions
        ],
    }


def _print_report(app: Raftwork, report: dict[str, Any]) -> None:
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


@click.command()
@target_options
@common
def queues(target: Target, as_json: bool) -> None:
    """Every queue: what waits, what runs, what went through, and whether it is paused."""
    with connected(target) as app:
        found = app.storage.queues()
        show([_queue_fields(queue) for queue in found], as_json, lambda: _print_queues(found))


def _queue_fields(queue: QueueInfo) -> dict[str, Any]:
    fields = queue._asdict()
    for name in ("paused_until_ms", "oldest_enqueued_ms"):
        ms = fields.pop(name)
        fields[name.removesuffix("_ms")] = None if ms is None else clock.from_ms(ms)
    return fields


def _print_queues(found: list[QueueInfo]) -> None:
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
            (_pause_text(queue), "yellow"),
        )
        for queue in found
    ]
    table(columns, rows, empty="No queue has had a job.")


def _pause_text(queue: QueueInfo) -> str:
    if not queue.paused:
        return ""
    until = "" if queue.paused_until_ms is None else f" until {moment(clock.from_ms(queue.paused_until_ms))}"
    return f"paused{until}{': ' + queue.reason if queue.reason else ''}"
