"""`raftwork retry`, `cancel` and `delete`: of named jobs, or of all that fit a filter."""

from __future__ import annotations

import functools
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import click

from raftwork.cli.output import parse_id, say, show
from raftwork.cli.selection import filter_options, matching, text_clauses
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.storage.base import Change, Clause, Storage

__all__ = ["cancel", "delete", "retry"]

F = TypeVar("F", bound=Callable[..., Any])

# Jobs of one write: large enough to be quick, small enough that other callers get their turn between two.
CHUNK = 500

EXIT_NOT_FOUND = 4
EXIT_REFUSED = 5

_WORDS = {
    Change.DONE: "done",
    Change.TOLD: "running, told to stop",
    Change.UNKNOWN: "not found",
    Change.ALREADY: "nothing to do",
    Change.RUNNING: "running, so it cannot be deleted; cancel it first",
}


@dataclass
class Request:
    """What one of these commands was asked to do."""

    verb: str
    ids: tuple[str, ...]
    text: str
    clauses: list[Clause]
    everything: bool
    dry_run: bool
    yes: bool
    as_json: bool


def _request(command: F) -> F:
    """Add what the three commands share, handed over as one `Request` and the target."""

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
    def wrapped(target: Target, reason: str = "", **options: Any) -> int:
        asked = Request(verb=command.__name__, **options)
        return command(target, asked, reason) if command.__name__ == "cancel" else command(target, asked)  # type: ignore[no-any-return]

    return wrapped  # type: ignore[return-value]


@click.command()
@_request
def retry(target: Target, asked: Request) -> int:
    """Run jobs again: final ones with fresh attempts, waiting ones now."""
    return _change(target, asked, lambda storage, ids: storage.requeue(ids))


@click.command()
@click.option("--reason", default="", help="Kept with the job.")
@_request
def cancel(target: Target, asked: Request, reason: str) -> int:
    """Cancel waiting jobs at once; tell running ones to stop."""
    return _change(target, asked, lambda storage, ids: storage.cancel(ids, reason))


@click.command()
@_request
def delete(target: Target, asked: Request) -> int:
    """Forget jobs and their results. Running ones are refused."""
    return _change(target, asked, lambda storage, ids: storage.delete(ids))


def _change(target: Target, asked: Request, verb: Callable[[Storage, Sequence[bytes]], list[Change]]) -> int:
    clauses = [*asked.clauses, *text_clauses([asked.text])]
    if asked.ids and (clauses or asked.everything):
        raise click.UsageError("Give ids, or a filter, not both.")
    if not asked.ids and not clauses and not asked.everything:
        raise click.UsageError(f"Which jobs? Give ids, a filter, or --all. See raftwork {asked.verb} --help.")
    with connected(target) as app:
        storage = app.storage
        if asked.ids:
            chosen = [parse_id(text).bytes for text in asked.ids]
        else:
            # The ids are taken before the first change: a changed job may fit the filter again.
            chosen = [info.id.bytes for info in matching(storage, clauses)]
        if asked.dry_run or not _agreed(asked, len(chosen)):
            answer = {"matched": len(chosen), "changed": 0}
            show(answer, asked.as_json, lambda: say(f"{len(chosen)} jobs fit; nothing was changed."))
            return 0
        changes = _in_chunks(storage, chosen, verb)
    return _answer(asked, chosen, changes)


def _agreed(asked: Request, count: int) -> bool:
    """Whether to go on. A person is asked before many jobs change; a script has --yes."""
    if asked.ids or asked.yes or count == 0:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(f"{count} jobs fit. Add --yes to {asked.verb} them, or --dry-run to change nothing.")
    return click.confirm(f"{asked.verb.capitalize()} {count} jobs?", err=True)


def _in_chunks(
    storage: Storage, chosen: Sequence[bytes], verb: Callable[[Storage, Sequence[bytes]], list[Change]]
) -> list[Change]:
    rest = iter(chosen)
    changes: list[Change] = []
    while chunk := list(islice(rest, CHUNK)):
        changes += verb(storage, chunk)
    return changes


def _answer(asked: Request, chosen: Sequence[bytes], changes: Sequence[Change]) -> int:
    count = Counter(changes)
    changed = count[Change.DONE] + count[Change.TOLD]
    answer: dict[str, Any] = {"matched": len(chosen), "changed": changed}
    if asked.ids:
        answer["jobs"] = [
            {"id": str(uuid.UUID(bytes=job)), "outcome": change.name.lower()}
            for job, change in zip(chosen, changes, strict=True)
        ]
    else:
        answer["outcomes"] = {change.name.lower(): number for change, number in sorted(count.items())}
    show(answer, asked.as_json, lambda: _print_answer(asked, chosen, changes))
    if asked.ids and count[Change.UNKNOWN]:
        return EXIT_NOT_FOUND
    return EXIT_REFUSED if asked.ids and changed < len(chosen) else 0


def _print_answer(asked: Request, chosen: Sequence[bytes], changes: Sequence[Change]) -> None:
    if asked.ids:
        for job, change in zip(chosen, changes, strict=True):
            say(f"{uuid.UUID(bytes=job)}  {_WORDS[change]}")
    else:
        for change, number in sorted(Counter(changes).items()):
            say(f"{number:>8}  {_WORDS[change]}")
        if not changes:
            say("No job fits.")
