"""How commands answer: JSON, a table on a terminal, or plain columns in a pipe."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
import msgspec

from raftwork import clock, durations
from raftwork.job_info import JobInfo, JobState

__all__ = ["age", "job_fields", "moment", "say", "show", "state_style", "table"]

_STYLES = {
    JobState.ENQUEUED: "cyan",
    JobState.PROCESSING: "blue",
    JobState.RETRYING: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "magenta",
}


def show(value: Any, as_json: bool, render: Callable[[], None]) -> None:
    """Print the value as JSON, or let `render` print it for people."""
    if as_json:
        click.echo(msgspec.json.encode(value, enc_hook=_plain).decode())
    else:
        render()


def _plain(value: Any) -> Any:
    """What JSON has no word for, as text."""
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


def say(text: str) -> None:
    """One line for people."""
    click.echo(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Columns with a head line. A column whose name ends with `#` holds numbers and is set right-aligned.

    A cell may be `(text, style)`; styles show on a terminal that has colours.
    """
    cells = [[cell if isinstance(cell, tuple) else (str(cell), "") for cell in row] for row in rows]
    if not cells:
        say(empty)
    elif sys.stdout.isatty():
        _rich_table(columns, cells)
    else:
        _plain_table(columns, cells)


def _rich_table(columns: Sequence[str], rows: list[list[tuple[str, str]]]) -> None:
    from rich.console import Console  # Imported on a terminal only: pipes stay quick.
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        grid.add_column(name.removesuffix("#"), justify="right" if name.endswith("#") else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(text, style=style) for text, style in row))
    Console(soft_wrap=False).print(grid)


def _plain_table(columns: Sequence[str], rows: list[list[tuple[str, str]]]) -> None:
    lines = [[name.removesuffix("#") for name in columns], *([text for text, _ in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        padded = (
            text.rjust(width) if name.endswith("#") else text.ljust(width)
            for text, width, name in zip(line, widths, columns, strict=True)
        )
        say("  ".join(padded).rstrip())


def state_style(state: JobState) -> tuple[str, str]:
    """A state as a cell."""
    return (state.value, _STYLES.get(state, ""))


def moment(at: datetime | None) -> str:
    """A moment in local time, to the second."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(at: datetime | None) -> str:
    """How long ago, or in how long, in its largest two units: `3m12s ago`, `in 5m`."""
    if at is None:
        return "-"
    seconds = (clock.from_ms(clock.now_ms()) - at) // timedelta(seconds=1)
    size = abs(seconds)
    unit = next((unit for unit in (86_400, 3_600, 60) if size >= 100 * unit), 1)
    text = durations.text(size // unit * unit * 1_000)
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def job_fields(info: JobInfo, *, whole: bool) -> dict[str, Any]:
    """A job as JSON shows it. `whole` adds what lists leave out."""
    fields: dict[str, Any] = {
        "id": str(info.id),
        "function": info.function,
        "queue": info.queue,
        "state": info.state.value,
        "priority": info.priority,
        "attempt": info.attempt,
        "crashes": info.crashes,
        "created_at": info.created_at,
        "run_at": info.run_at,
        "started_at": info.started_at,
        "finished_at": info.finished_at,
        "tags": list(info.tags),
        "schedule": info.schedule,
        "slot": info.slot,
        "batch": None if info.batch is None else str(info.batch),
        "unique_key": info.unique_key,
        "progress": info.progress._asdict() if info.progress else None,
        "error": {"type": info.error.type, "message": info.error.message} if info.error else None,
        "reason": info.reason,
        "archived": info.archived,
    }
    if whole:
        fields |= {
            "call": info.call,
            "result": info.result_text,
            "max_attempts": info.max_attempts,
            "max_crashes": info.max_crashes,
            "generation": info.generation,
            "version": info.version,
            "cancel_requested": info.cancel_requested,
            "session": info.session,
            "token": info.token,
            "traceback": info.error.traceback if info.error else None,
            "fingerprint": info.error.fingerprint if info.error else None,
            "attempts": [
                {
                    "attempt": run.attempt,
                    "started_at": run.started_at,
                    "ended_at": run.ended_at,
                    "outcome": run.outcome,
                    "error": str(run.error) if run.error else None,
                }
                for run in info.attempts
            ],
        }
    return fields


def parse_id(text: str) -> uuid.UUID:
    """A job id as people paste it."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a job id; it looks like 0190d3c1-....", param_hint="ID") from None
