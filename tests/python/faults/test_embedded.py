"""A cluster of three processes of one application and nothing else: each is a voter, enqueues and runs jobs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.telling import Told
from raftwork.testing.cluster import PATIENCE_S, free_ports

pytestmark = [pytest.mark.crash]


class Voters:
    """The processes, by number."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.listen = [f"127.0.0.1:{port}" for port in free_ports(3)]
        self.running: dict[int, Told] = {}

    def __getitem__(self, number: int) -> Told:
        return self.running[number]

    def launch(self, number: int) -> None:
        storage, members = f"raft:///{self.directory}/node-{number}", ",".join(self.listen)
        self.running[number] = Told(self.directory / f"{number}.log", storage, self.listen[number], members)

    def leader(self) -> int:
        """The one that leads a cluster of all three; asks until there is one."""
        latest = time.monotonic() + PATIENCE_S
        while time.monotonic() < latest:
            for number, voter in self.running.items():
                if voter.tell("leads") == [True, 3]:
                    return number
        raise AssertionError("nobody leads all three")


@pytest.fixture
def voters(tmp_path: Path) -> Iterator[Voters]:
    voters = Voters(tmp_path)
    try:
        for number in range(3):
            voters.launch(number)
        for number in range(3):
            assert voters[number].hear() == "open"
        yield voters
    finally:
        for voter in voters.running.values():
            voter.kill()


def test_three_processes_of_an_application_are_a_cluster_that_outlives_its_leader(
    voters: Voters, tmp_path: Path
) -> None:
    number = voters.leader()
    leader, works, other = (voters[(number + step) % 3] for step in range(3))
    assert works.tell("work", "quick") == "works"
    job = other.tell("enqueue", 0)
    assert other.tell("result", job) == [0, works.pid], "enqueued in one process, run by another"

    # The leader dies with jobs that it acknowledged, and in the middle of one that it runs itself.
    assert leader.tell("work", "slow") == "works"
    stays = other.tell("stay", tmp_path / "began")
    assert leader.hear() == "stays"
    jobs = {number: leader.tell("enqueue", number) for number in range(1, 11)}
    leader.kill()
    jobs |= {number: other.tell("enqueue", number) for number in range(11, 21)}
    for order, job in jobs.items():
        assert other.tell("result", job) == [order, works.pid]

    # It comes back with its directory: what it ran is free at once, as its node knows that it died, and it works again.
    assert other.tell("work", "slow") == "works"
    voters.launch(number)
    back = voters[number]
    assert back.hear() == "open"
    assert back.tell("result", stays) == other.pid
    assert back.tell("result", jobs[20]) == [20, works.pid], "what was done without it"
    assert works.tell("rest") == "rests"
    assert back.tell("work", "quick") == "works"
    job = works.tell("enqueue", 21)
    assert other.tell("result", job) == [21, back.pid]
    voters.leader()
