"""`raftwork logs ID`."""

from __future__ import annotations

from typing import Any

import click

from raftwork import following
from raftwork.cli.output import parse_id, say, show
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.job_info import JobState
from raftwork.logs import JobLogs

__all__ = ["logs"]

_EXIT_JOB_FAILED = 1


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job is final; exit 1 if it fails or is cancelled.")
@target_options
@common
def logs(job_id: str, follow: bool, target: Target, as_json: bool) -> int:
    """What a job has logged: so far, if it runs; else the last lines before it failed.

    Lines go to the output, all else to the error stream. With --follow, --json prints one object for each line, and
    one with the state at the end. Exits 4 when there is no such job, 5 when its worker cannot be asked.
    """
    identity = parse_id(job_id)
    with connected(target) as app:
        if follow:
            return _follow(app, identity.bytes, as_json)
        found = app.job_logs(identity.bytes)
        fields = {
            "id": str(identity),
            "state": found.state.value,
            "attempt": found.attempt,
            "live": found.live,
            "first": found.first,
            "lines": list(found),
            "reason": found.reason or None,
        }
        show(fields, as_json, lambda: _print(found))
    return 0


def _follow(app: Any, job: bytes, as_json: bool) -> int:
    state: JobState | None = None
    for found in following.follow(app, job):
        state = found.state
        if as_json:
            for place, line in enumerate(found):
                show({"attempt": found.attempt, "number": found.first + place, "line": line}, True, lambda: None)
        else:
            _print(found)
    ended = "" if state is None else state.value
    if as_json:
        show({"state": ended}, True, lambda: None)
    else:
        click.echo(f"The job is {ended}.", err=True)
    return 0 if state is JobState.SUCCEEDED else _EXIT_JOB_FAILED


def _print(found: JobLogs) -> None:
    for line in found:
        say(_visible(line))
    if not found and found.reason:
        click.echo(f"No lines: {found.reason}.", err=True)


def _visible(line: str) -> str:
    """A line that leaves the terminal alone, whatever the job has logged."""
    return "".join(
        sign if sign.isprintable() or sign == "\t" else sign.encode("unicode_escape").decode() for sign in line
    )
