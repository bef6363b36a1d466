"""Every file of examples/ runs by itself in an empty directory and prints what it shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXPECTED = {
    "import_rows.py": "rows of the last attempt: 600\nattempts: 2\n",
    "in_asyncio.py": "sum: 328350\n",
    "quickstart.py": "results: [1, 2, 3]\njobs so far: 3\n",
}


def test_each_example_is_expected() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example_runs(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAFTWORK_")}
    command = [sys.executable, str(ROOT / "examples" / name)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == EXPECTED[name]
