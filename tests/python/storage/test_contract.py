"""The conformance suite over every storage of this version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftwork.storage.base import Storage
from raftwork.storage.memory import MemoryStorage
from raftwork.storage.raft import RaftStorage
from raftwork.testing.conformance import StorageContract


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
