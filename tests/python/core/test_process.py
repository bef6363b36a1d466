"""Ctrl-C, and the end of a process while threads wait inside the core."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from core.conftest import Process

Start = Callable[..., Process]


@pytest.mark.parametrize("kind", ["next", "events", "wait", "finish_and_next"])
def test_ctrl_c_ends_a_wait(start: Start, kind: str) -> None:
    process = start("interrupted", kind)
    assert process.read() == "waiting"
    os.kill(process.pid, signal.SIGINT)
    word, seconds = process.read().split()
    assert word == "interrupted"
    assert float(seconds) < 10
    assert process.popen.wait(20) == 0


@pytest.mark.parametrize("stored", [False, True])
def test_a_process_ends_while_threads_wait(start: Start, tmp_path: Path, stored: bool) -> None:
    process = start("exit_with_waiters", tmp_path / "jobs" if stored else "")
    assert process.read() == "ending"
    assert process.popen.wait(20) == 7
