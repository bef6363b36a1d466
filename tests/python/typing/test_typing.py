"""All checkers find every mistake in `mistakes.py`, nothing else there, and nothing in `correct.py`."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BIN = Path(sys.executable).parent
FILES = ("correct.py", "mistakes.py")

Found = dict[str, dict[int, str]]
"""For each file, what was reported on which line."""


def run(*command: str) -> str:
    environment = os.environ | {"NO_COLOR": "1", "MYPYPATH": str(ROOT / "python")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def by_file(lines: list[tuple[str, str, str]]) -> Found:
    found: Found = {name: {} for name in FILES}
    for name, line, text in lines:
        found[name][int(line)] = text
    return found


@functools.cache
def mypy() -> Found:
    paths = [str(HERE / name) for name in FILES]
    shown = run(str(BIN / "mypy"), "--strict", "--no-error-summary", "--hide-error-context", *paths)
    return by_file(re.findall(r"(correct\.py|mistakes\.py):(\d+): error: (.*)", shown))


@functools.cache
def pyright() -> Found:
    options = {
        "include": FILES,
        "extraPaths": [str(ROOT / "python")],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
    }
    config = HERE / ".pyright.json"  # Beside the files: pyright reads `include` from where its configuration is.
    config.write_text(json.dumps(options))
    try:
        shown = run(str(BIN / "pyright"), "--outputjson", "--pythonpath", sys.executable, "--project", str(config))
    finally:
        config.unlink()
    errors = [item for item in json.loads(shown)["generalDiagnostics"] if item["severity"] == "error"]
    return by_file(
        [(Path(item["file"]).name, str(item["range"]["start"]["line"] + 1), item["message"]) for item in errors]
    )


@functools.cache
def ty() -> Found:
    places = ["--python", sys.executable, "--extra-search-path", str(ROOT / "python")]
    shown = run(str(BIN / "ty"), "check", "--output-format", "concise", *places, *(str(HERE / name) for name in FILES))
    return by_file(re.findall(r"(correct\.py|mistakes\.py):(\d+):\d+: (.*)", shown))


CHECKERS = [mypy, pyright, ty]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_every_mistake_is_found_and_nothing_else(checker: Callable[[], Found]) -> None:
    expected = {
        number: line.partition("# mistake: ")[2]
        for number, line in enumerate((HERE / "mistakes.py").read_text().splitlines(), 1)
        if "# mistake: " in line
    }
    found = checker()["mistakes.py"]
    missed = {number: what for number, what in expected.items() if number not in found}
    invented = {number: text for number, text in found.items() if number not in expected}
    assert not missed, f"not reported: {missed}"
    assert not invented, f"reported without a reason: {invented}"


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_correct_use_is_accepted(checker: Callable[[], Found]) -> None:
    assert checker()["correct.py"] == {}
