"""The conformance suite over every storage of this version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftwork.storage.base import Storage, result_succeeded
from raftwork.storage.client import ClientStorage
from raftwork.storage.memory import MemoryStorage
from raftwork.storage.raft import RaftStorage
from raftwork.storage.remote import RemoteStorage
from raftwork.testing.cluster import Cluster
from raftwork.testing.conformance import StorageContract
from raftwork.testing.conformance.making import PATIENCE, Worker, empty, put


class TestMemory(StorageContract):
    """Real time."""

    @pytest.fixture
    def storage(self) -> Iterator[Storage]:
        storage = MemoryStorage()
        yield storage
        storage.close()


class TestManualClock(StorageContract):
    """Time that stands still until it is moved."""

    @pytest.fixture
    def storage(self) -> Iterator[Storage]:
        storage = MemoryStorage(manual_clock=True)
        yield storage
        storage.close()


class TestRaft(StorageContract):
    """On disk, as the owner of the directory."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[Storage]:
        storage = RaftStorage(tmp_path / "jobs")
        yield storage
        storage.close()


class TestMember(StorageContract):
    """Three nodes, through one that does not lead: as a process beside it, over the socket of its directory."""

    @pytest.fixture
    def storage(self, cluster: Cluster) -> Iterator[Storage]:
        yield from emptied(RaftStorage(cluster.data(cluster.follower())))


class TestRemote(StorageContract):
    """Three nodes, over the network."""

    @pytest.fixture
    def storage(self, cluster: Cluster) -> Iterator[Storage]:
        yield from emptied(RemoteStorage(cluster.clients))


def emptied(storage: ClientStorage) -> Iterator[Storage]:
    """Without what earlier tests left; totals stay."""
    storage.fresh(PATIENCE)
    empty(storage)
    yield storage
    storage.close()


def test_the_happy_path_of_a_job_is_three_commands() -> None:
    storage = MemoryStorage(manual_clock=True)
    worker = Worker(storage)
    before = storage.totals()["applied"]
    put(storage)
    job = worker.one()
    worker.report(result_succeeded(job.id, job.token, None))
    assert storage.totals()["applied"] - before == 3
    storage.close()
