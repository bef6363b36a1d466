"""A cluster whose members run one build or the other, and what an operator does with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from raftwork import _core
from raftwork.testing.cluster import PATIENCE_S, Cluster

OLDER, NEWER = "older", "newer"
MEMBERS = 3


class Fleet(Cluster):
    """Three members of the older build.

    Args:
        directory: where their data directories and logs go.
        pythons: the Python of each build.
    """

    def __init__(self, directory: Path, pythons: Mapping[str, str]) -> None:
        super().__init__(directory, MEMBERS)
        self.pythons = pythons
        self.builds = [OLDER] * MEMBERS
        self.replaced: set[int] = set()

    def command(self, number: int) -> list[str]:
        """The command line of one member, in its build."""
        _, *command = super().command(number)
        if number in self.replaced:
            others = ",".join(listen for other, listen in enumerate(self.listen) if other != number)
            command[command.index("--members") :] = ["--join", others]
        return [self.pythons[self.builds[number]], *command]

    def grow(self) -> int:
        """One more, of the older build."""
        self.builds.append(OLDER)
        return super().grow()

    def run(self, *arguments: str, build: str = NEWER, storage: str = "") -> subprocess.CompletedProcess[str]:
        """A command line of a build. It asks all members, or those of `storage`."""
        with self.begin(*arguments, build=build, storage=storage) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def begin(self, *arguments: str, build: str = NEWER, storage: str = "") -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        return subprocess.Popen(
            [self.pythons[build], "-m", "raftwork", *arguments, "--storage", storage or self.url],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def at(self, number: int) -> str:
        """The storage of who asks this member first."""
        return f"raftwork://{self.clients[number]}"

    def wait_until_safe(self, build: str = NEWER) -> dict[str, Any]:
        """Ask for the status until one more may be taken away and nobody has a problem; answers it."""
        until = time.monotonic() + PATIENCE_S
        while True:
            said = self.run("cluster", "status", "--json", build=build)
            assert said.stdout, said.stderr
            report: dict[str, Any] = json.loads(said.stdout)
            heard = build == OLDER or report["knows_level"] is not None
            if report["verdict"].startswith("SAFE to take 1 more away") and not report["problems"] and heard:
                return report
            assert time.monotonic() < until, report

    def level_of(self, number: int) -> int:
        """The highest feature level that a member knows."""
        members = self.wait_until_safe()["members"]
        return next(int(member["knows_level"]) for member in members if member["address"] == self.clients[number])

    def bring(self, number: int) -> None:
        """Start a member over the directory that it has, and wait until another one may be taken away."""
        self.launch(number)
        self.wait_until_serving(number)
        for build in self.pythons:
            self.wait_until_safe(build)

    def bring_all(self, build: str) -> None:
        """Start all members with one build. The other one may not even be able to ask them."""
        self.builds = [build] * MEMBERS
        for number in range(MEMBERS):
            self.launch(number)
        for number in range(MEMBERS):
            self.wait_until_serving(number)
        self.wait_until_safe(build)

    def change(self, number: int, build: str) -> None:
        """Upgrade a member, or take it back."""
        self.stop(number)
        self.builds[number] = build
        self.bring(number)

    def lead(self, number: int) -> None:
        """Let this member lead: the third one is paused meanwhile, so leadership can be given to no other."""
        until = time.monotonic() + PATIENCE_S
        while (leader := self.leader()) != number:
            (third,) = {*range(MEMBERS)} - {number, leader}
            self.pause(third)
            try:
                said = self.run("cluster", "transfer-leader", storage=self.at(leader))
            finally:
                self.resume(third)
            assert time.monotonic() < until, said.stderr

    def replace(self, number: int, giver: int) -> None:
        """A member loses its directory. A new one of its build takes its place, with the state that `giver` gives."""
        self.lead(giver)
        assert self.run("cluster", "snapshot", storage=self.at(giver)).returncode == 0
        before, given = self.health(number), self.health(giver)
        assert before is not None
        assert given is not None
        self.kill(number)
        shutil.rmtree(self.data(number))
        self.replaced.add(number)
        with self.begin("cluster", "replace", before["node"]) as replacing:
            assert replacing.stdout is not None
            # It says what to start once the cluster awaits a new member.
            told = replacing.stdout.readline() + replacing.stdout.readline()
            assert f"--listen {self.listen[number]}" in told, told + replacing.communicate()[1]
            self.bring(number)
            _, err = replacing.communicate(timeout=PATIENCE_S)
        assert replacing.returncode == 0, err
        after = self.health(number)
        assert after is not None
        assert after["node"] != before["node"]
        assert after["snapshot_index"] >= given["snapshot_index"], "its state came as a snapshot"
        assert self.leader() == giver, "and from whom it was meant to"

    def kept(self, number: int) -> dict[str, Any]:
        """What a stopped member has, read in full: how far its log reaches, and how many jobs its state holds."""
        found: dict[str, Any] = msgspec.msgpack.decode(_core.survey(str(self.data(number))))
        return found

    def digests(self) -> set[int]:
        """The digests of the states of all members, once they are of the same entry."""
        until = time.monotonic() + PATIENCE_S
        while True:
            totals = [self._totals(number) for number in range(MEMBERS)]
            if len({each["applied"] for each in totals}) == 1:
                return {each["digest"] for each in totals}
            assert time.monotonic() < until, totals

    def _totals(self, number: int) -> dict[str, int]:
        """What one member's own state holds, asked beside its directory."""
        beside = f"raft:///{self.data(number)}"
        said = self.run("status", "--json", "--consistency", "local", storage=beside)
        assert said.stdout, said.stderr
        totals: dict[str, int] = json.loads(said.stdout)["totals"]
        return totals
