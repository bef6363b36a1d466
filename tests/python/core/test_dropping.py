"""What becomes of a client whose last reference goes without `close`."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from raftwork import _core

TRIES = 50


def is_closing(path: Path) -> bool:
    """Nobody is let in any more, and files of the directory are still open."""
    if (path / "socket").exists():
        return False
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith(str(path)):
                return True
        except OSError:  # Closed meanwhile.
            continue
    return False


def sees_it_close(path: Path) -> bool:
    """Whether Python runs while another thread drops the last reference."""
    held = [_core.Client.open(str(path))]
    dropping = threading.Thread(target=held.clear)
    dropping.start()
    seen = False
    while dropping.is_alive():
        seen = seen or is_closing(path)
    dropping.join()
    return seen


def test_python_runs_on_while_a_dropped_client_closes_its_node(tmp_path: Path) -> None:
    assert any(sees_it_close(tmp_path / str(number)) for number in range(TRIES))
