"""What the processes of the demo run: `python -m raftwork.cli.demo.child owner|worker`.

Each says `ready` on its output once it serves, and ends when its input ends, so that none outlives the demo.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from raftwork.cli.demo.jobs import QUEUE, app
from raftwork.worker import Worker

__all__ = ["main"]


def main() -> None:
    """Run one role until told to stop."""
    role = sys.argv[1]
    if role == "owner":
        app.open()
        ready()
        until_input_ends()
        app.close()
    else:
        threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
        app.open()
        ready()
        Worker(app, queues=[QUEUE], threads=2).run()


def ready() -> None:
    """Tell the demo that this process serves, and in which role."""
    sys.stdout.write(f"ready {app.storage.health().get('role')}\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """Do not outlive the demo."""
    until_input_ends()
    os.kill(os.getpid(), signal.SIGKILL)


def until_input_ends() -> None:
    """Wait for the end of the input. Only the demo holds its other end, and it writes nothing.

    Not through `sys.stdin`, whose lock a thread that waits would hold when the interpreter ends.
    """
    os.read(0, 1)


if __name__ == "__main__":
    main()
