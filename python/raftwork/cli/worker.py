"""`raftwork worker MODULE:ATTR`: run the jobs of an application."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path

import click

from raftwork import network
from raftwork.cli.output import show
from raftwork.cli.target import common, load_app
from raftwork.worker import SourceWatch, Supervisor, Worker, end_with_parent
from raftwork.worker.logs import set_up_logging

__all__ = ["worker"]

logger = logging.getLogger("raftwork.worker")


@click.command()
@click.argument("app", metavar="MODULE:ATTR")
@click.option(
    "-q", "--queue", "queues", multiple=True, metavar="NAME[:N]",
    help="Serve this queue; with N, at most N of its jobs at once here. Default: the queues of the tasks.",
)  # fmt: skip
@click.option(
    "--weight", "weights", multiple=True, metavar="NAME=N",
    help="Turns of this queue for each of one without a weight, while both have jobs.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Serve queues in the given order, each only when those before are empty.")
@click.option("--threads", default=8, show_default=True, type=click.IntRange(1), help="Plain functions at once.")
@click.option("--concurrency", default=100, show_default=True, type=click.IntRange(1), help="Coroutines at once.")
@click.option("--children", type=click.IntRange(1), help='Child processes for tasks with executor="process".')
@click.option("--jobs-per-child", type=click.IntRange(1), help="Replace a child process after so many jobs.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1), help="Whole workers, kept running.")
@click.option("--reload", is_flag=True, help="Start anew when a Python file below this directory changes.")
@click.option("--drain", default="30s", show_default=True, metavar="DURATION", help="Time for running jobs at a stop.")
@click.option("--health-listen", metavar="HOST:PORT", help="Where this worker answers /livez and /readyz over HTTP.")
@click.option(
    "--outbox", metavar="URL", help="Relay this database's outbox too; `setting`: that of the setting outbox."
)
@click.option("--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]))
@common
def worker(
    app: str,
    queues: tuple[str, ...],
    weights: tuple[str, ...],
    strict: bool,
    threads: int,
    concurrency: int,
    children: int | None,
    jobs_per_child: int | None,
    processes: int,
    reload: bool,
    drain: str,
    health_listen: str | None,
    outbox: str | None,
    log_level: str,
    as_json: bool,
) -> int:
    """Run the jobs of application MODULE:ATTR until SIGTERM or Ctrl-C.

    The first signal finishes what runs, within --drain, and gives the rest back; a second one ends at once. Example:

        raftwork worker shop.jobs:app -q mail:20 -q reports --weight reports=2 --threads 16
    """
    set_up_logging(log_level)
    if health_listen is not None and processes > 1:
        raise click.UsageError("--health-listen is one address, and --processes starts several workers. Take one away.")
    if strict and weights:
        raise click.UsageError("--strict serves queues in their order and --weight by turns. Give one.")
    shares = dict(map(read_weight, weights))
    if reload:
        return run_reloading(Supervisor(command_of_one(sys.argv[1:]), processes))
    if processes > 1:
        return Supervisor(command_of_one(sys.argv[1:]), processes).run()
    end_with_parent()
    application = load_app(app)
    relay = None if outbox is None else application.outbox(None if outbox == "setting" else outbox).relaying()
    server = Worker(
        application,
        list(queues) or None,
        threads=threads,
        concurrency=concurrency,
        processes=children,
        jobs_per_child=jobs_per_child,
        log_level=log_level,
        strict=strict,
        weights=shares,
        drain_timeout=drain,
        target=app,
    )
    served: dict[str, object] = {
        "event": "worker.starting",
        "app": app,
        "pid": os.getpid(),
        "queues": list(queues),
        "tasks": sorted(application.tasks),
    }
    if health_listen is not None:
        served["health"] = application.storage.serve_health(network.check_address(health_listen, "--health-listen"))
    show(served, as_json, lambda: logger.info("Running %d tasks of %s.", len(application.tasks), app))
    try:
        with relay or contextlib.nullcontext():
            return server.run()
    finally:
        application.close()


def read_weight(text: str) -> tuple[str, int]:
    """A queue and its weight."""
    name, _, number = text.rpartition("=")
    if not name or not (number.isascii() and number.isdigit()):
        raise click.BadParameter(f"{text!r} is not NAME=N, such as mail=3.", param_hint="--weight")
    return name, int(number)


def run_reloading(supervisor: Supervisor) -> int:
    """Keep the workers running, and replace them when a source file changes."""

    def changed(files: list[str]) -> None:
        logger.info("%s changed: the worker starts anew.", ", ".join(os.path.relpath(file) for file in files))
        supervisor.restart()

    with SourceWatch(Path.cwd(), changed):
        return supervisor.run()


def command_of_one(arguments: list[str]) -> list[str]:
    """The command line of one of several workers: the same, without --processes and --reload."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--processes":
            skip = True
        elif argument != "--reload" and not argument.startswith("--processes="):
            kept.append(argument)
    return [sys.executable, "-m", "raftwork", *kept]
