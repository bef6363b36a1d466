"""A process of an application that does what it is told, as a client or as a voter itself.

    python -m faults.told STORAGE [LISTEN MEMBERS]

It says `"open"`, and then answers each line that it is told with one, as JSON:

| told             | does                                   | says                                              |
|------------------|----------------------------------------|---------------------------------------------------|
| `leads`          | asks its node                          | whether that leads, and how many voters there are |
| `enqueue NUMBER` | enqueues `ran`                         | the id                                            |
| `stay PATH`      | enqueues `stay`                        | the id                                            |
| `result ID`      | waits for the job                      | what it returned                                  |
| `work QUEUE`     | begins to serve the queue              | `"works"`                                         |
| `rest`           | ends that; running jobs are waited for | `"rests"`                                         |

A job that stays says `"stays"`, unasked. The process ends with its input.
"""

import json
import os
import sys
import threading
from contextlib import ExitStack
from typing import Any

from raftwork import Raftwork
from raftwork.worker import Worker


def say(what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def ran(number: int) -> list[int]:
    """Give back the number, and say which process ran it."""
    return [number, os.getpid()]


def stay(path: str) -> int:
    """Run until the end of the process that runs it first; give the number of the process that does so again."""
    try:
        open(path, "x").close()
    except FileExistsError:
        return os.getpid()
    say("stays")
    threading.Event().wait()
    raise AssertionError("nobody sets it")


def obey(app: Raftwork, working: ExitStack, verb: str, *rest: str) -> Any:
    """Do one thing; the answer."""
    match verb:
        case "leads":
            health = app.health()
            return [health["raft_role"] == "leader", health["voters"]]
        case "enqueue":
            return str(app.tasks["ran"].enqueue(int(rest[0])).id)
        case "stay":
            return str(app.tasks["stay"].enqueue(rest[0]).id)
        case "result":
            job = app.job(rest[0])
            job.info(consistency="linearizable")  # Another process was told of it: this member may be behind.
            return job.result(timeout=60)
        case "work":
            working.enter_context(Worker(app, rest, threads=2))
            return "works"
        case "rest":
            working.close()
            return "rests"
    raise ValueError(verb)


def main() -> None:
    storage, *addresses = sys.argv[1:]
    # Longer than a test may take: whoever waits for the end of a session by its time to live waits in vain.
    settings: dict[str, Any] = {"session_ttl": "10m"}
    if addresses:
        settings |= {"listen": addresses[0], "members": addresses[1].split(",")}
    app = Raftwork("shop", storage, **settings)
    app.task(name="ran", queue="quick")(ran)
    app.task(name="stay", queue="slow")(stay)
    with app, ExitStack() as working:
        say("open")
        for line in sys.stdin:
            say(obey(app, working, *line.split()))


if __name__ == "__main__":
    main()
