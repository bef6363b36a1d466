"""`raftwork locks`."""

from __future__ import annotations

import click

from raftwork.cli.output import age, show, table
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.lock import LockInfo

__all__ = ["locks"]


@click.command()
@target_options
@common
def locks(target: Target, as_json: bool) -> None:
    """Who holds which lock, since when, with which fencing token, and how many wait for it."""
    with connected(target) as app:
        held = app.locks()
        rows = [
            (lock.name, _kind(lock), f"{lock.host}:{lock.pid}", lock.session, lock.token, age(lock.since), lock.waiters)
            for lock in held
        ]
        columns = ("Lock", "Kind", "Holder", "Session#", "Token#", "Since", "Waiting#")
        show(held, as_json, lambda: table(columns, rows, empty="No lock is held."))


def _kind(lock: LockInfo) -> str:
    return f"semaphore of {lock.permits}" if lock.kind == "semaphore" else lock.kind
