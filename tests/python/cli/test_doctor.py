"""`raftwork doctor` and `raftwork bench`."""

import importlib
from pathlib import Path
from typing import Any

import pytest


def test_doctor_says_where_settings_come_from(raftwork: Any, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "raftwork.toml").write_text('queue = "mail"\n')
    monkeypatch.setenv("RAFTWORK_MAX_CRASHES", "5")
    answer = raftwork("doctor", "--json")
    assert answer.status == 0
    places = {row["name"]: row["from"] for row in answer.json["settings"]}
    assert places["queue"].endswith("raftwork.toml")
    assert places["max_crashes"] == "environment RAFTWORK_MAX_CRASHES"
    assert places["timeout"] == "default"
    assert "fdatasync" in raftwork("doctor").out


def test_doctor_finds_a_changed_byte_and_salvages_on_request(raftwork: Any, shop: Path) -> None:
    module = importlib.import_module("shop")
    module.app.enqueue_many(module.send_welcome.s(number) for number in range(20))
    for number in range(20):
        module.send_welcome.enqueue(number)
    module.app.close()
    assert raftwork("doctor").status == 0
    log = max((shop / ".raftwork").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(log.read_bytes())
    used = len(content.rstrip(b"\0"))
    content[used // 2] ^= 1
    log.write_bytes(content)
    refused = raftwork("status")
    assert refused.status == 3
    assert refused.err.startswith("RW312 ")
    assert "raftwork doctor" in refused.err
    assert raftwork("doctor").status == 3
    assert raftwork("doctor", "--salvage").status == 2
    assert raftwork("doctor", "--salvage", "--yes").status == 0
    assert raftwork("status").status == 0


def test_bench_measures_every_answer_on_disk(raftwork: Any) -> None:
    answer = raftwork("bench", "--jobs", "200", "--json")
    assert answer.status == 0
    assert all(row["value"] > 0 for row in answer.json)
