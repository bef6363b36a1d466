"""Settings: which place wins, what is refused, and where each value came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftwork import ConfigError, Raftwork
from raftwork.config import SETTINGS, Config
from raftwork.storage.connect import connect, path_of
from raftwork.storage.memory import MemoryStorage
from raftwork.storage.raft import RaftStorage


def test_the_first_place_wins_and_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.raftwork]\nqueue = "file"\nkeep_result = "1h"\nmax_crashes = 7\n')
    environ = {"RAFTWORK_QUEUE": "environment", "RAFTWORK_KEEP_RESULT": "2h", "HOME": "/"}
    config = Config.load({"queue": "constructor"}, environ, tmp_path)
    found = {row.name: (row.value, row.place) for row in config.rows()}
    assert list(found) == list(SETTINGS)
    assert found["queue"] == ("constructor", "constructor")
    assert found["keep_result"] == (7_200_000, "environment RAFTWORK_KEEP_RESULT")
    assert found["max_crashes"] == (7, str(tmp_path / "pyproject.toml"))
    assert found["storage"] == ("raft:///.raftwork", "default")


def test_raftwork_toml_is_read_before_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.raftwork]\nqueue = "pyproject"\n')
    (tmp_path / "raftwork.toml").write_text('queue = "own"\ntimeout = "none"\n')
    config = Config.load({}, {}, tmp_path)
    assert config["queue"] == "own"
    assert config["timeout"] is None


def test_a_pyproject_of_something_else_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert Config.load({}, {}, tmp_path)["queue"] == "default"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('quue = "mail"', "Did you mean queue"),
        ("queue = 5", "not a str"),
        ("timeout = 5", "has no unit"),
        ('keep_result = "-1s"', "not a duration"),
        ('max_crashes = "many"', "whole number"),
        ("max_crashes = true", "whole number"),
        ("max_attempts = 0", "10,000"),
        ('session_ttl = "1s"', "from 2s to 10m"),
        ('storage = "jobs"', "not a URL"),
        ("segment_bytes = 1", "whole number"),
        ("queue = ", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_and_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "raftwork.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        Config.load({}, {}, tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_table_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\nraftwork = 5\n")
    with pytest.raises(ConfigError, match="not a table"):
        Config.load({}, {}, tmp_path)
    (tmp_path / "raftwork.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load({}, {}, tmp_path)


def test_a_variable_that_is_nearly_a_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean storage"):
        Config.load({}, {"RAFTWORK_STORGE": "memory://"}, tmp_path)
    Config.load({}, {"RAFTWORK_SOMETHING_ELSE": "1", "RAFTWORK_SEED": "7"}, tmp_path)


@pytest.mark.parametrize(
    "given",
    [{"quue": "x"}, {"queue": ""}, {"timeout": 5}, {"max_attempts": 0}, {"storage": "x"}, {"keep_result": None}],
)  # fmt: skip
def test_a_bad_constructor_is_refused_at_once(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Raftwork("shop", **given)


def test_nothing_is_read_or_opened_before_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raftwork.toml").write_text("this is not toml")
    app = Raftwork("shop")
    app.task(name="f")(lambda_free)
    assert [path.name for path in tmp_path.iterdir()] == ["raftwork.toml"]
    with pytest.raises(ConfigError):
        app.open()
    assert [path.name for path in tmp_path.iterdir()] == ["raftwork.toml"]


def lambda_free() -> None: ...


def test_urls_name_storages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative, absolute = connect("raft:///jobs/here"), connect(f"raft:///{tmp_path}/x%20y")
    assert isinstance(relative, RaftStorage)
    assert isinstance(absolute, RaftStorage)
    assert relative.path == tmp_path / "jobs" / "here"
    assert absolute.path == tmp_path / "x y"
    assert path_of("raft:////var/lib/jobs") == "/var/lib/jobs"
    memory = connect("memory://?clock=manual")
    assert isinstance(memory, MemoryStorage)
    assert memory.capabilities.manual_clock
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    ["", "jobs", "raft://jobs", "raft://host:70/x", "raft://", "raft:///", "raft:///x%00", "raft:///x?listen=1",
     "memory://?clock=x", "memory://?x=1", "postgresql://h/db", "sqlite:///x"],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Raftwork("shop", url).open()
