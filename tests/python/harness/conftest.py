"""An application whose own storage must not be touched, and a harness around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftwork import Raftwork
from raftwork.testing import Harness, harness


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Raftwork]:
    """An application with a data directory, which does not exist until somebody opens it."""
    app = Raftwork("shop", f"raft:///{tmp_path}/jobs")
    yield app
    app.close()


@pytest.fixture
def h(app: Raftwork) -> Iterator[Harness]:
    """The application in a harness."""
    with harness(app) as h:
        yield h
