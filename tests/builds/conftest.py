"""Which other build there is."""

import subprocess
import sys
from pathlib import Path

import pytest

from builds.fleet import NEWER, OLDER

WHERE = "import raftwork; print(raftwork.__file__)"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--older", metavar="PYTHON", help="A Python that has the older build of raftwork.")


@pytest.fixture
def pythons(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The Python of each build."""
    older = request.config.getoption("--older")
    if older is None:
        pytest.fail("There is no older build. Run `make test-upgrade FROM=<commit>`, which makes it and names it here.")
    found = {OLDER: older, NEWER: sys.executable}
    # Not in a directory that has either of them.
    where = {
        name: subprocess.run([python, "-c", WHERE], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        for name, python in found.items()
    }
    assert where[OLDER] != where[NEWER], f"{older} has no build of its own: it imports {where[NEWER]}"
    return found
