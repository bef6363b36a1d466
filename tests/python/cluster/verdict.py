"""What the recorded history and the outside ledger say: was anything lost, held twice, or told wrongly.

Everything here is a function of what was written down, so that it can be tested with mistakes that were planted.
The history is judged by the linearizability checker of `tests/sim/linear.rs`; this file counts what that checker does
not see: runs, and whether what was acknowledged was done in the end.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

REPOSITORY = Path(__file__).resolve().parents[3]
LEASE_LOST = 1
DONE, ALREADY = 0, 3
KNOWN = 1

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class Run(NamedTuple):
    """One line of the ledger: a job was run under this token."""

    job: str
    token: int
    attempt: int
    process: int
    began: int


@dataclass
class History:
    """All operations of all processes."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """Why operations failed, by the code of the error."""
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, lines: Iterable[bytes]) -> None:
        """Read the lines of one process."""
        begun: dict[int, dict[str, Any]] = {}
        for line in lines:
            words = _decode(line)
            if "note" in words:
                self.notes.update(words["note"].keys())
            elif "operation" in words:
                begun[words["number"]] = words
            else:
                begun[words["number"]] |= words
                if "why" in words:
                    self.errors[words["why"].split(" ", 1)[0]] += 1
        self.operations += begun.values()

    @classmethod
    def read(cls, folder: Path) -> History:
        """The histories of a folder."""
        history = cls()
        for path in folder.glob("history-*"):
            history.add(path.read_bytes().splitlines())
        return history

    def answered(self, *kinds: str) -> list[dict[str, Any]]:
        """The operations of these kinds that were answered."""
        return [op for op in self.operations if op["operation"] in kinds and op.get("answer") is not None]

    def unknown(self) -> int:
        """Writes of which nobody knows whether they happened."""
        writes = (op for op in self.operations if op["operation"] != "read")
        return sum(1 for op in writes if op.get("answer") is None and op.get("error") != "not_committed")

    def recorded(self) -> int:
        """Operations that asked for something: claims that found nothing to do are left out."""
        return sum(1 for op in self.operations if op["operation"] != "claim" or op.get("answer") != [])

    def write(self, path: Path) -> None:
        """Write it in the form that `tests/sim/history.rs` reads."""
        with path.open("wb") as file:
            for op in self.operations:
                file.write(_encode(_told(op)) + b"\n")
                if op["operation"] == "enqueue" and KNOWN in (op.get("answer") or []):
                    # The client's session had ended, and it asked again under another one: the first time is open.
                    file.write(_encode(_told(op | {"ended": None, "index": None, "answer": None})) + b"\n")


def _told(op: dict[str, Any]) -> dict[str, Any]:
    names = ("process", "began", "operation", "arguments", "index", "answer", "error")
    told = {name: op[name] for name in names if op.get(name) is not None}
    if op.get("ended") is not None and op.get("error") != "unknown":
        told["ended"] = op["ended"]
    return told


def read_ledger(path: Path) -> list[Run]:
    """The runs, in the order in which they were written."""
    rows = (line.split() for line in path.read_text().splitlines())
    return [Run(job, int(token), int(attempt), int(process), int(at)) for job, token, attempt, process, at in rows]


@dataclass
class Fates:
    """What became of the jobs, as far as the answers tell."""

    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The operation that enqueued each job that was acknowledged."""
    in_doubt: set[str] = field(default_factory=set)
    """Jobs whose enqueueing has an unknown outcome."""
    finished: dict[str, list[int]] = field(default_factory=dict)
    """The tokens under which each job was ended, as its workers were told. One each, if all is well."""
    ended: set[str] = field(default_factory=set)
    """Jobs that somebody cancelled, or saw ended: nothing starts a job again here."""
    refused: int = 0
    """Ends of runs that were refused, because the lease was lost: zombies."""

    @classmethod
    def of(cls, history: History) -> Fates:
        fates = cls()
        for op in history.operations:
            if op["operation"] == "enqueue":
                jobs = [job["id"] for job in op["arguments"]["jobs"]]
                if op.get("answer") is not None:
                    fates.acknowledged |= dict.fromkeys(jobs, op)
                elif op.get("error") != "not_committed":
                    fates.in_doubt.update(jobs)
        for op in history.answered("finish"):
            for result, code in zip(op["arguments"]["results"], op["answer"], strict=True):
                if code == 0:
                    fates.finished.setdefault(result["job"], []).append(result["token"])
                fates.refused += code == LEASE_LOST
        for op in history.answered("cancel"):
            told = zip(op["arguments"]["jobs"], op["answer"], strict=True)
            fates.ended.update(job for job, code in told if code in (DONE, ALREADY))
        for op in history.answered("read"):
            told = zip(op["arguments"]["jobs"], op["answer"], strict=True)
            fates.ended.update(job for job, state in told if state in ("succeeded", "cancelled"))
        return fates

    def open(self) -> set[str]:
        """Acknowledged jobs of which no answer tells that they ended: the storage must be asked."""
        return self.acknowledged.keys() - self.finished.keys() - self.ended


