"""The core's log lines reach `logging`, from this process only, and those that came before the end are not lost."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from raftwork import _core
from raftwork.storage import core_log
from storage.test_raft import in_child


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    core_log.stop(10)
    yield
    core_log.stop(10)


def write(line: str) -> None:
    """As the core does."""
    os.write(_core.log_pipe()[1], f"{line}\n".encode())


@pytest.mark.parametrize(
    ("line", "name", "level", "message"),
    [
        ("ERROR _core::node::driver the node stops: no", "raftwork.core.node", logging.ERROR, "the node stops: no"),
        ("WARN raftwork::raft one", "raftwork.core.raft", logging.WARNING, "one"),
        ("INFO sled::pagecache %s {0} 100%", "raftwork.core.sled", logging.INFO, "%s {0} 100%"),
        ("nonsense", "raftwork.core.", logging.WARNING, ""),
    ],
)
def test_a_line_becomes_a_record(
    caplog: pytest.LogCaptureFixture, line: str, name: str, level: int, message: str
) -> None:
    caplog.set_level(logging.INFO, "raftwork")
    core_log.tell(line)
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [(name, level, message)]


def test_everything_before_the_end_is_handed_on_and_it_can_begin_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "raftwork")
    for round in range(3):
        core_log.start()
        core_log.start()
        for number in range(100):
            write(f"INFO _core::wal {round} {number}")
        core_log.stop(10)
        core_log.stop(10)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"{round} {number}" for round in range(3) for number in range(100)]


@pytest.mark.parametrize("running", [True, False])
def test_a_forked_child_has_a_log_of_its_own(caplog: pytest.LogCaptureFixture, running: bool) -> None:
    caplog.set_level(logging.INFO, "raftwork")
    core_log.start()
    if not running:
        core_log.stop(10)

    def child() -> list[str]:
        caplog.clear()
        core_log.start()
        write("INFO _core::wal of the child")
        core_log.stop(10)
        return [record.getMessage() for record in caplog.records]

    assert in_child(child) == "['of the child']"
    core_log.start()
    write("INFO _core::wal of the parent")
    core_log.stop(10)
    assert [record.getMessage() for record in caplog.records] == ["of the parent"]
