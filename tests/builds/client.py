"""A process that asks for one job after the other until SIGTERM: `python client.py`, in either build."""

import itertools
import signal
import threading

from jobs import BUILD, WAYS, app, write
from raftwork.errors import RaftworkError
from raftwork.worker import end_with_parent

PAUSE_S = 0.02
"""Between two requests: the offered rate."""


def main() -> None:
    """Ask in every way in turn, and write down what was acknowledged."""
    end_with_parent()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    for number in itertools.count():
        if stop.wait(PAUSE_S):
            break
        tag = f"{BUILD}-{number}"
        ask, jobs = WAYS[number % len(WAYS)]
        try:
            last = ask(tag)
        except RaftworkError as error:
            write("doubt", tag, jobs, type(error).__name__)
        else:
            write("stored", tag, jobs, last.id)
    app.close()


if __name__ == "__main__":
    main()
