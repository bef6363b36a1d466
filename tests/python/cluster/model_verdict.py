"""What the ledger of the dependent jobs says, and how the storage knows them to have ended: what broke which promise.

Everything here is a function of what was written down, as in `verdict`. A run whose lease was lost may go on beside the
next one, so what must not overlap is judged by runs that kept their lease to the end: the newest of each job that ended
well. The storage took their end, so they held their lease from their first line to their last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from cluster.model_jobs import LIMIT, PERMITS, RATE, SLOT_MS, WINDOW_MS
from cluster.parts import TTL_MS

Line = dict[str, Any]
Details = Mapping[str, Line]
"""What the storage says of jobs, by their ids."""
Span = tuple[int, int]

UNREPORTED_NS = (TTL_MS + 3_000) * 1_000_000
"""So long the end of a run may wait to be reported, until the session is over and it never will be."""
REQUEUED = "model.breaking"
"""The task whose jobs are retried after their end, which counts their attempts anew."""


@dataclass
class Ledger:
    """The lines by what they say."""

    lines: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Ledger:
        ledger = cls()
        for line in lines:
            ledger.lines[line["what"]].append(line)
        return ledger

    @classmethod
    def read(cls, path: Path) -> Ledger:
        return cls.of(msgspec.json.decode(line) for line in path.read_bytes().splitlines())

    def begun(self, *tasks: str) -> list[Line]:
        """The beginnings of runs, of these tasks or of all, in their order."""
        found = [line for line in self.lines["begins"] if not tasks or line["task"] in tasks]
        return sorted(found, key=lambda line: int(line["at"]))

    def jobs(self, *tasks: str) -> set[str]:
        """The jobs of these tasks that ran."""
        return {line["job"] for line in self.begun(*tasks)}

    def counted(self) -> tuple[int, int]:
        """How many jobs were acknowledged, and how many more there may be. Those of the schedule are stored by it."""
        stored = {line["number"]: int(line["jobs"]) for line in self.lines["stored"]}
        doubtful = sum(line["jobs"] for line in self.lines["asks"] if line["number"] not in stored)
        return sum(stored.values()) + len(self.jobs("model.tick")), doubtful

    def kept(self, details: Details, *tasks: str) -> list[tuple[Line, Span]]:
        """Runs that kept their lease, each with its first and last moment."""
        ends = {(line["job"], line["token"]): int(line["at"]) for line in self.lines["ends"]}
        newest: dict[str, Line] = {}
        for line in self.begun(*tasks):
            well = details.get(line["job"], {}).get("state") == "succeeded"
            if well and line["token"] >= newest.get(line["job"], line)["token"]:
                newest[line["job"]] = line
        found = [(line, ends.get((line["job"], line["token"]))) for line in newest.values()]
        return [(line, (int(line["at"]), end)) for line, end in found if end is not None]

    def given_back(self) -> Counter[str]:
        """How many runs of each job their workers gave back, or could not report, as their sessions were over."""
        moments: dict[int, list[int]] = defaultdict(list)
        for line in self.lines["gave_up"]:
            moments[line["pid"]].append(line["at"])
        ends = {(line["job"], line["token"]): int(line["at"]) for line in self.lines["ends"]}
        found: Counter[str] = Counter()
        for line in self.begun():
            end = ends.get((line["job"], line["token"]))
            found[line["job"]] += any(
                line["at"] <= at and (end is None or at <= end + UNREPORTED_NS) for at in moments[line["pid"]]
            )
        return found


def problems(ledger: Ledger, by_node: Sequence[Details]) -> list[str]:
    """Everything that is wrong, each in words. `by_node`: what each node says of the jobs."""
    # Where they differ `forgotten` says so, and the others are judged all the same.
    details = {job: detail for known in by_node for job, detail in known.items()}
    return [
        *forgotten(ledger, by_node),
        *callbacks(ledger),
        *flows(ledger, details),
        *repeated(ledger, details),
        *over_limit(ledger, details),
        *over_rate(ledger, details),
        *slots(ledger),
        *locks(ledger),
    ]


def forgotten(ledger: Ledger, by_node: Sequence[Details]) -> list[str]:
    """Nodes that do not know how a job ended that ran: the rest of the verdict would be about nothing."""
    wanted = ledger.jobs()
    lacking = [(number, sorted(wanted - known.keys())) for number, known in enumerate(by_node)]
    return [
        f"node {number} remembers {len(wanted) - len(jobs)} of {len(wanted)} jobs, and not {jobs[:3]}"
        for number, jobs in lacking
        if jobs
    ]


def callbacks(ledger: Ledger) -> list[str]:
    """J11: for each batch, one job for each end that it had, and none for one that it had not."""
    ran: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in ledger.begun("model.called"):
        ran[line["tag"], line["on"]].add(line["job"])
    again: dict[str, bool] = {}
    for line in ledger.lines["again"]:
        again[line["tag"]] = again.get(line["tag"], False) or line["acknowledged"]
    found = []
    for flow in ledger.lines["flow"]:
        tag, wanted = flow["tag"], set(flow.get("callbacks", ()))
        if again.get(tag):
            wanted.add("success")
        for on in ("success", "failure", "finish") if "callbacks" in flow else ():
            jobs = ran[tag, on]
            in_doubt = on == "success" and again.get(tag) is False and len(jobs) <= 1
            if len(jobs) != (on in wanted) and not in_doubt:
                found.append(f"J11: batch {tag} has {len(jobs)} callbacks on {on}, not {int(on in wanted)}: {jobs}")
    return found


def flows(ledger: Ledger, details: Details) -> list[str]:
    """J11: each job of a chain ran, after the one before, and with its result."""
    places: dict[str, dict[int, list[tuple[Line, Span]]]] = defaultdict(lambda: defaultdict(list))
    for line, span in ledger.kept(details, "model.first", "model.plus", "model.gathered"):
        places[line["tag"]][line["place"]].append((line, span))
    starts: dict[str, int] = {}
    began: dict[str, set[int]] = defaultdict(set)
    found = []
    for line in ledger.begun("model.first", "model.plus", "model.gathered"):
        starts.setdefault(line["job"], line["at"])
        began[line["tag"]].add(line["place"])
        if line.get("got") != line.get("wanted"):
            found.append(f"{line['task']} of {line['tag']} got {line['got']} and not {line['wanted']}")
    for flow in ledger.lines["flow"]:
        runs = places[flow["tag"]]
        never = [n for n in range(flow.get("places", 0)) if n not in began[flow["tag"]]]
        found += [f"J11: job {n} of {flow['tag']} never ran" for n in never]
        for earlier, later in pairwise(sorted(runs)):
            end = max(span[1] for _, span in runs[earlier])
            if any(starts[line["job"]] < end for line, _ in runs[later]):
                found.append(f"job {later} of {flow['tag']} ran before job {earlier} had ended")
    return found


def repeated(ledger: Ledger, details: Details) -> list[str]:
    """J2, J4: no job ran more often than its failed attempts and lost leases explain, or twice under a token."""
    tokens: dict[str, list[int]] = defaultdict(list)
    tasks: dict[str, str] = {}
    for line in ledger.begun():
        tokens[line["job"]].append(line["token"])
        tasks[line["job"]] = line["task"]
    given_back = ledger.given_back()
    found = []
    for job, seen in tokens.items():
        if len(set(seen)) < len(seen):
            found.append(f"J2: job {job} was run twice under one of the tokens {seen}")
        detail = details.get(job)
        if detail is None:
            continue  # See `forgotten`.
        if detail["state"] not in ("succeeded", "failed", "cancelled"):
            found.append(f"J6: job {job} is {detail['state']} at the end")
        if tasks[job] != REQUEUED and len(seen) > detail["attempt"] + detail["crashes"] + given_back[job]:
            told = f"{detail['attempt']} attempts, {detail['crashes']} lost leases and {given_back[job]} given back"
            runs = [line for line in ledger.begun() if line["job"] == job]
            found.append(f"J4: job {job} ran {len(seen)} times, with {told}: {runs}")
    return found


def over_limit(ledger: Ledger, details: Details) -> list[str]:
    """J13: no more members with one key at once than may be."""
    spans: dict[int, list[Span]] = defaultdict(list)
    for line, span in ledger.kept(details, "model.member"):
        spans[line["key"]].append(span)
    most = {key: at_once(of_key) for key, of_key in spans.items()}
    return [f"J13: {count} members with the key {key} at once" for key, count in most.items() if count > LIMIT]


def over_rate(ledger: Ledger, details: Details) -> list[str]:
    """J13: no more starts in a window, on the clock of the cluster, than may be."""
    known = [details[job] for job in ledger.jobs("model.paced") if job in details]
    starts = sorted(detail["started_ms"] for detail in known if detail["started_ms"] is not None)
    pairs = zip(starts, starts[RATE:], strict=False)
    return [f"J13: {RATE + 1} starts from {a} to {b} ms" for a, b in pairs if b - a < WINDOW_MS]


def slots(ledger: Ledger) -> list[str]:
    """C1, C2: one job for each second, from the first that was fired to the last."""
    jobs: dict[int, set[str]] = defaultdict(set)
    for line in ledger.begun("model.tick"):
        jobs[line["slot"]].add(line["job"])
    found = [f"C1: slot {slot} has the jobs {of_slot}" for slot, of_slot in jobs.items() if len(of_slot) > 1]
    for earlier, later in pairwise(sorted(jobs)):
        if later - earlier != SLOT_MS:
            found.append(f"C2: no slot between {earlier} and {later}")
    return found


def locks(ledger: Ledger) -> list[str]:
    """K1, K2: no more holders at once than may be, each with a token greater than those before."""
    held: dict[str, list[tuple[Span, int]]] = defaultdict(list)
    for line in ledger.lines["held"]:
        held[line["name"]].append(((line["since"], line["until"]), line["token"]))
    found = []
    for name, permits in (("model-lock", 1), ("model-permits", PERMITS)):
        if (most := at_once([span for span, _ in held[name]])) > permits:
            found.append(f"K1: {most} holders of {name} at once")
        if len({token for _, token in held[name]}) < len(held[name]):
            found.append(f"K2: two holders of {name} had one token")
    ordered = sorted(held["model-lock"])
    for (_, earlier), (_, later) in pairwise(ordered):
        if later <= earlier:
            found.append(f"K2: token {later} was granted after {earlier}")
    return found


def at_once(spans: Sequence[Span]) -> int:
    """The most spans that have a moment in common."""
    moments = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
