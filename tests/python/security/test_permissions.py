"""Other users of the machine: what they can read and reach (row 15)."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raftwork import ForeignDirectory, Raftwork

NOBODY = 65_534


def fill(directory: Path) -> None:
    app = Raftwork("shop", storage=f"raft:///{directory}")

    @app.task(name="shop.secret")
    def secret(text: str) -> str:
        return text

    with app.running(workers=True):
        assert secret.enqueue("a word that nobody else may read").result(timeout=30)
    with app:
        app.storage.fresh()


def exposed(directory: Path) -> list[Path]:
    """Files that another user could open: readable for others, and so is the way to them."""
    found = []
    for path in directory.rglob("*"):
        way = [part for part in (path, *path.parents) if directory in (part, *part.parents)]
        others = [stat.S_IMODE(part.lstat().st_mode) & 0o007 for part in way]
        if not path.is_dir() and all(others):
            found.append(path)
    return found


@pytest.mark.parametrize("mode", [None, 0o755])
def test_nothing_in_a_data_directory_is_open_to_others(tmp_path: Path, mode: int | None) -> None:
    directory = tmp_path / "jobs"
    if mode is not None:
        directory.mkdir()
        directory.chmod(mode)
    before = os.umask(0)
    try:
        fill(directory)
    finally:
        os.umask(before)
    assert exposed(directory) == []
    if mode is None:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "jobs"
    directory.mkdir()
    directory.chmod(mode)
    command = ["chmod", "go-w", str(directory)]
    with pytest.raises(ForeignDirectory, match=f"mode {mode:04o}.*`{' '.join(command)}`"):
        fill(directory)
    assert not list(directory.iterdir()), "nothing was made in it"
    subprocess.run(command, check=True, timeout=60)
    fill(directory)


def test_the_directory_above_may_be_everybodys(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    fill(tmp_path / "jobs")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_let_in(tmp_path: Path) -> None:
    directory = tmp_path / "jobs"
    directory.mkdir(mode=0o700)
    app = Raftwork("shop", storage=f"raft:///{directory}")
    code = (
        "import os, socket, sys\n"
        f"os.setuid({NOBODY})\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1])\n"
        "except PermissionError: sys.exit(13)\n"
    )
    with app:
        for path in (tmp_path, *tmp_path.parents):
            if path.stat().st_mode & 0o001 == 0 and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o001)
        directory.chmod(0o755)
        socket = directory / "socket"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        run = [sys.executable, "-c", code, str(socket)]
        assert subprocess.run(run, timeout=60).returncode == 13
