"""`raftwork cluster add | replace`: what to run on the new machine, and waiting until it is a member that votes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from raftwork import durations
from raftwork.cli.orders import order
from raftwork.cli.output import say, show
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.errors import ClusterUnreachable, NotCommitted, TimedOut
from raftwork.network import check_address

__all__ = ["add", "replace"]

LIST, REPLACE = 1, 8
"""The orders of the core."""

ASK_EVERY_S = 0.5

T = TypeVar("T")


@click.command()
@click.argument("address")
@click.option("--wait/--no-wait", default=True, help="Wait until it votes. Default: wait.")
@click.option("--timeout", default="10m", show_default=True, metavar="DURATION", help="How long to wait.")
@target_options
@common
def add(address: str, wait: bool, timeout: str, target: Target, as_json: bool) -> None:
    """Add a member that listens for the others at ADDRESS: says what to run there, and waits until it votes.

    A node joins by itself when it is started with --join. It fetches the state as a learner first, and votes when it
    has everything. An odd number of voters is best: four survive no more losses than three.
    """
    address = check_address(address, "ADDRESS")
    rows = _members(target)
    there = next((row for row in rows if row["raft"] == address), None)
    if there is not None:
        raise click.UsageError(
            f"{address} is the address of member {there['node']}. To replace it: raftwork cluster replace"
        )
    _tell(_command(address, rows), as_json, wait)
    if not wait:
        return
    found = _until(timeout, f"{address} to become a voter", lambda: _voter_at(target, address))
    show({"added": found["node"], "address": address}, as_json, lambda: say(f"Node {found['node']} votes."))


@click.command()
@click.argument("node", type=int)
@click.argument("address", required=False)
@click.option("--timeout", default="10m", show_default=True, metavar="DURATION", help="How long to wait.")
@target_options
@common
def replace(node: int, address: str | None, timeout: str, target: Target, as_json: bool) -> None:
    """Replace the member NODE by a new one at ADDRESS (by default that of NODE): dead, or to go.

    Says what to run on the new machine, and waits: the new node fetches the state, then takes the place of the old one
    in a single step, so there is never a voter more than before. Ctrl-C leaves everything as it is at that moment; run
    the command again to go on.
    """
    rows = _members(target)
    old = next((row for row in rows if row["node"] == str(node)), None)
    if old is None:
        known = ", ".join(row["node"] for row in rows)
        raise click.UsageError(f"Node {node} is no member. Members are {known}.")
    address = check_address(address or old["raft"], "ADDRESS")
    others = [row for row in rows if row["node"] != str(node)]
    # Before anybody starts it: it is let in because of this.
    _until(timeout, "a leader", lambda: _planned(target, node, address))
    _tell(_command(address, others), as_json, wait=True)
    _until(timeout, f"{address} to take the place of node {node}", lambda: _replaced(target, node, address))
    found = _until(timeout, f"{address} to become a voter", lambda: _voter_at(target, address, but=str(node)))
    show(
        {"replaced": str(node), "by": found["node"], "address": address},
        as_json,
        lambda: say(f"Node {found['node']} votes in the place of node {node}."),
    )


def _members(target: Target) -> list[dict[str, Any]]:
    with connected(target) as app:
        rows: list[dict[str, Any]] = order(app, LIST)
        return rows


def _voter_at(target: Target, address: str, but: str = "") -> dict[str, Any] | None:
    voters = [row for row in _members(target) if row["raft"] == address and row["role"] == "voter"]
    return next((row for row in voters if row["node"] != but), None)


def _planned(target: Target, node: int, address: str) -> bool:
    with connected(target) as app:
        order(app, REPLACE, node, address)
        return True


def _replaced(target: Target, node: int, address: str) -> bool:
    with connected(target) as app:
        return bool(order(app, REPLACE, node, address))


def _command(address: str, rows: list[dict[str, Any]]) -> str:
    join = ",".join(row["raft"] for row in rows if row["raft"])
    return f"raftwork node --data DIR --listen {address} --join {join}"


def _tell(command: str, as_json: bool, wait: bool) -> None:
    """The command for the new machine; beside JSON that follows later, on the error stream."""
    if as_json and not wait:
        show({"command": command}, as_json, lambda: None)
        return
    click.echo(
        "Run on the new machine, with a directory that is new (and its certificate, if the others have any):",
        err=as_json,
    )
    click.echo(f"  {command}", err=as_json)


def _until(timeout: str, what: str, ask: Callable[[], T | None]) -> T:
    """Ask until the answer is something. Another member may lead meanwhile."""
    until = time.monotonic() + durations.duration_ms(timeout, "--timeout", least_ms=1) / 1_000
    why, pause = "", threading.Event()
    while True:
        try:
            if found := ask():
                return found
        except (NotCommitted, ClusterUnreachable, TimedOut) as error:
            why = f" ({error.message})"
        if time.monotonic() >= until:
            raise TimedOut(f"Waited {timeout} for {what}{why}. Nothing is undone; run the command again to wait on.")
        pause.wait(ASK_EVERY_S)
