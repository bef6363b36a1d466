"""What a run of the lab did and found, in figures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.lab import Injected
from cluster.model_verdict import Details, Ledger
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


@dataclass
class Report:
    """The figures of one run."""

    title: str
    seconds: float = 0.0
    plan_seconds: float = 0.0
    """Of these, until the last fault of the plan was over."""
    kinds: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    """Injections for which there was no time."""
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
    pauses_ms: list[float] = field(default_factory=list)
    """How long no write was answered after each loss of a leader."""
    restarts_ms: list[float] = field(default_factory=list)
    """The same after each loss of all nodes: with the time that it took to start them."""
    leases_back_s: float = 0.0
    history_s: float = 0.0
    """From the end of all jobs until each node has a record of each."""
    errors: Counter[str] = field(default_factory=Counter)
    checker: str = "not asked"

    @property
    def injections(self) -> int:
        return self.kinds.total()

    def tell(self, injected: Injected, history: History, fates: Fates, runs: list[Run]) -> None:
        """Take the figures of what was written down."""
        self.kinds = injected.kinds
        self.operations, self.unknown = history.recorded(), history.unknown()
        self.acknowledged, self.refused = len(fates.acknowledged), fates.refused
        self.runs, self.again = len(runs), len(runs) - len({run.job for run in runs})
        self.errors = history.errors

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        rows = [
            f"fault lab, {self.title}: {self.seconds:.0f} s, the faults {self.plan_seconds:.0f} s",
            f"  injections    {self.injections} of {len(self.kinds)} kinds: {kinds}",
            f"  skipped       {self.skipped}",
            f"  operations    {self.operations:,} recorded, {self.unknown:,} unknown, {_errors(self.errors)}",
            f"  acknowledged  {self.acknowledged:,} jobs, lost {len(self.lost)}",
            f"  runs          {self.runs:,}, {self.again:,} again after a lost lease",
            f"  zombies       {self.refused:,} ends of runs refused, as the lease was lost",
            f"  double leases {len(self.double)}, started early {len(self.early)}",
            f"  model         {self.model}",
            f"  problems      {len(self.problems)}: {'; '.join(self.problems[:5])}",
            f"  writes paused {_spread(self.pauses_ms)} after {len(self.pauses_ms)} losses of a leader (A1)",
            f"  and           {_spread(self.restarts_ms)} after {len(self.restarts_ms)} losses of all nodes",
            f"  leases back   {self.leases_back_s:.1f} s after all workers were killed (J6)",
            f"  remembered    by each node, {self.history_s:.1f} s after the end of the last job",
            f"  history       {self.checker}",
        ]
        return "\n".join(rows)


def _errors(errors: Counter[str]) -> str:
    return "errors " + (", ".join(f"{code} {count}" for code, count in sorted(errors.items())) or "none")


def _spread(values: list[float]) -> str:
    if not values:
        return "never"
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
    return f"median {statistics.median(ordered):,.0f} ms, p90 {high:,.0f} ms, longest {ordered[-1]:,.0f} ms"
