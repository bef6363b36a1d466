"""The command line in a pseudo-terminal: what it shows, and keys pressed when something is to be seen."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

PATIENCE_S = 60
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """One command line in a terminal of its own."""

    def __init__(self, *arguments: str, cwd: Path, term: str = "xterm-256color", **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.slave = slave
        termios.tcsetwinsize(slave, (40, 110))
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raftwork", *arguments],
            cwd=cwd,
            env={**os.environ, "TERM": term, **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # The terminal becomes that of the new session, so that Ctrl-C in it reaches the program as from a keyboard.
            preexec_fn=self._own_terminal,
        )
        self.raw = ""
        self.shown = ""
        self._seen = 0

    def _own_terminal(self) -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def wait_for(self, pattern: str) -> str:
        """Read until this is shown after what was waited for before; answers the match."""
        until = time.monotonic() + PATIENCE_S
        while (found := re.compile(pattern).search(self.shown, self._seen)) is None:
            assert time.monotonic() < until, f"{pattern!r} was not shown:\n{self.shown[-3_000:]}"
            assert self._read(), f"{pattern!r} was not shown when the program ended:\n{self.shown[-3_000:]}"
        self._seen = found.end()
        return found[0]

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def resize(self, lines: int, columns: int) -> None:
        """As when a person pulls at the window."""
        termios.tcsetwinsize(self.slave, (lines, columns))
        self.process.send_signal(signal.SIGWINCH)

    def end(self) -> int:
        """Read the rest; answers the exit status."""
        status: int | None = None
        until = time.monotonic() + PATIENCE_S
        while status is None:
            assert time.monotonic() < until, f"the program does not end:\n{self.shown[-3_000:]}"
            self._read()
            status = self.process.poll()
        while self._read():
            pass
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is as it was"
        os.close(self.slave)
        os.close(self.master)
        return status

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _read(self) -> bool:
        if not select.select([self.master], [], [], 0.2)[0]:
            return self.process.poll() is None
        self.raw += os.read(self.master, 65_536).decode(errors="replace")
        self.shown = ESCAPE.sub("", self.raw)
        return True
