"""`raftwork retry`, `cancel`, `delete`, `move` and `priority`: of named jobs, or of all that fit a filter."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import click

from raftwork import filters
from raftwork.app import Raftwork
from raftwork.bulk import Bulk, BulkProgress, note_change
from raftwork.cli.output import parse_id, say, show
from raftwork.cli.selection import Selection, filter_options, text_clauses
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.operators import BulkAnswer
from raftwork.options import check_name, check_priority
from raftwork.storage.base import Change
from raftwork.worker.signals import STOP_SIGNALS

__all__ = ["cancel", "delete", "move", "priority", "retry"]

F = TypeVar("F", bound=Callable[..., Any])

_VERBS = {"priority": "set_priority"}
"""Methods that are not named like their command."""

EXIT_NOT_FOUND = 4
EXIT_REFUSED = 5
EXIT_STOPPED = 130

_WORDS = {
    Change.DONE: "done",
    Change.TOLD: "running, told to stop",
    Change.UNKNOWN: "not found",
    Change.ALREADY: "nothing to do",
    Change.RUNNING: "running, so it stays as it is; cancel it first",
    Change.CONFLICT: "another job has its unique key",
}


@dataclass
class Request:
    """What one of these commands was asked to do."""

    verb: str
    """The method of the application and of `Bulk`."""
    ids: tuple[str, ...]
    text: str
    selection: Selection
    everything: bool
    dry_run: bool
    yes: bool
    as_json: bool

    @property
    def command(self) -> str:
        """The name of the command."""
        return next((name for name, verb in _VERBS.items() if verb == self.verb), self.verb)

    @property
    def says(self) -> str:
        """The verb in a sentence about jobs."""
        return {"set_priority": "give another priority to"}.get(self.verb, self.verb)


def _request(command: F) -> F:
    """Add what these commands share, handed over as one `Request`, the target, and the value of their own option."""

    @click.argument("ids", nargs=-1, metavar="[ID]...")
    @click.option(
        "--filter", "text", default="", metavar="FILTER", help="All jobs that fit, such as 'state:failed queue:mail'."
    )
    @filter_options
    @click.option("--all", "everything", is_flag=True, help="Every job, when no filter is given.")
    @click.option("--dry-run", is_flag=True, help="Say how many jobs fit; change nothing.")
    @click.option("--yes", "-y", is_flag=True, help="Do not ask.")
    @target_options
    @common
    @functools.wraps(command)
    def wrapped(target: Target, **options: Any) -> int:
        own = [options.pop(name) for name in ("reason", "to") if name in options]
        asked = Request(verb=_VERBS.get(command.__name__, command.__name__), **options)
        return command(target, asked, *own)  # type: ignore[no-any-return]

    return wrapped  # type: ignore[return-value]


@click.command()
@_request
def retry(target: Target, asked: Request) -> int:
    """Run jobs again: final ones with fresh attempts, waiting ones now."""
    return _change(target, asked)


@click.command()
@click.option("--reason", default="", help="Kept with the job.")
@_request
def cancel(target: Target, asked: Request, reason: str) -> int:
    """Cancel waiting jobs at once; tell running ones to stop."""
    return _change(target, asked, reason)


@click.command()
@_request
def delete(target: Target, asked: Request) -> int:
    """Forget jobs and their results. Running ones are refused."""
    return _change(target, asked)


@click.command()
@click.option("--to", required=True, metavar="QUEUE", help="The queue in which they are to wait.")
@_request
def move(target: Target, asked: Request, to: str) -> int:
    """Put jobs that wait into another queue. Running ones are refused."""
    return _change(target, asked, check_name(to, "The queue"))


@click.command()
@click.option("--to", required=True, type=int, metavar="NUMBER", help="The priority: -100 to 100, higher first.")
@_request
def priority(target: Target, asked: Request, to: int) -> int:
    """Give jobs that wait another priority. Running ones are refused."""
    return _change(target, asked, check_priority(to))


def _change(target: Target, asked: Request, *arguments: object) -> int:
    written = text_clauses([asked.text])
    if asked.ids and (asked.selection or written or asked.everything):
        raise click.UsageError("Give ids, or a filter, not both.")
    if not (asked.ids or asked.selection or written or asked.everything):
        raise click.UsageError(f"Which jobs? Give ids, a filter, or --all. See raftwork {asked.command} --help.")
    with connected(target) as app:
        if asked.ids:
            return _change_named(app, asked, arguments)
        clauses = [*asked.selection.within(app.storage), *written]
        # The options of the command line are parts of a filter, which is what the audit shows.
        bulk = Bulk(app, clauses, filters.format(clauses) or "everything")
        matched = bulk.count()
        if asked.dry_run or not _agreed(asked, matched):
            answer = {"matched": matched, "changed": 0}
            show(answer, asked.as_json, lambda: say(f"{_fit(matched)}; nothing was changed."))
            return 0
        with _stoppable() as stopped, _progress() as progress:
            found = getattr(bulk, asked.verb)(*arguments, progress=progress, stop=stopped.is_set)
    return _answer(asked, found)


def _change_named(app: Raftwork, asked: Request, arguments: Sequence[object]) -> int:
    ids = [parse_id(text) for text in asked.ids]
    if asked.dry_run:
        show(
            {"matched": len(ids), "changed": 0},
            asked.as_json,
            lambda: say(f"{_fit(len(ids))}; nothing was changed."),
        )
        return 0
    found: BulkAnswer = getattr(app, asked.verb)(ids, *arguments)
    words = " ".join([asked.command, *map(str, arguments)]).strip()
    note_change(app.storage, words, ", ".join(map(str, ids)), len(ids), found.changed)
    rows = list(zip(ids, found.codes, strict=True))
    answer: dict[str, Any] = {
        "matched": len(ids),
        "changed": found.changed,
        "jobs": [{"id": str(job), "outcome": change.name.lower()} for job, change in rows],
    }
    show(answer, asked.as_json, lambda: say("\n".join(f"{job}  {_WORDS[change]}" for job, change in rows)))
    if Change.UNKNOWN in found.codes:
        return EXIT_NOT_FOUND
    return EXIT_REFUSED if found.changed < len(ids) else 0


def _agreed(asked: Request, count: int) -> bool:
    """Whether to go on. A person is asked before many jobs change; a script has --yes."""
    if asked.ids or asked.yes or count == 0:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(f"{_fit(count)}. Add --yes to {asked.says} them, or --dry-run to change nothing.")
    return click.confirm(f"{_fit(count)}. {asked.says.capitalize()} them?", err=True)


def _fit(count: int) -> str:
    return "1 job fits" if count == 1 else f"{count:,} jobs fit"


@contextlib.contextmanager
def _stoppable() -> Generator[threading.Event]:
    """Ctrl-C and SIGTERM end the change after the chunk that is under way; a second one ends it at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress() -> Generator[Callable[[BulkProgress], None] | None]:
    """Tells on a terminal how far the change is, on one line."""
    if not sys.stderr.isatty():
        yield None
        return

    def tell(now: BulkProgress) -> None:
        click.echo(f"\r{now.done:,} of {now.matched:,} jobs", nl=False, err=True)

    try:
        yield tell
    finally:
        click.echo(err=True)


def _answer(asked: Request, found: BulkAnswer) -> int:
    count = Counter(found.codes)
    answer: dict[str, Any] = {
        "matched": found.matched,
        "changed": found.changed,
        "skipped": found.skipped,
        "stopped": found.stopped,
        "outcomes": {change.name.lower(): number for change, number in sorted(count.items())},
    }

    def render() -> None:
        for change, number in sorted(count.items()):
            say(f"{number:>8}  {_WORDS[change]}")
        if not found.matched:
            say("No job fits.")
        if found.stopped:
            say(f"{found.matched - len(found.codes):>8}  left as they were: stopped. The same command goes on.")

    show(answer, asked.as_json, render)
    return EXIT_STOPPED if found.stopped else 0
