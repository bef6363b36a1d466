"""Processes of `told`: start them, tell them what to do, and hear what they say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults.processes import TESTS


class Told:
    """One such process. What it says to its error stream goes to the file `log`.

    Args:
        log: a file; what is in it stays.
        arguments: those of `told`.
        within: a command that runs another one, such as `unshare`.
    """

    def __init__(self, log: Path, *arguments: str, within: tuple[str, ...] = ()) -> None:
        self.log = log
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "faults.told", *arguments],
                cwd=TESTS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> Any:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def tell(self, *words: object) -> Any:
        """Tell it something; its answer."""
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return self.hear()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.communicate()
