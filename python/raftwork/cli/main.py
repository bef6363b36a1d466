"""The table of commands, and how errors end the program.

Exit status: 0 done, 1 a job failed, 2 wrong usage, 3 the storage is not available, 4 not found, 5 refused.
A command is imported when it is used, so that `raftwork --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from raftwork import errors

__all__ = ["cli", "exit_status", "main", "run"]

COMMANDS = {
    "worker": ("raftwork.cli.worker:worker", "Run the jobs of an application."),
    "node": ("raftwork.cli.node:node", "Run one node of a cluster, without workers."),
    "cluster": ("raftwork.cli.cluster:cluster", "How the members of a cluster are."),
    "status": ("raftwork.cli.status:status", "How the storage is, and how many jobs are in which state."),
    "metrics": ("raftwork.cli.status:metrics", "What the node counts, as Prometheus reads it."),
    "queues": ("raftwork.cli.status:queues", "Every queue: what waits, runs and went through."),
    "top": ("raftwork.cli.top.command:top", "Members, queues, workers and failures, live."),
    "errors": ("raftwork.cli.errors:errors", "What runs failed with, in groups of the same mistake."),
    "jobs": ("raftwork.cli.jobs:jobs", "List jobs, newest first."),
    "job": ("raftwork.cli.jobs:job", "Everything about one job."),
    "logs": ("raftwork.cli.logs:logs", "What a job has logged, also while it runs."),
    "enqueue": ("raftwork.cli.enqueue:enqueue", "Store one job."),
    "retry": ("raftwork.cli.change:retry", "Run jobs again, with fresh attempts."),
    "cancel": ("raftwork.cli.change:cancel", "Cancel waiting jobs; tell running ones to stop."),
    "delete": ("raftwork.cli.change:delete", "Forget jobs that are not running."),
    "move": ("raftwork.cli.change:move", "Put jobs that wait into another queue."),
    "priority": ("raftwork.cli.change:priority", "Give jobs that wait another priority."),
    "locks": ("raftwork.cli.locks:locks", "Who holds which lock, and how many wait for it."),
    "outbox": ("raftwork.cli.outbox:outbox", "Jobs that wait in a SQL database to be relayed."),
    "queue": ("raftwork.cli.queue:queue", "Pause and resume a queue."),
    "batch": ("raftwork.cli.batch:batch", "Batches of jobs: list, show, seal, cancel."),
    "schedule": ("raftwork.cli.schedule:schedule", "Recurring schedules: list, put, pause, trigger, preview."),
    "doctor": (
        "raftwork.cli.doctor:doctor",
        "Check the settings, the disk and the data directory; salvage on request.",
    ),
    "bench": ("raftwork.cli.bench:bench", "Measure this machine for a few seconds."),
    "demo": ("raftwork.cli.demo.command:demo", "Three nodes here: kill the leader, and count what was lost."),
}

EXIT_JOB_FAILED = 1
EXIT_USAGE = 2
EXIT_STORAGE = 3
EXIT_NOT_FOUND = 4
EXIT_REFUSED = 5

# The first class that fits decides.
EXIT_STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (errors.JobNotFound, EXIT_NOT_FOUND),
    (errors.TaskNotRegistered, EXIT_NOT_FOUND),
    (errors.ScheduleNotFound, EXIT_NOT_FOUND),
    (errors.BatchNotFound, EXIT_NOT_FOUND),
    (errors.JobFailed, EXIT_JOB_FAILED),
    (errors.JobCancelled, EXIT_JOB_FAILED),
    (errors.JobError, EXIT_REFUSED),
    (errors.ConfigError, EXIT_USAGE),
    (errors.TaskError, EXIT_USAGE),
    (errors.StorageError, EXIT_STORAGE),
    (errors.OutboxError, EXIT_STORAGE),
    (errors.PayloadDamaged, EXIT_STORAGE),
    (errors.PayloadError, EXIT_USAGE),
)


class Commands(click.Group):
    """The commands of the table, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            import difflib  # Here and below: what only a mistake needs must not slow every command.

            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            ctx.fail(f"No command {cmd_name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="raftwork", message="%(prog)s %(version)s")
def cli() -> None:
    """Background jobs that survive a dead server.

    A command finds its jobs through --app MODULE:ATTRIBUTE or --storage URL; without either it uses RAFTWORK_STORAGE,
    the configuration file, or ./.raftwork. Every command answers in JSON with --json.
    """


def main() -> NoReturn:
    """The installed program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    debug, as_json = "--debug" in arguments, "--json" in arguments
    try:
        status = cli.main(args=list(arguments), prog_name="raftwork", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except errors.RaftworkError as error:
        report(error, debug=debug, as_json=as_json)
        return exit_status(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, `head` for example, has seen enough. Nothing may be written at exit.
        sys.stdout = None
        return 0


def exit_status(error: BaseException) -> int:
    """The exit status that an error stands for."""
    return next((status for kind, status in EXIT_STATUS if isinstance(error, kind)), EXIT_STORAGE)


def report(error: errors.RaftworkError, *, debug: bool, as_json: bool) -> None:
    """One error on the error stream: its text, and where it came from only with --debug."""
    if debug:
        import traceback

        traceback.print_exception(error)
    elif as_json:
        click.echo(
            json_text({"error": {"code": error.code, "type": type(error).__name__, "message": str(error)}}), err=True
        )
    else:
        notes = [note for note in getattr(error, "__notes__", []) if note]
        click.echo("\n".join([click.style(str(error), fg="red"), *notes]), err=True)


def json_text(value: Any) -> str:
    """A small value as one line of JSON."""
    import json

    return json.dumps(value)
