"""`raftwork enqueue NAME JSON`: store one job from a shell."""

from __future__ import annotations

import inspect
from datetime import datetime
from typing import Any

import click
import msgspec

from raftwork import signatures
from raftwork.cli.output import job_fields, parse_id, say, show
from raftwork.cli.queue import parse_until
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.job import Job
from raftwork.job_info import JobInfo, JobState
from raftwork.options import ON
from raftwork.secret import Secret
from raftwork.task import Task

__all__ = ["enqueue"]

EXIT_JOB_FAILED = 1


@click.command()
@click.argument("name")
@click.argument("arguments", required=False, default="{}", metavar="[JSON]")
@click.option("--queue", metavar="NAME", help="The queue, in place of the task's own.")
@click.option("--priority", type=click.IntRange(-100, 100), help="Higher first.")
@click.option("--delay", metavar="DURATION", help="Due after this time, such as 10m.")
@click.option("--run-at", metavar="TIME", help="Due then: 18:00, 2026-11-30T08:00, or a duration such as 2h.")
@click.option("--expires", metavar="DURATION", help="Cancel it if it did not start this long after it was due.")
@click.option("--retry", type=int, metavar="N", help="Attempts, in place of the task's own policy; 1 never retries.")
@click.option("--unique", metavar="KEY", help='Once for each key: a text such as "import 7", a template, or "args".')
@click.option("--after", multiple=True, metavar="ID", help="Wait for this job or batch; repeatable.")
@click.option("--on", type=click.Choice(ON), help="Which end of those it waits for.  [default: success]")
@click.option("--tag", "tags", multiple=True, metavar="TAG")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 if the job fails.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Longest wait.")
@target_options
@common
def enqueue(
    name: str,
    arguments: str,
    run_at: str | None,
    after: tuple[str, ...],
    wait: bool,
    timeout: float | None,
    target: Target,
    as_json: bool,
    **given: Any,
) -> int:
    """Store one job of task NAME. JSON is an object of keyword arguments, or an array of positional ones.

    NAME is the task's name, or its last part where that names one task only. Example:

        raftwork enqueue --app shop.jobs:app send_welcome '{"user_id": 7}' --wait

    With --unique the answer is the job that has the key, if another one has it already.
    """
    args, kwargs = parse_arguments(arguments)
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is how long --wait waits. Give both, or use the task's own time-out.")
    if target.app is None:
        raise click.UsageError("Which application? Give --app MODULE:ATTR: its task knows the queue and the arguments.")
    if given["on"] is not None and not after:
        raise click.UsageError("--on says which end of --after it waits for. Give both.")
    parents = [parse_id(text) for text in after]
    options = {key: value for key, value in given.items() if value not in (None, ())}
    if run_at is not None:
        if "delay" in options:
            raise click.UsageError("--run-at and --delay both say when it is due. Give one.")
        when = parse_until(run_at, "--run-at")
        options["run_at" if isinstance(when, datetime) else "delay"] = when
    with connected(target, create=True) as app:
        if parents:
            options["after"] = [app.job(id) for id in parents]
        task = app.find_task(name)
        call = task.using(**options) if options else task
        args, kwargs = _wrapped(task, args, kwargs)
        try:
            job: Job[Any] = call.enqueue(*args, **kwargs)
        except TypeError as error:
            raise click.UsageError(f"{error}. The task is {task.name}{inspect.signature(task.fn)}.") from None
        if not wait:
            show({"id": str(job.id), "function": task.name}, as_json, lambda: say(str(job.id)))
            return 0
        info = app.job_wait(job.id.bytes, timeout)
        show(job_fields(info, whole=True), as_json, lambda: _print_end(info))
        return 0 if info.state is JobState.SUCCEEDED else EXIT_JOB_FAILED


def parse_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments from JSON."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}.", param_hint="JSON") from None
    if isinstance(value, dict):
        return [], value
    if isinstance(value, list):
        return value, {}
    raise click.BadParameter(f"{text!r} is neither an object nor an array.", param_hint="JSON")


def _wrapped(task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments, those as a Secret whose parameters want one: JSON cannot say so."""
    places = [place for place, one in enumerate(task.parameters) if signatures.wants(task.fn, one, Secret)]
    names = {task.parameters[place].name for place in places}
    return (
        [Secret(value) if place in places else value for place, value in enumerate(args)],
        {name: Secret(value) if name in names else value for name, value in kwargs.items()},
    )


def _print_end(info: JobInfo) -> None:
    say(f"{info.id}  {info.state.value}")
    if info.state is JobState.SUCCEEDED:
        say(info.result_text or "")
    else:
        say(str(info.error or info.reason or ""))
