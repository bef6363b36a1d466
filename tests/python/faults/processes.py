"""Real processes under load: start them, read what they say, kill them."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def environment(storage: Path, ledger: Path) -> dict[str, str]:
    """The environment of a process of the shop."""
    return {
        **os.environ,
        "RAFTWORK_STORAGE": f"raft:///{storage}",
        "LEDGER": str(ledger),
        "PYTHONPATH": str(TESTS),
    }


class Load:
    """A `load` process (or `work`, if it `works`) and the jobs that it was told are safe, or finished."""

    def __init__(
        self, storage: Path, ledger: Path, first: int, threads: int = 4, pause_ms: int = 0, works: bool = False
    ) -> None:
        self.acknowledged: dict[int, str] = {}
        self.finished: dict[int, str] = {}
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.errors = (ledger.parent / f"load-{first}.err").open("w+")
        command = ["faults.work", str(first)] if works else ["faults.load", str(first), str(threads), str(pause_ms)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment(storage, ledger),
            cwd=TESTS,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                self.lines.put(line.decode().strip())
        self.lines.put(None)

    def _take(self, line: str | None) -> bool:
        """Note one line; false at the end of the output."""
        if line is None:
            self.lines.put(None)
            return False
        jobs = {"ack": self.acknowledged, "done": self.finished}.get(line.split(" ", 1)[0])
        if jobs is not None:
            _, number, identity = line.split()
            jobs[int(number)] = identity
        return True

    def wait_for_acknowledged(self, more: int, timeout: float = 30.0) -> None:
        """Wait until this many more jobs were acknowledged."""
        self._wait_for(self.acknowledged, more, timeout)

    def wait_for_finished(self, more: int, timeout: float = 30.0) -> None:
        """Wait until this many more jobs are finished. Only a load that works finishes any."""
        self._wait_for(self.finished, more, timeout)

    def _wait_for(self, jobs: dict[int, str], more: int, timeout: float) -> None:
        goal = len(jobs) + more
        while len(jobs) < goal:
            try:
                alive = self._take(self.lines.get(timeout=timeout))
            except queue.Empty:
                raise AssertionError(f"nothing was said for {timeout} s\n{self.said()}") from None
            if not alive:
                raise AssertionError(f"the load ended by itself: {self.process.wait()}\n{self.said()}")

    def said(self) -> str:
        """What the process wrote to its standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def stop(self) -> None:
        """SIGSTOP, and wait until every thread of the process has really stopped."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def kill(self) -> None:
        """SIGKILL, then note everything that was said before."""
        self.process.kill()
        self.process.wait()
        self.reader.join()
        while self._take(self.lines.get()):
            pass
        self.errors.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def ask(program: str, storage: Path, ledger: Path, identities: Iterable[str]) -> str:
    """Run one of the programs of this folder with these ids on its standard input; gives what it says."""
    done = subprocess.run(
        [sys.executable, "-m", f"faults.{program}"],
        input="\n".join(identities),
        capture_output=True,
        text=True,
        env=environment(storage, ledger),
        cwd=TESTS,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def lost(storage: Path, ledger: Path, identities: Iterable[str]) -> str:
    """What a fresh process says of these jobs, see `check`: `lost 0` if it knows them all."""
    return ask("check", storage, ledger, identities)


def finish(storage: Path, ledger: Path, identities: Iterable[str]) -> int:
    """Work until these jobs are finished; gives how many leases ended without a report since the storage was made."""
    return int(ask("finish", storage, ledger, identities))


def start_worker(storage: Path, ledger: Path) -> "subprocess.Popen[bytes]":
    """A worker process of the shop; what it complains of lands beside the ledger."""
    with (ledger.parent / "worker.err").open("ab") as complaints:
        return subprocess.Popen(
            [sys.executable, "-m", "raftwork", "worker", "faults.shop:app", "--threads", "4"],
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env=environment(storage, ledger),
            cwd=TESTS,
        )
