"""A directory with an application, a cluster, and the command line: inside this process, or as a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftwork.cli import main
from raftwork.testing.cluster import Cluster
from support.command_line import start

SHOP = '''
"""The application of these tests."""

from raftwork import Raftwork, Retry

app = Raftwork("shop")


@app.task(queue="mail", tags=["crm"])
def send_welcome(user_id: int, template: str = "default") -> str:
    """Works."""
    return f"sent {template} to {user_id}"


@app.task(queue="mail", retry=Retry(1))
def broken(user_id: int) -> None:
    """Fails."""
    raise ValueError(f"no user {user_id}")
'''


@dataclass
class Answer:
    """What one command line said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of an application that has no job yet."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    # Each test has a module `shop` of its own.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("shop", None)
    yield tmp_path
    sys.modules.pop("shop", None)


@pytest.fixture
def raftwork(shop: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line inside this process."""

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        status = main.run(arguments)
        said = capsys.readouterr()
        return Answer(status, said.out, said.err)

    return run


@pytest.fixture
def process(shop: Path) -> Run:
    """Run a command line as a process of its own."""

    def run(*arguments: str, **environment: str) -> Answer:
        with start(*arguments, cwd=shop, **environment) as running:
            out, err = running.communicate(timeout=60)
        return Answer(running.returncode, out, err)

    return run


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that serve; the test may kill them."""
    with Cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def worker(shop: Path) -> Iterator["subprocess.Popen[str]"]:
    """A worker process of the application, ended at the end."""
    with start("worker", "shop:app", "--json", cwd=shop) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            yield running
        finally:
            running.kill()
