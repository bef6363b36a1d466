"""`raftwork cluster status`: how the members of a cluster are."""

from __future__ import annotations

from typing import Any

import click

from raftwork import durations
from raftwork.cli.members import ask_all, report_of, whom_to_ask
from raftwork.cli.output import say, show, table
from raftwork.cli.target import Target, common, target_options

__all__ = ["cluster"]

EXIT_STORAGE = 3

COLUMNS = ("Address", "Node#", "Role", "Term#", "Applied#", "Lag#", "Snapshot#", "Log#", "fsync p99#", "")
STYLES = {"leader": "green", "follower": "", "learner": "yellow", "candidate": "yellow", "failed": "red"}


@click.group()
def cluster() -> None:
    """Ask the members of a cluster."""


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


def _print(report: dict[str, Any]) -> None:
    say(f"cluster   {report['cluster'] or '-'}")
    say(f"leader    {report['leader'] or '-'}")
    say(f"term      {report['term'] or '-'}")
    say(f"voters    {report['voters'] or '-'}")
    say(f"committed {report['committed']:,}")
    say("")
    table(COLUMNS, [_row(member) for member in report["members"]], empty="")
    if report["problems"]:
        say("")
    for problem in report["problems"]:
        say(click.style(f"problem   {problem}", fg="red"))


def _row(member: dict[str, Any]) -> list[object]:
    node = member["node"] or "-"
    if not member["answers"]:
        return [member["address"], node, ("no answer", "red"), *["-"] * 6, ""]
    return [
        member["address"],
        node,
        (member["role"], STYLES.get(member["role"], "")),
        member["term"],
        f"{member['applied']:,}",
        f"{member['lag']:,}",
        f"{member['snapshot_index']:,}",
        f"{member['log_bytes'] / (1 << 20):,.1f} MiB",
        f"{member['fsync_p99_us'] / 1_000:,.1f} ms",
        (f"{len(member['alarms'])} alarms" if member["alarms"] else "cut off" if member["cut_off"] else "", "red"),
    ]
