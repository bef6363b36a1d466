"""A cluster of three real processes, shared by all tests of this folder: starting one for each would take minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftwork.testing.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that serve."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
