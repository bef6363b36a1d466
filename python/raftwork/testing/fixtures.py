"""A harness as a pytest fixture, in one line of a `conftest.py`:

    jobs = harness_fixture(app)

Nothing happens before a test uses it. It needs pytest, which raftwork does not install.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raftwork.app import Raftwork
from raftwork.testing.harnesses import JOBS_MAX, Harness, Mode, harness

__all__ = ["harness_fixture"]


def harness_fixture(
    app: Raftwork,
    *,
    mode: Mode = "queue",
    raise_errors: bool = True,
    max_jobs: int = JOBS_MAX,
    autouse: bool = False,
) -> Any:
    """A fixture that gives each test the application in a harness of its own. Its name is the one it is assigned to.

    Args:
        app, mode, raise_errors, max_jobs: as for `harness`.
        autouse: for every test, also for those that do not ask for it.

    Example:
        >>> jobs = harness_fixture(app)
        >>> def test_signup(jobs):
        ...     sign_up("a@b")
        ...     jobs.drain()
    """

    @pytest.fixture(autouse=autouse)
    def fixture() -> Iterator[Harness]:
        with harness(app, mode=mode, raise_errors=raise_errors, max_jobs=max_jobs) as h:
            yield h

    return fixture
