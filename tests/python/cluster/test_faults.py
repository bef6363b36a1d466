"""Real nodes on file systems and networks of their own, real clients and workers, and everything that may go wrong.

D1, D2, D3, D5, L1, L2, J1 to J9, J12, J14, T2, A1, A3: what was acknowledged survives, what is leased is leased once,
and every answer follows from those before. How to repeat one fault: docs/internals/fault-lab.md.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster import injections as do
from cluster import model_verdict, verdict
from cluster.injections import Injection
from cluster.lab import Lab, final_states, lab, open_batches, remembered
from cluster.machine import JUMPS_S, YEARS_S
from cluster.parts import TTL_MS
from cluster.report import Report
from cluster.worker_faults import WorkerFaults, kill_all_workers

pytestmark = [pytest.mark.root, pytest.mark.slow]

Plan = Sequence[tuple[str, Injection]]
WHERE = [*JUMPS_S, *YEARS_S]


def times(count: int, *injections: Injection) -> list[tuple[str, Injection]]:
    return [(injection.__name__.replace("_", " "), injection) for injection in injections for _ in range(count)]


THREE: Plan = [
    *times(6, do.kill_leader),
    *times(3, do.kill_follower, do.kill_all, do.stop_leader, do.isolate_leader, do.split),
    *times(2, do.stop_follower, do.isolate_follower, do.one_way, do.one_way_follower),
    *times(3, do.flapping, do.loss, do.slow_disk, do.disk_full, do.failing_sync),
    *times(2, do.dead_disk, do.deleted_data, do.rolled_back_data),
    *times(4, do.power_cut_one, do.power_cut_leader, do.power_cut_all),
    *[("clock of leader", do.clock_of_leader(where)) for where in WHERE],
    *[("clock of follower", do.clock_of_follower(where)) for where in WHERE],
]
FIVE: Plan = [
    *times(3, do.kill_leader, do.split, do.power_cut_minority),
    *times(2, do.stop_leader, do.isolate_leader, do.power_cut_all),
    *times(1, do.kill_all, do.one_way, do.flapping, do.loss, do.slow_disk, do.disk_full, do.failing_sync),
    *times(1, do.deleted_data, do.rolled_back_data),
]


def run(folder: Path, nodes: int, plan: Plan, operations: int, seconds: float) -> Report:
    """Go through a plan, and on until so many operations are recorded; end in any case after so many seconds."""
    seed = int(os.environ.get("FAULT_LAB_SEED", "1"))
    only = os.environ.get("FAULT_LAB_ONLY")
    report, chance = Report(f"{nodes} nodes, seed {seed}"), random.Random(seed)
    plan = [step for step in chance.sample(plan, len(plan)) if only in (None, step[0])]
    began = time.monotonic()
    with lab(folder, nodes) as it:
        workers = WorkerFaults(it, seed)
        it.load.start()
        it.load.wait_for_answers(do.GOES_ON)
        workers.start()
        try:
            report.skipped = follow(it, plan, chance, lambda: time.monotonic() - began > seconds)
            report.plan_seconds = time.monotonic() - began
            while only is None and it.load.answers() < operations and time.monotonic() - began < seconds:
                it.load.wait_for_answers(1)
        finally:
            workers.end()
        report.leases_back_s = kill_all_workers(it)
        it.load.stop_clients()
        it.wait_until_done()
        it.load.stop_workers()
        report.history_s = it.wait_for_whole_history()
        history = verdict.History.read(folder)
        fates, runs = verdict.Fates.of(history), verdict.read_ledger(folder / "ledger")
        report.tell(it.injected, history, fates, runs)
        report.lost = verdict.lost(fates, final_states(it, fates.open()))
        report.double, report.early = verdict.double_leases(runs, fates), verdict.early(runs, fates)
        lost = it.injected.leader_lost
        report.pauses_ms = verdict.pauses_ms(history, [moment for moment, majority in lost if majority])
        report.restarts_ms = verdict.pauses_ms(history, [moment for moment, majority in lost if not majority])
        ledger = model_verdict.Ledger.read(folder / "model-ledger")
        by_node = remembered(it, ledger.jobs())
        report.model.tell(ledger, by_node)
        stored, doubtful = ledger.counted()
        it.check_totals(len(fates.acknowledged) + stored, len(fates.in_doubt) + doubtful)
        report.problems = open_batches(it) + model_verdict.problems(ledger, by_node)
    report.seconds = time.monotonic() - began
    history.write(folder / "history.jsonl")
    return report


def follow(it: Lab, plan: Plan, chance: random.Random, is_over: Callable[[], bool]) -> int:
    """Do one after the other; gives how many were left out because the time was over."""
    for place, (kind, injection) in enumerate(plan):
        if is_over():
            return len(plan) - place
        try:
            injection(it, chance)
            it.wait_for_history()
        except BaseException as error:
            error.add_note(f"while `{kind}`, step {place} of the plan; {it.describe()}")
            raise
        it.note(kind)
    return 0


def judge(report: Report, folder: Path, kinds: int, injections: int, operations: int) -> None:
    """What must hold of a run, and that it was not too little."""
    try:
        report.checker = verdict.check_history(folder / "history.jsonl")
    finally:
        print(f"\n{report}")
    assert report.lost == []
    assert report.double == []
    assert report.early == []
    assert report.problems == []
    assert report.leases_back_s < TTL_MS / 1_000 + 2
    if "FAULT_LAB_ONLY" not in os.environ:
        did = (len(report.kinds), report.injections, report.operations)
        assert did >= (kinds, 0, 0) and did[1] >= injections and did[2] >= operations, f"too little was done: {did}"
        assert report.refused > 0, "no zombie told the end of a run whose lease was lost"
        report.model.check()


@pytest.mark.timeout(1_200)
def test_three_nodes_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(tmp_path, 3, THREE, 75_000, 420)
    with capsys.disabled():
        judge(report, tmp_path, 20, 90, 75_000)


@pytest.mark.timeout(1_200)
def test_five_nodes_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(tmp_path, 5, FIVE, 25_000, 240)
    with capsys.disabled():
        judge(report, tmp_path, 12, 30, 25_000)
