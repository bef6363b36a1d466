"""The application of the demo: one task that reads one file. Every process of the demo imports this module."""

from __future__ import annotations

import hashlib
import io
import os
import tokenize
import zlib
from pathlib import Path
from typing import TypedDict

from raftwork.app import Raftwork
from raftwork.cli.demo.ledger import Executions
from raftwork.context import JobContext
from raftwork.retry import Retry

__all__ = ["LEDGER", "QUEUE", "FileReport", "app", "inspect_file", "measure"]

QUEUE = "files"
# Names the file to which executions are written. The storage comes from RAFTWORK_STORAGE, as for any application.
LEDGER = "RAFTWORK_DEMO_LEDGER"

app = Raftwork("demo")


class FileReport(TypedDict):
    """What is found out about one file."""

    sha256: str
    bytes: int
    compressed: int
    lines: int
    tokens: int | None
    """None for a file that is not Python."""


@app.task(queue=QUEUE, retry=Retry(3), max_crashes=20)
def inspect_file(ctx: JobContext, path: str) -> FileReport:
    """Measure one file, and write down outside of raftwork that this was done."""
    executions = Executions(Path(os.environ[LEDGER]))
    executions.note("start", str(ctx.id), ctx.token)
    report = measure(Path(path))
    executions.note("done", str(ctx.id), ctx.token)
    return report


def measure(path: Path) -> FileReport:
    """The facts about one file; the same each time for the same bytes."""
    content = path.read_bytes()
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "compressed": len(zlib.compress(content)),
        "lines": content.count(b"\n"),
        "tokens": count_tokens(content) if path.suffix == ".py" else None,
    }


def count_tokens(content: bytes) -> int | None:
    """The tokens of a Python source; None if it is not one, as some test files of Python itself are not."""
    try:
        return sum(1 for _ in tokenize.tokenize(io.BytesIO(content).readline))
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return None
