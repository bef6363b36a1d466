"""`raftwork cluster`: how the members of a cluster are, and changing who they are."""

from __future__ import annotations

from typing import Any

import click

from raftwork import clock, durations
from raftwork.cli import founding, tokens
from raftwork.cli.backup import backup, recover, restore, verify
from raftwork.cli.growing import add, replace
from raftwork.cli.members import ask_all, report_of, whom_to_ask
from raftwork.cli.orders import order
from raftwork.cli.output import say, show, table
from raftwork.cli.target import Target, common, connected, target_options

__all__ = ["cluster"]

EXIT_STORAGE = 3

CERTIFICATE_DAYS = 14
"""Fewer days are shown in red, and are an alarm of the member."""

COLUMNS = (
    *(
        "Address",
        "Node#",
        "Role",
        "Version",
        "Knows level#",
        "Term#",
        "Applied#",
        "Lag#",
        "Heard#",
        "Log#",
        "Snapshot#",
        "fsync p99#",
    ),
    *("Certificate#", "Protection", ""),
)
MEMBER_COLUMNS = ("Node#", "Name", "Role", "Members", "Clients", "Matched#", "Heard", "Version", "Knows level#")
# The orders of the core.
LIST, REMOVE, TRANSFER, SNAPSHOT = 1, 2, 3, 4
STYLES = {"leader": "green", "follower": "", "learner": "yellow", "candidate": "yellow", "failed": "red"}


@click.group()
def cluster() -> None:
    """Ask the members of a cluster, change who they are, and keep their state safe."""


for command in (add, replace, backup, verify, restore, recover):
    cluster.add_command(command)


for command in (
    founding.init,
    founding.invite,
    founding.join,
    founding.renew,
    tokens.token,
    tokens.audit,
    tokens.finalize,
):
    cluster.add_command(command)


@cluster.command()
@click.option("--timeout", default="3s", show_default=True, metavar="DURATION", help="How long one may take to answer.")
@target_options
@common
def status(timeout: str, target: Target, as_json: bool) -> int:
    """How each member is, asked directly at its address for clients, also when some are down.

    One address is enough where it answers: a member names the others. Exits 0 when all members answer, one of them
    leads and none has an alarm; otherwise 3. Example:

        raftwork cluster status --storage raftwork://10.0.0.1:7001,10.0.0.2:7001,10.0.0.3:7001
    """
    timeout_ms = durations.duration_ms(timeout, "--timeout", least_ms=1)
    addresses, network = whom_to_ask(target.application().config)
    report = report_of(ask_all(addresses, network, timeout_ms))
    show(report, as_json, lambda: _print(report))
    return EXIT_STORAGE if report["problems"] else 0


@cluster.command()
@target_options
@common
def members(target: Target, as_json: bool) -> None:
    """Who is a member, whether it votes, and which version it runs; asked of the leader, also how far each is.

    A member that is not connected to the one that answers has no version here: it may come back with another one.
    """
    with connected(target) as app:
        rows = order(app, LIST)
        show(rows, as_json, lambda: table(MEMBER_COLUMNS, [_member_row(row) for row in rows], empty="No members."))


@cluster.command()
@click.argument("node", type=int)
@click.option("--force", is_flag=True, help="Also if the others that were heard lately are no majority.")
@target_options
@common
def remove(node: int, force: bool, target: Target, as_json: bool) -> None:
    """Remove the member with this id. A removed node stops; its data directory is of no use any more.

    Remove a member whose disk is lost before its machine joins again: it comes back as a new member.
    """
    with connected(target) as app:
        order(app, REMOVE, node, force)
        show({"removed": str(node)}, as_json, lambda: say(f"Node {node} is no member any more."))


@cluster.command("transfer-leader")
@target_options
@common
def transfer_leader(target: Target, as_json: bool) -> None:
    """Let another member lead: the one that has most of the log."""
    with connected(target) as app:
        order(app, TRANSFER)
        show({"transferred": True}, as_json, lambda: say("Another member leads."))


@cluster.command()
@target_options
@common
def snapshot(target: Target, as_json: bool) -> None:
    """Take a snapshot on the member that answers, and drop its log before it."""
    with connected(target) as app:
        order(app, SNAPSHOT)
        show({"snapshot": True}, as_json, lambda: say("The snapshot is on disk."))


def _member_row(row: dict[str, Any]) -> list[object]:
    far = "-" if row["matched"] is None else f"{row['matched']:,}"
    heard = {None: "", True: "yes", False: "no"}[row["active"]]
    return [row["node"], row["name"], row["role"], row["raft"], row["client"], far, heard, *_runs(row)]


def _runs(member: dict[str, Any]) -> tuple[str, str]:
    """Version and highest known feature level of a member, where they are known."""
    return member["version"] or "-", "-" if member["knows_level"] is None else str(member["knows_level"])


def _level(report: dict[str, Any]) -> str:
    """The feature level, and what raises it if all members know a higher one."""
    level, known = report["feature_level"], report["knows_level"]
    if level is None or known is None or known <= level:
        return str(level or "-")
    return f"{level}; all members know {known}: when nobody goes back, run raftwork cluster finalize"


def _print(report: dict[str, Any]) -> None:
    say(click.style(report["verdict"], fg="green" if report["can_lose"] else "red", bold=True))
    say("")
    say(f"cluster   {report['cluster'] or '-'}")
    say(f"leader    {report['leader'] or '-'}")
    say(f"term      {report['term'] or '-'}")
    say(f"voters    {report['voters'] or '-'}")
    say(f"committed {report['committed']:,}")
    say(f"level     {_level(report)}")
    say("")
    table(COLUMNS, [_row(member) for member in report["members"]], empty="")
    if report["problems"]:
        say("")
    for problem in report["problems"]:
        say(click.style(f"problem   {problem}", fg="red"))


def _heard(member: dict[str, Any]) -> str:
    """How long ago the leader heard it."""
    return "-" if member["silent_ms"] is None else f"{member['silent_ms'] / 1_000:.1f} s"


def _days(expires_ms: int | None) -> tuple[str, str]:
    """How long a certificate is still good."""
    if expires_ms is None:
        return "-", ""
    days = (expires_ms - clock.now_ms()) // 86_400_000
    return f"{days} days", "red" if days < CERTIFICATE_DAYS else ""


def _row(member: dict[str, Any]) -> list[object]:
    node = member["node"] or "-"
    if not member["answers"]:
        silent = [member["address"], node, ("no answer", "red"), *_runs(member)]
        return [*silent, *["-"] * 3, _heard(member), *["-"] * 5, ""]
    return [
        member["address"],
        node,
        (member["role"], STYLES.get(member["role"], "")),
        *_runs(member),
        member["term"],
        f"{member['applied']:,}",
        f"{member['lag']:,}",
        _heard(member),
        f"{member['log_bytes'] / (1 << 20):,.1f} MiB",
        f"{member['snapshot_bytes'] / (1 << 20):,.1f} MiB",
        f"{member['fsync_p99_us'] / 1_000:,.1f} ms",
        _days(member["certificate_expires_ms"]),
        (member["protection"], "red" if member["protection"] == "insecure" else ""),
        (f"{len(member['alarms'])} alarms" if member["alarms"] else "cut off" if member["cut_off"] else "", "red"),
    ]
