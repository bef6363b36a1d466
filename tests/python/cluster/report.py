"""What a run of the lab did and found, in figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from cluster import pauses
from cluster.lab import Injected
from cluster.model_verdict import Details, Ledger
from cluster.pauses import LEADER_LOST, RESTARTED, Pauses
from cluster.verdict import Fates, History, Run


@dataclass
class OfModel:
    """What the jobs that depend on each other did."""

    counts: Counter[str] = field(default_factory=Counter)

    def tell(self, ledger: Ledger, by_node: Sequence[Details]) -> None:
        """Take the figures of the ledger, and of how many jobs each node knows how they ended."""
        flows = ledger.lines["flow"]
        self.counts = Counter(
            jobs=len(ledger.jobs()),
            remembered=min(map(len, by_node)),
            runs=len(ledger.begun()),
            batches=sum("callbacks" in flow for flow in flows),
            begun_again=sum(line["acknowledged"] for line in ledger.lines["again"]),
            callbacks=len(ledger.jobs("model.called")),
            chains=sum("places" in flow for flow in flows),
            with_limit=len(ledger.jobs("model.member")),
            with_rate=len(ledger.jobs("model.paced")),
            slots=len(ledger.jobs("model.tick")),
            holdings=len(ledger.lines["held"]),
            in_doubt=len(ledger.lines["doubt"]),
        )

    def check(self) -> None:
        """That there was something of each: a verdict about nothing finds nothing."""
        least = {"batches": 30, "begun_again": 3, "callbacks": 60, "chains": 15, "with_limit": 60, "with_rate": 10}
        least |= {"slots": 30, "holdings": 20}
        missing = {name: self.counts[name] for name, count in least.items() if self.counts[name] < count}
        assert not missing, f"too little was done with flows, limits, slots and locks: {missing}"

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in self.counts.items())


@dataclass(frozen=True)
class Floors:
    """What a run must do at least: its verdict says nothing of what it did not do."""

    kinds: int
    injections: int
    operations: int


SKIPPED_SHARE = 0.05
"""So many of all injections may fail to take effect. Each kind must have had one at least once."""


@dataclass
class Report:
    """The figures of one run."""

    title: str
    parts_s: dict[str, float] = field(default_factory=dict)
    """What each part of the run took."""
    kinds: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Injections that took no effect: kind and reason."""
    kinds_s: dict[str, float] = field(default_factory=dict)
    """What each kind took in all."""
    operations: int = 0
    unknown: int = 0
    acknowledged: int = 0
    runs: int = 0
    again: int = 0
    """Runs of a job that had been run before, after its lease was lost."""
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    model: OfModel = field(default_factory=OfModel)
    problems: list[str] = field(default_factory=list)
    """What is wrong with flows, limits, slots and locks."""
    paused: Pauses = field(default_factory=dict)
    """How long no write was answered, by what had happened."""
    leases_back_s: float = 0.0
    rest_s: float = 0.0
    """From the end of the last enqueueing until all jobs had ended."""
    waiting: list[str] = field(default_factory=list)
    """What waits or lives after the load has ended."""
    history_s: float = 0.0
    """From the end of all jobs until each node has a record of each."""
    errors: Counter[str] = field(default_factory=Counter)
    checker: str = "not asked"

    _since: float = field(default_factory=time.monotonic)

    @property
    def injections(self) -> int:
        return self.kinds.total()

    def part(self, name: str) -> None:
        """A part of the run is over, and the next one begins."""
        now = time.monotonic()
        self.parts_s[name], self._since = now - self._since, now

    def tell(self, injected: Injected, history: History, fates: Fates, runs: list[Run]) -> None:
        """Take the figures of what was written down."""
        self.kinds, self.skipped, self.kinds_s = injected.kinds, injected.skipped, injected.seconds
        self.paused = pauses.measured(history, injected.moments)
        self.operations, self.unknown = history.recorded(), history.unknown()
        self.acknowledged, self.refused = len(fates.acknowledged), fates.refused
        self.runs, self.again = len(runs), len(runs) - len({run.job for run in runs})
        self.errors = history.errors

    def check_amount(self, wanted: Set[str], floors: Floors) -> None:
        """That it did what it was to do: enough of everything, each wanted kind of fault, and few in vain."""
        did = f"{self.injections} injections of {len(self.kinds)} kinds, {self.operations} operations"
        enough = len(self.kinds) >= floors.kinds and self.injections >= floors.injections
        assert enough and self.operations >= floors.operations, f"too little was done: {did}, and not {floors}"
        never = sorted(wanted - self.kinds.keys())
        assert not never, f"of these faults none took effect: {never}; {self.skipped}"
        share = len(self.skipped) / (len(self.skipped) + self.injections)
        assert share <= SKIPPED_SHARE, f"{share:.0%} of all faults took no effect: {self.skipped}"

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        costly = sorted(self.kinds_s.items(), key=lambda item: -item[1])
        rows = [
            f"fault lab, {self.title}: {sum(self.parts_s.values()):.0f} s: {_seconds(self.parts_s.items())}",
            f"  injections    {self.injections} of {len(self.kinds)} kinds: {kinds}",
            f"  took no effect {len(self.skipped)}: {'; '.join(f'{kind}: {why}' for kind, why in self.skipped)}",
            f"  seconds       {_seconds(costly)}",
            f"  operations    {self.operations:,} recorded, {self.unknown:,} unknown, {_errors(self.errors)}",
            f"  acknowledged  {self.acknowledged:,} jobs, lost {len(self.lost)}",
            f"  runs          {self.runs:,}, {self.again:,} again after a lost lease",
            f"  zombies       {self.refused:,} ends of runs refused, as the lease was lost",
            f"  double leases {len(self.double)}, started early {len(self.early)}",
            f"  model         {self.model}",
            f"  problems      {len(self.problems)}: {'; '.join(self.problems[:5])}",
            f"  writes paused {_spread(self.paused, LEADER_LOST)} after losses of a leader (A1)",
            f"  and           {_spread(self.paused, RESTARTED)} after losses of all nodes, their start included",
            "  by kind, median / longest:",
            *(f"    {line}" for line in pauses.by_kind(self.paused)),
            f"  leases back   {self.leases_back_s:.1f} s after all workers were killed (J6)",
            f"  at rest       {self.rest_s:.1f} s after the last client had ended (J6), and left {len(self.waiting)}",
            f"  remembered    by each node, {self.history_s:.1f} s after the end of the last job",
            f"  history       {self.checker}",
        ]
        return "\n".join(rows)


def _seconds(items: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in items)


def _errors(errors: Counter[str]) -> str:
    return "errors " + (", ".join(f"{code} {count}" for code, count in sorted(errors.items())) or "none")


def _spread(found: Pauses, what: str) -> str:
    figures = pauses.of(found, what)
    return f"{len(figures)} times, {pauses.spread(figures)},"
