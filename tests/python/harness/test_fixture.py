"""The fixture, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = """
from raftwork import Raftwork
from raftwork.testing.fixtures import harness_fixture
import shop

jobs = harness_fixture(shop.app)
"""

SHOP = """
from raftwork import Raftwork

app = Raftwork("shop")

@app.task
def send(user):
    raise KeyError(f"no user {user}")
"""

TESTS = """
import pathlib

import shop

def test_one(jobs):
    shop.send.enqueue(1)
    jobs.assert_enqueued(shop.send, 1)

def test_each_has_its_own(jobs):
    assert jobs.counts() == {}
    assert not pathlib.Path(".raftwork").exists()

def test_fails(jobs):
    shop.send.enqueue(7)
    jobs.drain()
"""


def test_each_test_has_a_harness_of_its_own_and_shows_its_own_lines(tmp_path: Path) -> None:
    for name, text in (("conftest.py", CONFTEST), ("shop.py", SHOP), ("test_shop.py", TESTS)):
        (tmp_path / name).write_text(text)
    done = run(tmp_path)
    assert "1 failed, 2 passed" in done, done
    # The line of the test and that of the job, and nothing of ours between them.
    assert "jobs.drain()" in done and 'raise KeyError(f"no user {user}")' in done, done
    assert "In the job send(7), attempt 1 of 10." in done
    assert "driving.py" not in done and "runner.py" not in done, done


def test_for_every_test_when_asked(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.replace("(shop.app)", '(shop.app, mode="inline", autouse=True)'))
    (tmp_path / "shop.py").write_text(SHOP.replace('raise KeyError(f"no user {user}")', "return user"))
    (tmp_path / "test_shop.py").write_text(
        "import shop\n\ndef test_it():\n    assert shop.send.enqueue(3).result() == 3\n"
    )
    assert "1 passed" in run(tmp_path)


def run(folder: Path) -> str:
    """The output of pytest in this folder."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90)
    return done.stdout + done.stderr
