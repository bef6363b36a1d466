"""`raftwork schedule`: recurring schedules, listed and changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar, get_args

import click

from raftwork import clock
from raftwork.cli.enqueue import parse_arguments
from raftwork.cli.output import age, moment, say, show, table
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.cron import Definition, Misfire
from raftwork.schedules import Overlap, Schedule

__all__ = ["schedule"]

F = TypeVar("F", bound=Callable[..., Any])


def at(text: str) -> datetime:
    """A date and time; without a zone it is local time."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time; write 2026-11-30T08:00 or 2026-11-30T08:00Z.") from None
    return found if found.tzinfo else found.astimezone()


@click.group()
def schedule() -> None:
    """Recurring schedules. Workers fire them; without one that runs, nothing happens."""


def when_options(command: F) -> F:
    """Add the options that say when a schedule fires, handed over as they are called in Python."""
    options = [
        click.option("--cron", metavar="TEXT", help='Five fields, such as "30 3 * * MON-FRI", six, or @daily.'),
        click.option("--every", metavar="DURATION", help="In place of --cron, a fixed time, such as 15m."),
        click.option("--tz", metavar="ZONE", help="Whose local time --cron means, such as Europe/Berlin."),
        click.option("--start", type=at, metavar="TIME", help="No slot before, such as 2026-11-30T08:00."),
        click.option("--end", type=at, metavar="TIME", help="No slot at this time or after it."),
        click.option("--misfire", type=click.Choice(get_args(Misfire)), help="What becomes of missed slots."),
        click.option("--catchup", type=int, metavar="N", help="Most jobs of an outage, with run_all."),
        click.option("--catchup-window", metavar="DURATION", help="Make up for nothing that is older, such as 6h."),
        click.option("--jitter", metavar="DURATION", help="Start each job later, by less than this."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@schedule.command("list")
@target_options
@common
def list_schedules(target: Target, as_json: bool) -> None:
    """All schedules, by name. With --app also which of them its code no longer defines."""
    with connected(target) as app:
        found = app.schedules.list()
        # Without an application nothing is known of any code.
        orphaned = None if target.app is None else {one.name for one in app.schedules.orphaned()}
        rows = [
            (one.name, when(one), one.call, one.queue, state(one), age(one.last_slot), one.fired, one.skipped)
            for one in found
        ]
        columns = ("Schedule", "When", "Call", "Queue", "Next", "Last", "Fired#", "Skipped#")
        shown = [plain(one) if orphaned is None else plain(one) | {"orphaned": one.name in orphaned} for one in found]

        def render() -> None:
            table(columns, rows, empty="There is no schedule.")
            if orphaned:
                say(f"\nNo longer defined by {target.app}: {', '.join(sorted(orphaned))}. They go on firing.")

        show(shown, as_json, render)


@schedule.command()
@click.argument("name")
@click.argument("task")
@click.argument("arguments", required=False, default="{}", metavar="[JSON]")
@when_options
@click.option("--overlap", type=click.Choice(get_args(Overlap)), help="Beside an earlier job that has not ended.")
@target_options
@common
def put(name: str, task: str, arguments: str, target: Target, as_json: bool, **given: Any) -> None:
    """Store the schedule NAME of the task TASK, or put it in place of the one of this name.

    JSON is an object of keyword arguments, or an array of positional ones. Example:

        raftwork schedule put --app shop.jobs:app nightly report '{"kind": "sales"}' --cron "30 3 * * *"
    """
    args, kwargs = parse_arguments(arguments)
    if target.app is None:
        raise click.UsageError("Which application? Give --app MODULE:ATTR: its task knows the queue and the arguments.")
    with connected(target, create=True) as app:
        call = app.find_task(task)
        stored = app.schedules.put(name, call.s(*args, **kwargs) if args or kwargs else call, **chosen(given))
        show(plain(stored), as_json, lambda: say(f"{name}: {when(stored)}, next {moment(stored.next_at)}"))


@schedule.command()
@click.argument("name")
@click.option("--reason", default="", help="Shown to whoever asks why nothing happens.")
@target_options
@common
def pause(name: str, reason: str, target: Target, as_json: bool) -> None:
    """Fire NAME no more until it is resumed."""
    with connected(target) as app:
        app.schedules.pause(name, reason)
        show(plain(app.schedules.get(name)), as_json, lambda: say(f"{name} is paused."))


@schedule.command()
@click.argument("name")
@target_options
@common
def resume(name: str, target: Target, as_json: bool) -> None:
    """Fire NAME again. Slots that passed meanwhile are not made up for; see backfill."""
    with connected(target) as app:
        app.schedules.resume(name)
        now = app.schedules.get(name)
        show(plain(now), as_json, lambda: say(f"{name} fires again, next {moment(now.next_at)}."))


@schedule.command()
@click.argument("name")
@target_options
@common
def trigger(name: str, target: Target, as_json: bool) -> None:
    """Store one job of NAME now, beside its slots."""
    with connected(target) as app:
        job = app.schedules.trigger(name)
        show({"id": str(job.id), "schedule": name}, as_json, lambda: say(str(job.id)))


@schedule.command()
@click.argument("name")
@target_options
@common
def delete(name: str, target: Target, as_json: bool) -> None:
    """Forget NAME. Its jobs stay."""
    with connected(target) as app:
        app.schedules.delete(name)
        show({"schedule": name, "deleted": True}, as_json, lambda: say(f"{name} is deleted."))


@schedule.command()
@click.argument("name", required=False)
@when_options
@click.option("-n", "n", default=10, show_default=True, help="How many slots.")
@target_options
@common
def preview(name: str | None, n: int, target: Target, as_json: bool, **given: Any) -> None:
    """The next slots of the schedule NAME, or of what --cron or --every says."""
    if name is None:
        slots = target.application().schedules.preview(n=n, **chosen(given))
    else:
        with connected(target) as app:
            slots = app.schedules.preview(name, n=n, **chosen(given))
    show(
        slots,
        as_json,
        lambda: table(("Slot", "UTC"), [(moment(slot), slot.isoformat()) for slot in slots], empty="None."),
    )


@schedule.command()
@click.argument("name")
@click.option("--from", "start", type=at, required=True, metavar="TIME", help="The first slot, or earlier.")
@click.option("--to", "end", type=at, metavar="TIME", help="Behind the last slot. Default: now.")
@target_options
@common
def backfill(name: str, start: datetime, end: datetime | None, target: Target, as_json: bool) -> None:
    """Store one job for each past slot of NAME that has none."""
    with connected(target) as app:
        jobs = app.schedules.backfill(name, start, end or clock.now())
        ids = [str(job.id) for job in jobs]
        show({"schedule": name, "jobs": ids}, as_json, lambda: say(f"{len(ids)} jobs are stored."))


def when(one: Schedule) -> str:
    """When a schedule fires, as text."""
    return "?" if one.definition is None else str(one.definition)


def state(one: Schedule) -> str:
    """Its next slot, or why there is none."""
    if one.paused:
        return f"paused: {one.reason}" if one.reason else "paused"
    return "ended" if one.next_at is None else age(one.next_at)


def chosen(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in given.items() if value is not None}


def plain(one: Schedule) -> dict[str, Any]:
    """A schedule as JSON shows it."""
    shown = {field.name: getattr(one, field.name) for field in fields(one) if field.name != "packed_args"}
    return shown | {
        "definition": None if one.definition is None else definition_fields(one.definition),
        "call": one.call,
    }


def definition_fields(definition: Definition) -> dict[str, Any]:
    """A definition as JSON shows it."""
    return {field.name: getattr(definition, field.name) for field in fields(definition)}
