"""`raftwork retry`, `cancel` and `delete` of many jobs: progress, Ctrl-C, and what is left."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raftwork import Raftwork
from raftwork.storage.client import ClientStorage

JOBS = 1_200


@pytest.fixture
def many(shop: Path) -> Path:
    """More jobs than two writes change."""
    with Raftwork("shop") as app:
        task = app.task(name="shop.send_welcome")(send_welcome)
        app.enqueue_many(task.s(number) for number in range(JOBS))
    return shop


def send_welcome(user_id: int) -> None: ...


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_stops_between_two_chunks(
    raftwork: Any, many: Path, monkeypatch: pytest.MonkeyPatch, signals: int
) -> None:
    cancel = ClientStorage.cancel
    chunks: list[int] = []

    def interrupted(storage: ClientStorage, jobs: Sequence[bytes], reason: str = "") -> Any:
        found = cancel(storage, jobs, reason)
        chunks.append(len(jobs))
        for _ in range(signals if len(chunks) == 2 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(ClientStorage, "cancel", interrupted)
    before = signal.getsignal(signal.SIGINT)
    answer = raftwork("cancel", "--state", "enqueued", "--yes", "--json")
    assert answer.status == 130
    assert chunks == [500, 500]
    assert signal.getsignal(signal.SIGINT) is before
    if signals == 1:
        assert answer.json == {
            "matched": JOBS, "changed": 1_000, "skipped": 0, "stopped": True, "outcomes": {"done": 1_000},
        }  # fmt: skip
    monkeypatch.setattr(ClientStorage, "cancel", cancel)
    rest = raftwork("cancel", "--state", "enqueued", "--yes", "--json").json
    assert (rest["changed"], rest["stopped"]) == (200, False)


def test_what_is_left_is_said(raftwork: Any, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = ClientStorage.cancel

    def interrupted(storage: ClientStorage, jobs: Sequence[bytes], reason: str = "") -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return cancel(storage, jobs, reason)

    monkeypatch.setattr(ClientStorage, "cancel", interrupted)
    answer = raftwork("cancel", "--state", "enqueued", "--yes")
    assert answer.status == 130
    assert re.search(r"500 +done", answer.out)
    assert "700  left as they were: stopped. The same command goes on." in answer.out


def test_progress_is_shown_on_a_terminal_only(many: Path, process: Any) -> None:
    command = ["retry", "--state", "enqueued", "--filter", "fn:shop.*", "--since", "2h", "--yes"]
    plain = process(*command)
    assert plain.status == 0
    assert plain.err == ""
    assert re.search(r"1200 +nothing to do", plain.out)
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "raftwork", *command],
        cwd=many,
        stderr=slave,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += (more := os.read(master, 65_536))
        except OSError:
            break
        if not more:
            break
    os.close(master)
    assert re.search(rb"1200 +nothing to do", done.stdout)
    assert [line for line in shown.decode().split("\r") if "of 1,200" in line] == [
        f"{n} of 1,200 jobs" for n in ("500", "1,000", "1,200")
    ]


def test_what_was_done_by_ids_is_in_the_audit(raftwork: Any, shop: Path) -> None:
    answer = raftwork("enqueue", "--app", "shop:app", "send_welcome", "[1]", "--json")
    id = answer.json["id"]
    assert raftwork("cancel", id, "--reason", "outage").status == 0
    (act,) = (act for act in raftwork("cluster", "audit", "--json").json if act["what"].startswith("jobs."))
    assert act["what"] == "jobs.cancel"
    assert id in act["about"]
    assert "cancel outage: 1 of 1 jobs changed" in act["about"]
