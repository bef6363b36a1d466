"""`raftwork worker` as a process: it runs jobs, stops in order, and keeps several of itself."""

import signal
import subprocess
from pathlib import Path
from typing import Any

from support.command_line import start


def test_worker_runs_jobs_and_stops_on_sigterm(raftwork: Any, worker: "subprocess.Popen[str]") -> None:
    answer = raftwork("enqueue", "--app", "shop:app", "send_welcome", "[7]", "--wait", "--timeout", "30")
    assert answer.status == 0, answer.err
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0


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


def test_worker_without_an_application_is_wrong_usage(raftwork: Any) -> None:
    assert raftwork("worker").status == 2
    assert raftwork("worker", "nothing:app").status == 2
