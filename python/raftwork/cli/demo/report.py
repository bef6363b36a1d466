"""The end of the demo: the ledger's totals, and whether they are what raftwork promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from raftwork.cli.demo.crew import Crew, Kill, Return
from raftwork.cli.demo.failures import Group
from raftwork.cli.demo.ledger import Ledger, Run
from raftwork.cli.output import say

__all__ = ["UNEXPLAINED", "Report", "print_report", "reason_of", "totals", "unexplained"]

UNEXPLAINED = "no reason is known"


@dataclass
class Report:
    """What the ledger says, and how long things took."""

    accepted: int
    done: int
    failed: int
    failures: list[Group]
    lost: int
    twice: Counter[str]
    unexplained: list[str]
    """Repetitions for which no reason is known, one in a line."""
    killed: list[Kill]
    returned: list[Return]
    first_done_after: float | None
    peak: float
    error: str | None

    @property
    def good(self) -> bool:
        """All that was accepted has ended, and whatever ran twice did so for a reason that is known."""
        return (
            self.lost == 0
            and self.error is None
            and self.done + self.failed == self.accepted > 0
            and not self.twice[UNEXPLAINED]
        )

    def fields(self) -> dict[str, Any]:
        """The same for JSON. Seconds are rounded to the millisecond."""
        return {
            "accepted": self.accepted,
            "done": self.done,
            "failed": self.failed,
            "failures": [asdict(group) for group in self.failures],
            "lost": self.lost,
            "run_twice": self.twice.total(),
            "run_twice_because": dict(self.twice),
            "unexplained": self.unexplained,
            "killed": [
                {
                    "node": kill.node,
                    "pid": kill.pid,
                    "leader": kill.leader,
                    "leads_after_s": _rounded(kill.leads_after),
                    "accepts_after_s": _rounded(kill.accepts_after),
                }
                for kill in self.killed
            ],
            "returned": [
                {"node": back.node, "lag": back.lag, "caught_up_after_s": _rounded(back.caught_up_after)}
                for back in self.returned
            ],
            "first_done_after_s": _rounded(self.first_done_after),
            "jobs_per_second_max": round(self.peak),
            "error": self.error,
            "good": self.good,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def reason_of(crew: Crew, run: Run, after: Run) -> str:
    """Why a job ran again."""
    done = "done, but its worker could not say so" if run.end == "done" else "its worker did not get to the end of it"
    if run.pid in crew.ended:
        return f"{done}: worker {run.pid} ended with {crew.ended[run.pid]}"
    for kill in crew.kills:
        if kill.at <= after.began and run.began <= kill.at + (kill.accepts_after or 0):
            return f"{done}: {kill.node}, which led, was killed meanwhile"
    if run.pid in crew.without_session():
        return f"{done}: worker {run.pid} lost its session"
    return UNEXPLAINED


def unexplained(ledger: Ledger, crew: Crew, began: float) -> list[str]:
    """What is known of repetitions without a reason; seconds count from the start of the demo."""

    def words(run: Run) -> str:
        return f"token {run.token} in pid {run.pid} at {run.began - began:.3f} s, {run.end or 'without an end'}"

    return [
        f"{job}: {words(run)}; then {words(after)}"
        for job, runs in ledger.runs.items()
        for run, after in pairwise(runs)
        if run.end != "failed" and reason_of(crew, run, after) == UNEXPLAINED
    ]


def totals(ledger: Ledger) -> dict[str, int]:
    """Of what was acknowledged: how much ended, and how."""
    return {
        "accepted": len(ledger.acknowledged),
        "done": len(ledger.acknowledged & ledger.done),
        "failed": len(ledger.acknowledged & ledger.failed),
        "lost": len(ledger.unfinished()),
    }


def print_report(report: Report, kept: Path | None) -> None:
    """The ledger for people."""
    say("")
    say("  Ledger, kept outside of the cluster")
    say(f"    accepted   {report.accepted:>9,}   ids written to a file and synced after enqueue returned")
    say(f"    done       {report.done:>9,}   by the lines that the jobs appended to a file")
    if report.failed:
        say(f"    failed     {report.failed:>9,}   as you told them to, in {len(report.failures)} groups")
    say(f"    lost       {report.lost:>9,}   accepted, but neither done nor failed")
    say(f"    run twice  {report.twice.total():>9,}")
    for reason, count in report.twice.most_common():
        say(f"               {count:>9,}   {reason}")
    for line in report.unexplained:
        say(f"               {line}")
    for kill in report.killed:
        say(f"    killed     {kill.node:>9}   pid {kill.pid}; {_went_on(kill)}")
    for back in report.returned:
        if back.caught_up_after is not None:
            say(f"    returned   {back.node:>9}   {back.lag:,} entries behind; none after {back.caught_up_after:.1f} s")
    if report.error is not None:
        say(f"    error      {report.error}")
    if kept is not None:
        say(f"    kept in    {kept}")
    say("")
    say("  Nothing was lost." if report.good else "  This is not what raftwork promises.")


def _went_on(kill: Kill) -> str:
    if kill.leads_after is None:
        return "no other led until the end"
    again = "" if kill.accepts_after is None else f", jobs were accepted again after {kill.accepts_after:.1f} s"
    return f"{kill.leader} led after {kill.leads_after:.1f} s{again}"
