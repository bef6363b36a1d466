"""The reference lists everything: error codes, commands, exit statuses."""

import inspect
import re
from pathlib import Path

from raftwork import errors
from raftwork.cli import main

DOCS = Path(__file__).parents[3] / "docs"


def test_every_error_code_is_listed_with_its_class() -> None:
    page = (DOCS / "reference" / "errors.md").read_text()
    listed = dict(re.findall(r"^\| (RW\d{3}) \| `(\w+)`", page, re.M))
    raised = {
        value.code: name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.RaftworkError) and not value.code.endswith("00")
    }
    assert listed == raised


def test_every_command_is_listed() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    section = page.partition("## Commands")[2].partition("##")[0]
    missing = [name for name in main.COMMANDS if not re.search(rf"`(raftwork )?{name}\b", section)]
    assert not missing


def test_every_exit_status_is_listed() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    statuses = {status for _, status in main.EXIT_STATUS}
    missing = [status for status in statuses if f"\n| {status} | " not in page]
    assert not missing
