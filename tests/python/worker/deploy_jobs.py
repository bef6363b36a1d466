"""One task before and after a deployment: DEPLOY_VERSION says which code this process has."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from raftwork import Raftwork, Signature, Task, events
from raftwork.worker import Worker, versions

VERSION = int(os.environ.get("DEPLOY_VERSION", "2"))
if "DEPLOY_WAIT_MS" in os.environ:  # Here and not in main: child processes wait as well.
    versions.VERSION_WAIT_MS = int(os.environ["DEPLOY_WAIT_MS"])


def old_charge(order: int, dollars: float) -> str:
    """Version 1."""
    return f"{order}: {round(100 * dollars)} cents by version 1 in {os.getpid()}"


def charge(order: int, *, cents: int) -> str:
    """Version 2."""
    return f"{order}: {cents} cents by version 2 in {os.getpid()}"


def define(app: Raftwork, version: int) -> tuple[Task[..., str], Task[..., str]]:
    """The task on a thread and in a child process, as the code of this version has them."""
    function: Any = old_charge if version == 1 else charge
    given: dict[str, Any] = {"version": version, "retry": 1}
    thread: Task[..., str] = app.task(name="charge", **given)(function)
    child: Task[..., str] = app.task(name="charge_child", executor="process", **given)(function)
    if version > 1:
        for task in (thread, child):

            def from_dollars(order: int, dollars: float, *, task: Task[..., str] = task) -> Signature[str]:
                return task.s(order, cents=round(100 * dollars))

            task.migrate(from_version=1)(from_dollars)
    return thread, child


app = Raftwork("shop", os.environ.get("SHOP_STORAGE", "memory://"))
define(app, VERSION)


def main() -> int:
    """A worker that tells when a job was too new for it."""

    def heard(event: events.Event) -> None:
        if event.name == "job.snoozed" and "DEPLOY_PORT" in os.environ:
            socket.create_connection(("127.0.0.1", int(os.environ["DEPLOY_PORT"]))).close()

    events.subscribe(heard)
    worker = Worker(app, threads=2, processes=1, target="worker.deploy_jobs:app")
    try:
        return worker.run()
    finally:
        app.close()


if __name__ == "__main__":
    sys.exit(main())
