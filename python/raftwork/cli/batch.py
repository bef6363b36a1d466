"""`raftwork batch`: batches, listed, shown, sealed and cancelled."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

import click

from raftwork.cli.output import age, moment, say, show, table
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.flows import BatchInfo

__all__ = ["batch"]


@click.group()
def batch() -> None:
    """Batches of jobs. One whose program died inside of its `with` block stays open until it is sealed or cancelled."""


@batch.command("list")
@target_options
@common
def list_batches(target: Target, as_json: bool) -> None:
    """All batches that are open or not forgotten yet, oldest first."""
    with connected(target) as app:
        found = app.batches()
        rows = [
            (
                str(one.id),
                one.name,
                one.state,
                age(one.opened_at),
                one.pending,
                one.succeeded,
                one.failed,
                one.cancelled,
            )
            for one in found
        ]
        columns = ("Batch", "Name", "State", "Opened", "Pending#", "Succeeded#", "Failed#", "Cancelled#")
        show([asdict(one) for one in found], as_json, lambda: table(columns, rows, empty="There is no batch."))


@batch.command("show")
@click.argument("id", type=uuid.UUID)
@target_options
@common
def show_batch(id: uuid.UUID, target: Target, as_json: bool) -> None:
    """Everything about the batch ID: its state, its members, and how many jobs wait for it."""
    with connected(target) as app:
        info = app.batch(id).info()
        waiting = app.batch(id).flow().children
        show(asdict(info) | {"finished": info.finished, "children": waiting}, as_json, lambda: _print(info, waiting))


def _print(info: BatchInfo, waiting: int) -> None:
    say(f"{info.name}  [{info.state}]")
    say(f"id        {info.id}")
    if info.outer is not None:
        say(f"batch     {info.outer}")
    say(f"opened    {moment(info.opened_at)}  ({age(info.opened_at)})")
    if info.finished_at is not None:
        say(f"finished  {moment(info.finished_at)}  ({age(info.finished_at)})")
    ended = f"{info.succeeded:,} succeeded, {info.failed:,} failed, {info.cancelled:,} cancelled"
    say(f"members   {info.total:,}: {info.pending:,} pending, {ended}")
    if waiting:
        say(f"children  {waiting:,} waiting, or cancelled for it")


@batch.command()
@click.argument("id", type=uuid.UUID)
@target_options
@common
def seal(id: uuid.UUID, target: Target, as_json: bool) -> None:
    """Let the batch ID finish when no member is pending. Its callbacks run then."""
    with connected(target) as app:
        changed = app.batch(id).seal()
        answer(app.batch(id).info(), as_json, "is sealed." if changed else "was sealed before.")


@batch.command()
@click.argument("id", type=uuid.UUID)
@click.option("--reason", default="", help="Shown with each job that is cancelled.")
@target_options
@common
def cancel(id: uuid.UUID, reason: str, target: Target, as_json: bool) -> None:
    """Cancel the members of the batch ID, also those of batches inside of it."""
    with connected(target) as app:
        changed = app.batch(id).cancel(reason)
        answer(app.batch(id).info(), as_json, "is cancelled." if changed else "was over before.")


def answer(now: BatchInfo, as_json: bool, what: str) -> None:
    """What became of a batch."""
    shown: dict[str, Any] = asdict(now)
    show(shown, as_json, lambda: say(f"{now.name} {what}"))
