"""The command line as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def start(*arguments: str, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start a command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "raftwork", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
