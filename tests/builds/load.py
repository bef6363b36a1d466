"""The load: a client and a worker of each build as processes, and what they wrote down."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from raftwork.testing.cluster import PATIENCE_S
from raftwork.worker.supervisor import PARENT_PIPE

HERE = Path(__file__).parent
MORE = 50
"""Jobs of each client, and runs of each worker, that show that it goes on."""
LOOK_S = 0.05
COMMANDS = {"client": ["client.py"], "worker": ["-m", "raftwork", "worker", "jobs:app", "--json"]}


class Load:
    """Clients and workers that go on until they are stopped.

    Args:
        folder: where they write.
        storage: the cluster.
        pythons: the Python of each build.
    """

    def __init__(self, folder: Path, storage: str, pythons: Mapping[str, str]) -> None:
        self.folder, self.storage, self.pythons = folder, storage, pythons
        self.processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._pipe = os.pipe()

    def stored(self) -> dict[str, str]:
        """The id of the last job of each tag that was acknowledged."""
        return {tag: id for _, tag, _, id in self.lines("stored")}

    def jobs(self, file: str) -> int:
        """How many jobs were acknowledged (`stored`), or not (`doubt`)."""
        return sum(int(jobs) for _, _, jobs, _ in self.lines(file))

    def runs(self) -> Counter[str]:
        """How often the last job of each tag ran."""
        return Counter(tag for _, tag in self.lines("ran"))

    def lines(self, file: str) -> list[list[str]]:
        """The lines of one file, by words."""
        path = self.folder / file
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_more(self) -> None:
        """Wait until each client was acknowledged more from now on, and each worker ran more."""
        wanted = {each: count + MORE for each, count in self._done().items()}
        until = time.monotonic() + PATIENCE_S
        while any(count < wanted[each] for each, count in self._done().items()):
            self._check()
            assert time.monotonic() < until, f"after {PATIENCE_S} s it is {self._done()}, not {wanted}"
            time.sleep(LOOK_S)

    def wait_until_all_ran(self) -> None:
        """Wait until everything that was acknowledged ran."""
        until = time.monotonic() + PATIENCE_S
        while missing := self.stored().keys() - self.runs().keys():
            self._check()
            assert time.monotonic() < until, f"{len(missing)} jobs did not run, such as {min(missing)}"
            time.sleep(LOOK_S)

    def stop(self, role: str) -> None:
        """SIGTERM to the clients, or to the workers, and wait until they have ended in order."""
        ended = [self.processes.pop(each) for each in list(self.processes) if each[0] == role]
        for process in ended:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(PATIENCE_S) for process in ended] == [0] * len(ended), self._said()

    def _done(self) -> dict[tuple[str, str], int]:
        stored, ran = (Counter(line[0] for line in self.lines(file)) for file in ("stored", "ran"))
        counts = {"client": stored, "worker": ran}
        return {(role, build): counts[role][build] for role, build in self.processes}

    def _check(self) -> None:
        ended = [each for each, process in self.processes.items() if process.poll() is not None]
        assert not ended, f"{ended} ended by themselves:\n{self._said()}"

    def _said(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-2_000:]}" for path in self.folder.glob("*.err"))

    def _launch(self, role: str, build: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTWORK_")}
        told = {"BUILDS_FOLDER": str(self.folder), "BUILDS_BUILD": build, "RAFTWORK_STORAGE": self.storage}
        with (self.folder / f"{role}-{build}.err").open("ab") as errors:
            self.processes[role, build] = subprocess.Popen(
                [self.pythons[build], *COMMANDS[role]],
                cwd=HERE,
                env={**environment, **told, PARENT_PIPE: str(self._pipe[0])},
                pass_fds=self._pipe[:1],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def __enter__(self) -> Load:
        for role in COMMANDS:
            for build in self.pythons:
                self._launch(role, build)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for end in self._pipe:
            os.close(end)
