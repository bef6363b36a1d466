"""Schedules in code: the decorators, what they refuse, and the generation that a deployment has."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from raftwork import InvalidName, InvalidOption, InvalidTask, Raftwork
from raftwork.config import Config
from raftwork.cron import define
from raftwork.errors import ConfigError
from raftwork.storage.base import JobSpec
from unit import shop


@pytest.fixture
def app() -> Raftwork:
    return Raftwork("test", "memory://?clock=manual")


def plain(app: Raftwork) -> Any:
    @app.task(name="plain")
    def plain(number: int = 1) -> int:
        return number

    return plain


def test_decorators_answer_the_task_unchanged(app: Raftwork) -> None:
    task = plain(app)
    assert app.cron("@daily", tz="Europe/Berlin")(task) is task
    assert app.every("5m", name="often", args=[7], overlap="skip")(task) is task
    assert sorted(app._planned) == ["often", "plain"]
    often = app._planned["often"]
    assert (often.call.args, often.overlap, often.definition) == ((7,), "skip", define(every="5m"))
    assert app._storage is None


@pytest.mark.parametrize(
    ("decorate", "says"),
    [
        (lambda app: app.cron("@daily")(print), r"print is no task yet. Put @app.cron\(...\) above @app.task"),
        (lambda app: app.every("5m")(lambda: None), r"no task yet. Put @app.every\(...\) above @app.task"),
        (lambda app: app.cron("@daily")(shop.report), "needs arguments.*args="),
    ],
)
def test_what_is_no_task_that_can_be_called(app: Raftwork, decorate: Callable[[Raftwork], Any], says: str) -> None:
    with pytest.raises(InvalidTask, match=says):
        decorate(app)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"cron": "@often"}, InvalidOption, "not one of @yearly"),
        ({"cron": "@daily", "timezone": "UTC"}, InvalidOption, "timezone is not an option of a schedule.*tz"),
        ({"cron": "@daily", "overlap": "never"}, InvalidOption, "allow, skip, queue_one, replace"),
        ({"cron": "@daily", "name": ""}, InvalidName, "name of a schedule"),
        ({"cron": "@daily", "name": "ü" * 101}, InvalidName, "202 bytes; at most 200"),
        ({"cron": "@daily", "kwargs": {"nothing": 1}}, TypeError, "nothing"),
    ],
)
def test_wrong_options(app: Raftwork, options: dict[str, Any], error: type[Exception], says: str) -> None:
    task = plain(app)
    with pytest.raises(error, match=says):
        app.cron(**options)(task)


@pytest.mark.parametrize(("option", "value", "instead"), [("unique", "args", "overlap"), ("delay", "5m", "cron")])
def test_options_that_a_schedule_could_not_keep(app: Raftwork, option: str, value: Any, instead: str) -> None:
    task = plain(app).using(**{option: value})
    with pytest.raises(InvalidOption, match=f"has {option}=.*Use {instead}=.*using\\({option}=None\\)"):
        app.cron("@daily")(task)
    app.cron("@daily")(task.using(**{option: None}))


def test_two_schedules_of_one_name(app: Raftwork) -> None:
    task = plain(app)
    app.cron("@daily")(task)
    with pytest.raises(InvalidOption, match=r"'plain' already. Give this one another name: @app.every\(..., name="):
        app.every("5m")(task)
    # A module that is loaded again defines the same once more.
    again = plain(app)
    app.cron("@weekly")(again)
    assert app._planned["plain"].definition == define("@weekly")


# Generations


def test_the_generation_is_that_of_the_file(app: Raftwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "deployed.py"
    path.write_text("def work() -> None: ...")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    module: dict[str, Any] = {"__name__": "deployed"}
    exec(compile(path.read_text(), str(path), "exec"), module)
    app.cron("@daily")(app.task(module["work"]))
    assert app._generation(app.tasks["deployed.work"]) == 1_700_000_000_000
    path.unlink()
    assert app._generation(app.tasks["deployed.work"]) == 0


def test_a_release_that_is_told_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTWORK_RELEASE", "2026-11-30T12:00:00Z")
    app = Raftwork("test", "memory://")
    app.cron("@daily")(plain(app))
    released = datetime.fromisoformat("2026-11-30T12:00:00+00:00")
    assert app._generation(app.tasks["plain"]) == released.timestamp() * 1_000
    assert Config.load({"release": released})["release"] == released.timestamp() * 1_000


@pytest.mark.parametrize("release", ["yesterday", "2026-11-30T12:00:00", 7])
def test_a_release_that_is_no_instant(release: Any) -> None:
    with pytest.raises(ConfigError, match="release"):
        Config.load({"release": release})


# Schedules that are gone from the code


def release(day: int, *names: str, storage: Any = "memory://?clock=manual") -> Raftwork:
    """An application of that day, with hourly schedules of these names."""
    app = Raftwork("shop", storage, release=f"2026-11-{day:02}T12:00:00Z")
    task = plain(app)
    for name in names:
        app.every("1h", name=name)(task)
    app.schedules.put_defined()
    return app


def orphans(app: Raftwork) -> list[str]:
    return [one.name for one in app.schedules.orphaned()]


def test_a_schedule_that_is_gone_from_the_code_is_reported_and_stays() -> None:
    old = release(1, "kept", "gone")
    old.schedules.put("put", old.tasks["plain"], every="1h")
    assert orphans(old) == []
    new = release(2, "kept", storage=old.storage)
    assert orphans(new) == ["gone"]
    gone = new.schedules.get("gone")
    assert (gone.paused, gone.next_at is not None) == (False, True)
    new.schedules.delete("gone")
    assert orphans(new) == []
    old.close()


def test_what_newer_code_defines_is_not_gone() -> None:
    old = release(1, "kept")
    release(2, "kept", "added", storage=old.storage)
    assert orphans(old) == []
    old.close()


def test_schedules_of_other_programs_are_none_of_ours() -> None:
    ours = release(2, "kept")
    theirs = Raftwork("bank", ours.storage, release="2026-11-01T12:00:00Z")
    theirs.every("1h", name="theirs")(theirs.task(name="bank.book")(plain(theirs).fn))
    theirs.schedules.put_defined()
    assert orphans(ours) == []
    assert Raftwork("none", ours.storage).schedules.orphaned() == []
    ours.close()


@pytest.mark.parametrize(
    ("function", "ours"),
    [
        ("unit.shop.removed", True),
        ("unit.gone.work", True),
        ("unit.test_cron.work", False),
        ("elsewhere.gone.work", False),
        ("removed", False),
        ("unit.shop", False),
    ],
)
def test_a_task_that_is_gone_too_is_known_by_its_module(function: str, ours: bool) -> None:
    storage = shop.app.storage
    storage.put_schedule("gone", JobSpec(function), b"", define("@daily").pack(), None, generation=1)
    assert orphans(shop.app) == ["gone"] * ours
    storage.delete_schedule("gone")
