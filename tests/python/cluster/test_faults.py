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

from cluster import clock_faults as clocks
from cluster import data_faults as data
from cluster import disk_faults as disks
from cluster import injections as do
from cluster import model_verdict, pauses, verdict
from cluster.lab import Lab, final_states, lab, left_waiting, open_batches, remembered
from cluster.machine import JUMPS_S, YEARS_S
from cluster.parts import TTL_MS
from cluster.report import Floors, Report
from cluster.steps import GOES_ON, Injection, NotApplied
from cluster.worker_faults import KINDS, WorkerFaults, kill_all_workers

pytestmark = [pytest.mark.root, pytest.mark.slow]

Plan = Sequence[tuple[str, Injection]]
TRIES = 3
"""Of a fault that took no effect."""
LEASES_BACK_MORE_S = 10
"""Than their time to live, on a machine with other work. Promised are 2 s; the figure is in the report."""


def times(count: int, *injections: Injection) -> list[tuple[str, Injection]]:
    return [(injection.__name__.replace("_", " "), injection) for injection in injections for _ in range(count)]


THREE: Plan = [
    *times(3, do.kill_leader, disks.power_cut_leader, disks.power_cut_all),
    *times(2, do.kill_follower, do.kill_all, do.stop_leader, do.isolate_leader, do.split, disks.power_cut_one),
    *times(1, do.stop_follower, do.isolate_follower, do.one_way, do.one_way_follower),
    *times(2, do.flapping, do.loss, disks.slow_disk),
    *times(2, disks.disk_full_of_leader, disks.disk_full_of_follower),
    *times(2, disks.failing_sync_of_leader, disks.failing_sync_of_follower),
    *times(1, disks.failing_sync_of_archive, disks.dead_disk, data.deleted_data, data.rolled_back_data),
    *[("clock of leader", clocks.clock_of_leader(where)) for where in [*JUMPS_S, *YEARS_S]],
    *[("clock of follower", clocks.clock_of_follower(where)) for where in ("+1h", "-1d", "1970", "2100")],
]
FIVE: Plan = [
    *times(2, do.kill_leader, do.split, disks.power_cut_minority),
    *times(1, do.stop_leader, do.isolate_leader, do.kill_all, do.one_way, do.flapping, do.loss),
    *times(1, disks.power_cut_all, disks.slow_disk, disks.disk_full_of_leader, disks.failing_sync_of_follower),
    *times(1, data.deleted_data, data.rolled_back_data),
]
PATIENCE_S = 900.0
"""So long faults may go on. They end by themselves when they have done enough, on a slow machine later."""


def run(folder: Path, nodes: int, plan: Plan, goal: Floors) -> Report:
    """Go through a plan, and on until the goal is reached, with room above what is asked for."""
    seed = int(os.environ.get("FAULT_LAB_SEED", "1"))
    only = os.environ.get("FAULT_LAB_ONLY", "").split(",")
    report, chance = Report(f"{nodes} nodes, seed {seed}"), random.Random(seed)
    plan = [step for step in chance.sample(plan, len(plan)) if only == [""] or step[0] in only]
    with lab(folder, nodes) as it:
        workers = WorkerFaults(it, seed)
        it.load.start()
        it.load.wait_for_answers(GOES_ON)
        report.part("start")
        workers.start()
        try:
            over = time.monotonic() + PATIENCE_S
            follow(it, plan, chance, lambda: time.monotonic() > over)
            report.part("faults")
            while only == [""] and not it.has_done(goal.injections, goal.operations) and time.monotonic() < over:
                it.load.wait_for_answers(1)
        finally:
            workers.end()
        report.part("more load")
        end(it, report)
        judge_lab(it, report, folder)
    return report


def follow(it: Lab, plan: Plan, chance: random.Random, is_over: Callable[[], bool]) -> None:
    """Do one after the other. What took no effect is tried again, and counted."""
    for place, (kind, injection) in enumerate(plan):
        it.kind, began = kind, time.monotonic()
        for _ in range(TRIES):
            if is_over():
                it.skip(kind, "no time was left")
                break
            try:
                injection(it, chance)
                it.note(kind)
                break
            except NotApplied as why:
                it.skip(kind, str(why))
            except BaseException as error:
                error.add_note(f"while `{kind}`, step {place} of the plan; {it.describe()}")
                raise
        try:
            it.wait_for_history()
        except AssertionError as error:
            error.add_note(f"after `{kind}`, step {place} of the plan; {it.describe()}")
            raise
        it.injected.seconds[kind] += time.monotonic() - began


def end(it: Lab, report: Report) -> None:
    """Let everything come to its end, with nothing wrong any more (J6)."""
    report.leases_back_s = kill_all_workers(it)
    it.load.stop_clients()
    report.rest_s = it.wait_until_done()
    it.load.stop_workers()
    report.waiting = left_waiting(it)
    report.history_s = it.wait_for_whole_history()
    report.part("the end")


def judge_lab(it: Lab, report: Report, folder: Path) -> None:
    """Compare what was written down with what each node knows."""
    history = verdict.History.read(folder)
    fates, runs = verdict.Fates.of(history), verdict.read_ledger(folder / "ledger")
    report.tell(it.injected, history, fates, runs)
    report.lost = verdict.lost(fates, final_states(it, fates.open()))
    report.double, report.early = verdict.double_leases(runs, fates), verdict.early(runs, fates)
    ledger = model_verdict.Ledger.read(folder / "model-ledger")
    by_node = remembered(it, ledger.jobs())
    report.model.tell(ledger, by_node)
    stored, doubtful = ledger.counted()
    it.check_totals(len(fates.acknowledged) + stored, len(fates.in_doubt) + doubtful)
    report.problems = open_batches(it) + model_verdict.problems(ledger, by_node)
    history.write(folder / "history.jsonl")
    report.part("what each node knows")


def judge(report: Report, folder: Path, plan: Plan, floors: Floors) -> None:
    """What must hold of a run, and that it was not too little."""
    try:
        report.checker = verdict.check_history(folder / "history.jsonl")
        report.part("judging the history")
    finally:
        print(f"\n{report}")
    assert report.lost == []
    assert report.double == []
    assert report.early == []
    assert report.problems == []
    assert report.waiting == []
    assert report.leases_back_s < TTL_MS / 1_000 + LEASES_BACK_MORE_S
    assert pauses.too_long(report.paused) == []
    if "FAULT_LAB_ONLY" not in os.environ:
        report.check_amount({kind for kind, _ in plan} | KINDS, floors)
        assert report.refused > 0, "no zombie told the end of a run whose lease was lost"
        report.model.check()


@pytest.mark.timeout(1_800)
def test_three_nodes_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(tmp_path, 3, THREE, Floors(kinds=28, injections=160, operations=120_000))
    with capsys.disabled():
        judge(report, tmp_path, THREE, Floors(kinds=28, injections=120, operations=100_000))


@pytest.mark.timeout(1_800)
def test_five_nodes_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(tmp_path, 5, FIVE, Floors(kinds=18, injections=50, operations=30_000))
    with capsys.disabled():
        judge(report, tmp_path, FIVE, Floors(kinds=18, injections=40, operations=25_000))
