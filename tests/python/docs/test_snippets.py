"""Every code block of the README and of docs/ runs.

The info string of a block says how:

* `python`: runs in a process of its own, in an empty directory, and must exit 0.
* `python name=FILE`: is also written to FILE first, so that later blocks of the same page can import it. Blocks of one
  page share one directory, in order.
* `python continue`: runs after the text of the block before it, in the same process.
* `python error=RWnnn`: must end with that error.
* `console`: lines that start with `$ ` are commands of the installed `raftwork` or of `python`, and must exit 0 (a
  comment `# exit N` names another status). Other lines show output and are not compared.
* `text`, `toml`, `sh`: shown, not run. `sh` is for commands that change the machine, such as `pip install`.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
KNOWN = {"python", "console", "text", "toml", "sh", "rust", "json", "ini"}
SECONDS_MAX = 90


@dataclass
class Block:
    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str


def blocks(page: Path) -> list[Block]:
    found = []
    pattern = re.compile(r"^(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=fence)\s*$", re.M | re.S)
    source = page.read_text()
    for match in pattern.finditer(source):
        language, *words = match["info"].split() or [""]
        options = dict(word.partition("=")[::2] for word in words)
        line = source.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, options, match["text"]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.language in KNOWN, f"{page.relative_to(ROOT)}:{block.line}: language {block.language!r}"


def test_k4_the_guide_of_locks_shows_a_write_with_the_token() -> None:
    """A block that runs, in which whoever slept too long changes nothing."""
    page = blocks(ROOT / "docs/guides/locks.md")
    shown = [block.text for block in page if block.language == "python" and "norun" not in block.options]
    parts = ["lock.token", "AND token <= ?", "assert not write_total("]
    assert any(all(part in text for part in parts) for text in shown)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    before = ""
    for block in blocks(page):
        if block.language == "python":
            text = f"{before}\n{block.text}" if "continue" in block.options else block.text
            before = text
            name = block.options.get("name", "snippet.py")
            (tmp_path / name).write_text(text)
            if "norun" not in block.options:
                run([sys.executable, name], tmp_path, block)
        elif block.language == "console":
            for command, status in commands(block.text):
                run(command, tmp_path, block, status)


def commands(text: str) -> list[tuple[list[str], int]]:
    """The commands of a console block, with the exit status each must have."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ "):
            command, _, comment = line[2:].partition("  # ")
            status = re.search(r"exit (\d+)", comment)
            found.append((["bash", "-c", command], int(status[1]) if status else 0))
    return found


def run(command: list[str], folder: Path, block: Block, status: int = 0) -> None:
    where = f"{block.page.relative_to(ROOT)}:{block.line}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAFTWORK_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = "."
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    said = f"{where}: {' '.join(command)}\n{done.stdout}{done.stderr}"
    expected = block.options.get("error")
    if expected:
        assert done.returncode != 0, said
        assert expected in done.stderr, said
    else:
        assert done.returncode == status, said
