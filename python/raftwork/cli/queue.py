"""`raftwork queue pause`, `raftwork queue resume` and `raftwork queue limit`."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from raftwork import clock, durations
from raftwork.cli.output import moment, say, show
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.limits import LIMIT_MAX

__all__ = ["queue"]


@click.group()
def queue() -> None:
    """Pause and resume a queue, or bound how many of its jobs run at once. Jobs that run already are not touched."""


@queue.command()
@click.argument("name")
@click.option(
    "--until", metavar="TIME", help="Resume by itself then: 18:00, 2026-11-30T08:00, or a duration such as 2h."
)
@click.option("--reason", default="", help="Shown to whoever asks why nothing moves.")
@target_options
@common
def pause(name: str, until: str | None, reason: str, target: Target, as_json: bool) -> None:
    """Hand out no job of queue NAME until it is resumed."""
    when = None if until is None else parse_until(until)
    with connected(target) as app:
        # A duration counts by the clock of the storage, as whoever asks may have a wrong one.
        end = clock.from_ms(app.storage.now_ms()) + when if isinstance(when, timedelta) else when
        app.storage.pause_queue(name, None if end is None else clock.to_ms(end), reason)
        text = f"Queue {name} is paused" + ("." if end is None else f" until {moment(end)}.")
        show({"queue": name, "paused": True, "until": end, "reason": reason}, as_json, lambda: say(text))


@queue.command()
@click.argument("name")
@target_options
@common
def resume(name: str, target: Target, as_json: bool) -> None:
    """Hand out jobs of queue NAME again."""
    with connected(target) as app:
        app.storage.resume_queue(name)
        show({"queue": name, "paused": False}, as_json, lambda: say(f"Queue {name} hands out jobs."))


@queue.command()
@click.argument("name")
@click.argument("jobs", metavar="N|none")
@target_options
@common
def limit(name: str, jobs: str, target: Target, as_json: bool) -> None:
    """Run at most N jobs of queue NAME at once, in all workers together; `none` for as many as there are workers."""
    n = None if jobs == "none" else int(jobs) if jobs.isascii() and jobs.isdigit() else 0
    if n is not None and not 1 <= n <= LIMIT_MAX:
        raise click.BadParameter(
            f"{jobs!r} is neither a number from 1 to {LIMIT_MAX:,} nor none; to run none, pause it."
        )
    with connected(target) as app:
        app.storage.limit_queue(name, n)
        text = f"Queue {name} runs " + (
            "as many jobs as there are workers." if n is None else f"at most {n} jobs at once."
        )
        show({"queue": name, "limit": n}, as_json, lambda: say(text))


def parse_until(text: str, option: str = "--until") -> datetime | timedelta:
    """What a person wrote: a time of the day (the next one), a date and time, or a duration from now on."""
    now = clock.now().astimezone()
    try:
        if len(text) <= 5 and ":" in text:
            hour, minute = text.split(":")
            at = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
            return at if at > now else at + timedelta(days=1)
        if "-" in text:
            at = datetime.fromisoformat(text)
            return at if at.tzinfo else at.astimezone()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time; write 18:00, 2026-11-30T08:00 or 2h.") from None
    return timedelta(milliseconds=durations.duration_ms(text, option))
