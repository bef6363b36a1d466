"""A disk that refuses writes, in a process of its own: typed errors, no end of the process, and work again later."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource
import time

from raftwork import DiskError, OutcomeUnknown, Raftwork

app = Raftwork("shop", "raft:///jobs", submit_timeout="20s")


@app.task(name="f")
def task() -> None:
    pass


with app:
    first = task.enqueue()
    # From now on the system refuses what is written to any file beyond its first byte.
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, most))
    for _ in range(2):
        try:
            task.enqueue()
        except (DiskError, OutcomeUnknown) as error:
            print("refused", error.code)
        else:
            print("it was written")
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            print("again", task.enqueue() is not None, first.state.value, app.health()["raft_role"])
            break
        except DiskError:
            pass
"""


def test_d2_a_failed_node_gives_typed_errors_and_goes_on_when_the_disk_does(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in lines] == ["refused", "refused", "again"], done.stdout + done.stderr
    assert {line.split()[1] for line in lines[:2]} <= {"RW311", "RW302"}
    assert lines[2] == "again True enqueued leader"
