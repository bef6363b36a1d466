"""`raftwork schedule`: for people and for programs."""

from pathlib import Path
from typing import Any

import pytest

from raftwork import Raftwork, serde
from raftwork.cron import define
from raftwork.storage.base import JobSpec

PUT = ["schedule", "put", "--app", "shop:app", "nightly", "send_welcome", '{"user_id": 7}', "--cron", "30 3 * * *"]


def test_a_schedule_is_put_listed_and_deleted(raftwork: Any, shop: Path) -> None:
    put = raftwork(*PUT, "--tz", "Europe/Berlin", "--overlap", "skip", "--json").json
    assert (put["name"], put["call"], put["overlap"], put["source"]) == (
        "nightly",
        "send_welcome(user_id=7)",
        "skip",
        "api",
    )
    assert (put["definition"]["cron"], put["definition"]["tz"]) == ("30 3 * * *", "Europe/Berlin")
    assert raftwork("schedule", "list", "--json").json == [put]
    head, line = raftwork("schedule", "list").out.splitlines()
    assert head.split() == ["Schedule", "When", "Call", "Queue", "Next", "Last", "Fired", "Skipped"]
    assert line.startswith("nightly   30 3 * * * Europe/Berlin  send_welcome(user_id=7)  mail   in ")
    assert raftwork("schedule", "delete", "nightly").out == "nightly is deleted.\n"
    assert raftwork("schedule", "list").out == "There is no schedule.\n"


def test_a_window_is_put_and_shown(raftwork: Any, shop: Path) -> None:
    put = raftwork(*PUT, "--misfire", "run_all", "--catchup", "5", "--catchup-window", "6h", "--json").json
    assert (put["definition"]["catchup"], put["definition"]["catchup_window_ms"]) == (5, 6 * 3_600_000)
    refused = raftwork(*PUT, "--misfire", "skip", "--catchup-window", "6h")
    assert (refused.status, "leave catchup_window out" in refused.err) == (2, True)


def test_a_schedule_is_paused_resumed_and_triggered(raftwork: Any, shop: Path) -> None:
    assert raftwork(*PUT).out.startswith("nightly: 30 3 * * * UTC, next 20")
    paused = raftwork("schedule", "pause", "nightly", "--reason", "holidays", "--json").json
    assert (paused["paused"], paused["reason"]) == (True, "holidays")
    assert "paused: holidays" in raftwork("schedule", "list").out
    assert raftwork("schedule", "resume", "nightly").out.startswith("nightly fires again, next 20")
    id = raftwork("schedule", "trigger", "nightly").out.strip()
    assert raftwork("job", id, "--json").json["schedule"] == "nightly"


def test_schedules_that_are_gone_from_the_code_are_noted(raftwork: Any, shop: Path) -> None:
    raftwork(*PUT)
    with Raftwork("shop") as app:
        args, definition = serde.encode_args((), {}), define("@daily").pack()
        app.storage.put_schedule("old", JobSpec("shop.removed"), args, definition, app.storage.now_ms(), generation=1)
    listed = raftwork("schedule", "list", "--app", "shop:app", "--json").json
    assert [(one["name"], one["orphaned"]) for one in listed] == [("nightly", False), ("old", True)]
    note = "No longer defined by shop:app: old. They go on firing."
    assert raftwork("schedule", "list", "--app", "shop:app").out.splitlines()[-1] == note
    assert note not in raftwork("schedule", "list").out


def test_slots_are_previewed_and_past_ones_made_up_for(raftwork: Any, shop: Path) -> None:
    raftwork(*PUT)
    slots = raftwork("schedule", "preview", "nightly", "-n", "2", "--json").json
    assert [slot[11:] for slot in slots] == ["03:30:00Z"] * 2
    other = raftwork("schedule", "preview", "--every", "1h", "-n", "3").out
    assert other.count(":00:00+00:00") == 3
    fill = ["schedule", "backfill", "nightly", "--from", "2026-01-01T00:00Z", "--to", "2026-01-04T00:00Z"]
    jobs = raftwork(*fill, "--json").json["jobs"]
    assert len(jobs) == 3
    assert raftwork(*fill).out == "0 jobs are stored.\n"
    with Raftwork("shop") as app:
        found = [(job.schedule, f"{job.slot:%d %H:%M}") for job in app.jobs()]
        assert sorted(found) == [("nightly", f"0{day} 03:30") for day in (1, 2, 3)]


@pytest.mark.parametrize("verb", ["pause", "resume", "trigger", "delete", "preview"])
def test_a_schedule_that_there_is_not(raftwork: Any, shop: Path, verb: str) -> None:
    raftwork(*PUT)
    answer = raftwork("schedule", verb, "daily")
    assert (answer.status, answer.err) == (
        4,
        "RW701 There is no schedule 'daily'. `raftwork schedule list` shows all.\n",
    )


@pytest.mark.parametrize(("written", "meant"), [("nigthly", "nightly"), ("monthly", "acme.monthly")])
def test_the_schedule_that_may_be_meant_is_named(raftwork: Any, shop: Path, written: str, meant: str) -> None:
    raftwork(*PUT)
    raftwork(*PUT[:4], "acme.monthly", *PUT[5:])
    assert f"{written!r}. Did you mean {meant}?" in raftwork("schedule", "pause", written).err


def test_wrong_usage(raftwork: Any, shop: Path) -> None:
    assert raftwork(*PUT[:-1], "30 25 * * *").status == 2
    assert raftwork(*PUT, "--start", "tomorrow").status == 2
    assert "needs arguments" in raftwork(*PUT[:6], "--cron", "@daily").err
    assert "--app" in raftwork("schedule", "put", "nightly", "send_welcome").err
