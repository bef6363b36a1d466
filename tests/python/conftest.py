"""Rules for all Python tests: on a build server nothing is skipped, and no test sees the settings of its user."""

import os
from collections.abc import Generator

import pluggy
import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """With CI=true a skipped test has failed: what it proves is not proved."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI=true does not allow: {report.longrepr}"


@pytest.fixture(autouse=True)
def settings_of_the_user_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAFTWORK_* of the shell that runs the tests would change what they test."""
    for name in [name for name in os.environ if name.startswith("RAFTWORK_")]:
        monkeypatch.delenv(name)