def lost(fates: Fates, known_final: Iterable[str]) -> list[str]:
    """D1, J14: acknowledged jobs that neither an answer nor the storage says have ended."""
    return sorted(fates.open() - set(known_final))


def double_leases(runs: Sequence[Run], fates: Fates) -> list[str]:
    """J2, J4: leases that were there twice, each in words. Runs of an older token that go on are no such thing."""
    problems = []
    seen: dict[tuple[str, int], Run] = {}
    newest: dict[str, int] = {}
    for run in runs:
        first = seen.setdefault((run.job, run.token), run)
        if first is not run:
            problems.append(f"job {run.job} was run twice under token {run.token}: {first} and {run}")
        newest[run.job] = max(newest.get(run.job, 0), run.token)
    for job, tokens in fates.finished.items():
        if len(tokens) > 1:
            problems.append(f"job {job} ended under each of the tokens {tokens}")
        if newest.get(job, 0) > max(tokens):
            problems.append(f"job {job} ended under token {max(tokens)}, and was run under {newest[job]} besides")
        if (job, tokens[0]) not in seen:
            problems.append(f"job {job} ended under token {tokens[0]}, under which nobody ran it")
    return problems


def effects(runs: Sequence[Run]) -> Counter[str]:
    """How often each job had an effect at a receiver that takes only tokens larger than any it has seen of the job."""
    newest: dict[str, int] = {}
    had: Counter[str] = Counter()
    for run in runs:
        if run.token > newest.get(run.job, 0):
            newest[run.job] = run.token
            had[run.job] += 1
    return had


def early(runs: Sequence[Run], fates: Fates, tolerance: float = 0.01) -> list[str]:
    """J9: jobs that ran before they were due, by the monotonic clock, which drifts by less than the tolerance."""
    due = {}
    for op in fates.acknowledged.values():
        for job in op["arguments"]["jobs"]:
            due[job["id"]] = op["began"] + job["delay"] * 1_000_000 * (1 - tolerance)
    return [run.job for run in runs if run.began < due.get(run.job, 0)]


def check_history(path: Path) -> str:
    """Judge a history with the checker of the simulator. Gives what it says of a good one.

    Raises:
        AssertionError: it contradicts itself; the message says how.
    """
    # As `make test` has built it by then; without optimisation judging takes longer than building it.
    built = ["--quiet", "--locked", "--features", "sim", "--profile", "sim", "--test", "sim"]
    command = ["cargo", "test", *built, "history_of_a_file"]
    environment = {**os.environ, "RAFTWORK_HISTORY": str(path)}
    done = subprocess.run(
        [*command, "--", "--nocapture"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900
    )
    said = [line for line in done.stdout.splitlines() if "no contradiction" in line]
    if done.returncode == 0 and said:
        return said[0]
    raise AssertionError(f"the history contradicts itself:\n{done.stdout[-4_000:]}\n{done.stderr[-4_000:]}")
