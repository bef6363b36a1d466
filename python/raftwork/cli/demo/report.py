"""The end of the demo: the ledger's totals, and results computed again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raftwork.cli.output import say

__all__ = ["Report", "print_report", "verify"]


@dataclass
class Report:
    """What the ledger says."""

    files: int
    acknowledged: int
    finished: int
    lost: int
    twice: Counter[str]
    verified: int
    sampled: int
    killed: dict[int, str]
    error: str | None

    @property
    def good(self) -> bool:
        """All that was acknowledged is finished, two processes were killed, and the sample is right."""
        return (
            self.lost == 0
            and self.error is None
            and self.finished == self.acknowledged > 0
            and self.verified == self.sampled
            and sorted(self.killed.values()) == ["owner", "worker"]
        )

    def fields(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "files": self.files,
            "acknowledged": self.acknowledged,
            "finished": self.finished,
            "lost": self.lost,
            "run_twice": self.twice.total(),
            "run_twice_because": dict(self.twice),
            "verified": self.verified,
            "sampled": self.sampled,
            "killed": [{"role": role, "pid": pid} for pid, role in self.killed.items()],
            "error": self.error,
            "good": self.good,
        }


def print_report(report: Report, kept: Path | None) -> None:
    """The ledger for people."""
    killed = ", ".join(f"{role} {pid}" for pid, role in report.killed.items()) or "nobody"
    say("")
    say("Ledger, kept outside of raftwork")
    say(f"  files         {report.files:>7,}")
    say(f"  acknowledged  {report.acknowledged:>7,}   ids written to a file and fsynced after enqueue returned")
    if report.acknowledged < report.files:
        say(f"  not enqueued  {report.files - report.acknowledged:>7,}   for lack of time: this machine is busy")
    say(f"  finished      {report.finished:>7,}   of these, by the lines that the jobs appended to a file")
    say(f"  lost          {report.lost:>7,}   acknowledged, but not finished")
    say(f"  run twice     {report.twice.total():>7,}")
    for reason, count in report.twice.most_common():
        say(f"                {count:>7,}   {reason}")
    say(f"  verified      {report.verified:>7,}   of {report.sampled} results computed again here and equal")
    say(f"  SIGKILL to    {killed}")
    if report.error is not None:
        say(f"  error         {report.error}")
    if kept is not None:
        say(f"  kept in       {kept}")
    say("")
    say("Nothing was lost." if report.good else "This is not what raftwork promises.")


def verify(app: Any, sample: dict[str, Path]) -> int:
    """How many results of a sample are what a fresh look at the file gives."""
    from raftwork.cli.demo.jobs import measure  # Here: the module makes the application of the demo when imported.

    return sum(app.job(job).result(5) == measure(path) for job, path in sample.items())
