"""`raftwork worker` as a process: it runs jobs, stops in order, and keeps several of itself."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.command_line import start


def test_worker_runs_jobs_and_stops_on_sigterm(raftwork: Any, worker: "subprocess.Popen[str]") -> None:
    answer = raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait", "--timeout", "30")
    assert answer.status == 0, answer.err
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_what_fails_is_told_on_standard_error(raftwork: Any, shop: Path, executor: str) -> None:
    source = shop / "shop.py"
    source.write_text(source.read_text().replace("retry=Retry(1)", f'retry=Retry(1), executor="{executor}"'))
    with start("worker", "shop:app", "--children", "1", "--json", cwd=shop) as worker:
        try:
            assert worker.stdout is not None
            worker.stdout.readline()
            answer = raftwork("enqueue", "--app", "shop:app", "broken", "[7]", "--wait", "--timeout", "60")
            assert answer.status != 0
            worker.send_signal(signal.SIGTERM)
            _, told = worker.communicate(timeout=60)
        finally:
            worker.kill()
    assert "ERROR raftwork.failures shop.broken " in told, told
    assert "failed in attempt 1 of 1 and is not run again.\nTraceback (most recent call last):" in told
    assert told.rstrip().endswith("ValueError: no user 7"), told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weight", "mail"], "NAME=N"),
        (["--weight", "=3"], "NAME=N"),
        (["--weight", "mail=x"], "NAME=N"),
        (["--weight", "mail=0"], "from 1 to"),
        (["--weight", "crm=3"], "crm"),
        (["-q", "mail:4", "--weight", "mail=3"], "of its own"),
        (["--weight", "mail=3", "--strict"], "Give one"),
    ],
)
def test_a_weight_that_cannot_be_is_refused(process: Any, options: list[str], words: str) -> None:
    answer = process("worker", "shop:app", *options)
    assert answer.status == 2
    assert words in answer.err


def test_weights_of_the_command_line_reach_the_worker(shop: Path) -> None:
    source = shop / "shop.py"
    source.write_text(source.read_text() + NOTES)
    from shop import app, note  # type: ignore[import-not-found]

    with app:
        jobs = app.enqueue_many(note.using(queue=queue).s(queue) for queue in ("slow", "quick") for _ in range(40))
    command = ["worker", "shop:app", "-q", "slow", "-q", "quick", "--weight", "quick=3", "--threads", "1", "--json"]
    with start(*command, cwd=shop) as worker:
        try:
            with app:
                for job in jobs:
                    job.result(60)
        finally:
            worker.kill()
    order = (shop / "notes.txt").read_text().split()
    assert (len(order), order[:40].count("quick")) == (80, 30)


NOTES = """

@app.task
def note(queue: str) -> None:
    with open("notes.txt", "a") as file:
        file.write(queue + "\\n")
"""


def test_two_processes_share_the_work_and_end_together(raftwork: Any, shop: Path) -> None:
    with start("worker", "shop:app", "--processes", "2", "--json", cwd=shop) as supervisor:
        assert supervisor.stdout is not None
        try:
            for _ in range(2):
                assert "worker.starting" in supervisor.stdout.readline()
            answer = raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait", "--timeout", "30")
            assert answer.status == 0, answer.err
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(20) == 0
        finally:
            supervisor.kill()


def test_reload_starts_anew_when_a_source_file_changes(raftwork: Any, shop: Path) -> None:
    source = shop / "shop.py"
    text = source.read_text()

    def started(worker: "subprocess.Popen[str]") -> int:
        assert worker.stdout is not None
        line = json.loads(worker.stdout.readline())
        assert line["event"] == "worker.starting"
        return int(line["pid"])

    def greeting() -> str:
        answer = raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait", "--timeout", "30", "--json")
        assert answer.status == 0, answer.err
        return str(answer.json["result"])

    with start("worker", "shop:app", "--reload", "--json", cwd=shop) as worker:
        try:
            first = started(worker)
            assert greeting() == "'sent default to 7'"
            source.write_text(text.replace("sent", "mailed"))
            second = started(worker)
            assert greeting() == "'mailed default to 7'"
            (shop / "notes.txt").write_text("not a source")
            source.write_text("this is no Python")
            assert worker.stderr is not None
            while "ended with" not in worker.stderr.readline():
                pass  # The way there: what changed, and the traceback of the import.
            source.write_text(text.replace("sent", "repaired"))
            third = started(worker)
            assert greeting() == "'repaired default to 7'"
            assert len({first, second, third}) == 3
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(20) == 0
        finally:
            worker.kill()


def test_reload_without_its_package_says_how_to_get_it(raftwork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    answer = raftwork("worker", "shop:app", "--reload")
    assert answer.status == 2
    assert 'pip install "raftwork[reload]"' in answer.err


def test_worker_without_an_application_is_wrong_usage(raftwork: Any) -> None:
    assert raftwork("worker").status == 2
    assert raftwork("worker", "nothing:app").status == 2
