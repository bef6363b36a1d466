"""The demo without a terminal: it ends by itself, loses nothing, and leaves nothing behind."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from support.command_line import start

pytestmark = pytest.mark.demo


def children_of_demo() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if b"raftwork.cli.demo.child" in words:
            found.append(path.parent.name)
    return found


@pytest.mark.slow
def test_demo_loses_nothing_within_a_minute(shop: Path) -> None:
    began = time.monotonic()
    with start("demo", "--json", cwd=shop, TMPDIR=str(shop)) as running:
        out, err = running.communicate(timeout=75)
    assert time.monotonic() - began < 60
    assert running.returncode == 0, out + err
    ledger = json.loads(out)
    assert ledger["files"] >= 1_000
    # On a machine that is busy with something else the demo takes fewer files, so that it ends in time.
    assert 300 <= ledger["acknowledged"] == ledger["finished"]
    assert ledger["lost"] == 0
    assert ledger["verified"] == ledger["sampled"] == 50
    assert sorted(member["role"] for member in ledger["killed"]) == ["owner", "worker"]
    for pid in (member["pid"] for member in ledger["killed"]):
        assert not Path(f"/proc/{pid}").exists()
    assert not list(shop.glob("raftwork-demo-*"))
    assert not children_of_demo()


def test_demo_of_a_directory_prints_the_ledger(process: Any, shop: Path) -> None:
    files = shop / "files"
    files.mkdir()
    for number in range(120):
        (files / f"{number}.txt").write_bytes(os.urandom(2_000))
    answer = process("demo", str(files))
    assert answer.status == 0, answer.out + answer.err
    assert "lost                0" in answer.out
    assert "Nothing was lost." in answer.out


def test_demo_stopped_by_sigterm_leaves_nothing_behind(shop: Path) -> None:
    with start("demo", cwd=shop, TMPDIR=str(shop)) as running:
        assert running.stdout is not None
        while "acknowledged" not in running.stdout.readline():
            assert running.poll() is None
        running.terminate()
        running.communicate(timeout=30)
    assert running.returncode == 130
    assert not list(shop.glob("raftwork-demo-*"))
    assert not children_of_demo()
