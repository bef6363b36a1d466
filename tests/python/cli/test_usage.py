"""The table of commands, and how errors end the program."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raftwork import errors
from raftwork.cli import main


def test_help_names_every_command_and_imports_none(shop: Path) -> None:
    code = (
        "import sys; from raftwork.cli import main; status = main.run(['--help']); "
        "loaded = [name for name in sys.modules if name.startswith(('rich', 'raftwork.cli.'))]; "
        "print(status, sorted(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, (_, about) in main.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert about.split()[0] in done.stdout
    assert done.stdout.splitlines()[-1] == "0 ['raftwork.cli.main']"


@pytest.mark.parametrize("name", sorted(main.COMMANDS))
def test_every_command_explains_itself_and_answers_in_json(raftwork: Any, name: str) -> None:
    answer = raftwork(name, "--help")
    assert answer.status == 0
    if name not in ("queue", "cluster", "schedule", "outbox", "batch"):
        assert "--json" in answer.out
        assert "--debug" in answer.out


def test_unknown_command_is_wrong_usage_and_names_the_nearest(raftwork: Any) -> None:
    answer = raftwork("stauts")
    assert answer.status == 2
    assert "Did you mean 'status'?" in answer.err


@pytest.mark.parametrize("command", [["status"], ["queues"], ["jobs"], ["retry", "--all", "--yes"]])
def test_missing_directory_is_an_error_and_is_not_made(raftwork: Any, shop: Path, command: list[str]) -> None:
    answer = raftwork(*command)
    assert answer.status == 3
    assert answer.err.startswith("RW316 There is no data directory")
    assert "Traceback" not in answer.err
    assert not (shop / ".raftwork").exists()


def test_debug_shows_where_an_error_comes_from(raftwork: Any) -> None:
    assert "Traceback" in raftwork("status", "--debug").err


def test_an_error_in_json_is_json(raftwork: Any) -> None:
    answer = raftwork("status", "--json")
    assert json.loads(answer.err)["error"]["code"] == "RW316"
    assert answer.out == ""


def test_bad_setting_is_wrong_usage(raftwork: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTWORK_STORAGE", "nowhere")
    answer = raftwork("status")
    assert answer.status == 2
    assert answer.err.startswith("RW001 ")
    assert "environment RAFTWORK_STORAGE" in answer.err


@pytest.mark.parametrize("target", ["nothing_here:app", "shop:nothing", "shop"])
def test_wrong_application_is_wrong_usage(raftwork: Any, target: str) -> None:
    answer = raftwork("status", "--app", target)
    assert answer.status == 2
    assert answer.err.startswith("RW001 ")


def test_app_and_storage_together_are_refused(raftwork: Any) -> None:
    assert raftwork("status", "--app", "shop:app", "--storage", "raft:///x").status == 2


def test_every_error_has_an_exit_status() -> None:
    expected = {
        errors.ConfigError: 2,
        errors.InvalidOption: 2,
        errors.TaskNotRegistered: 4,
        errors.Overloaded: 3,
        errors.CorruptData: 3,
        errors.JobNotFound: 4,
        errors.UniqueConflict: 5,
        errors.WrongState: 5,
        errors.JobFailed: 1,
        errors.JobCancelled: 1,
    }
    assert {kind: main.exit_status(kind("x")) for kind in expected} == expected
