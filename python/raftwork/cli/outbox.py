"""`raftwork outbox`: the table in a SQL database, the process that relays it, and what was set aside."""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable

import click

from raftwork.cli.output import age, moment, say, show, table
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.errors import ConfigError
from raftwork.outbox import Outbox
from raftwork.worker.logs import set_up_logging
from raftwork.worker.signals import StopSignals

__all__ = ["outbox"]

EXIT_NOT_FOUND = 4


@click.group()
def outbox() -> None:
    """Jobs that were enqueued inside a transaction of a SQL database, on their way into the storage.

    URL is the database, such as sqlite:///shop.db or postgresql://user@host/shop. Without it the setting `outbox` is
    used: RAFTWORK_OUTBOX, which also keeps a password out of the list of processes.
    """


def _named(target: Target, url: str | None) -> Outbox:
    """An outbox of which only the database is needed: the storage is never opened."""
    return target.application().outbox(url)


@outbox.command("create-table")
@click.argument("url", required=False)
@click.option("--print", "only_print", is_flag=True, help="Show the statements; do nothing.")
@target_options
@common
def create_table(url: str | None, only_print: bool, target: Target, as_json: bool) -> None:
    """Make the table raftwork_outbox in the database, unless it is there."""
    box = _named(target, url)
    if not only_print:
        box.create_table()
    answer = {"outbox": box.url, "created": not only_print, "ddl": box.ddl()}
    done = f"{box.url} has the table raftwork_outbox."
    show(answer, as_json, lambda: say(box.ddl().rstrip() if only_print else done))


@outbox.command()
@click.argument("url", required=False)
@click.option("--once", is_flag=True, help="Relay what waits now, and end.")
@click.option("--poll", default="250ms", show_default=True, metavar="DURATION", help="Rest when nothing waits.")
@click.option("--batch", default=500, show_default=True, type=click.IntRange(1, 1_000), help="Jobs of one write.")
@click.option("--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]))
@target_options
@common
def relay(url: str | None, once: bool, poll: str, batch: int, log_level: str, target: Target, as_json: bool) -> None:
    """Store the jobs of the outbox, oldest first, until SIGTERM or Ctrl-C. Several of these may run at once."""
    set_up_logging(log_level)
    if target.application().setting("storage").startswith("memory:"):
        raise ConfigError("storage=memory:// is seen by this process only. Name where the jobs live with --storage.")
    with connected(target, create=True) as app:
        box = app.outbox(url)
        if once:
            moved = box.relay(batch=batch)
            show({"outbox": box.url, "relayed": moved}, as_json, lambda: say(f"{moved} jobs left the outbox."))
            return
        box.status()  # An outbox that is not there is told now, not in a log line every half minute.
        asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        stop = functools.partial(asked.put, None)
        with StopSignals(stop, stop), box.relaying(poll=poll, batch=batch):
            show({"event": "relay.started", "outbox": box.url}, as_json, lambda: say(f"Relaying {box.url}."))
            asked.get()


@outbox.command()
@click.argument("url", required=False)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Refused jobs to show.")
@target_options
@common
def status(url: str | None, limit: int, target: Target, as_json: bool) -> None:
    """How many jobs wait, since when, and which were set aside and why."""
    box = _named(target, url)
    waiting, oldest = box.status()
    refused = box.refused(limit)

    def render() -> None:
        say(
            f"{waiting} jobs wait"
            + ("." if oldest is None else f", the oldest since {age(oldest).removesuffix(' ago')}.")
        )
        rows = [(str(job.id), job.queue, job.function, moment(job.created_at), (job.reason, "red")) for job in refused]
        table(["Id", "Queue", "Task", "Enqueued", "Refused"], rows, empty="No job was set aside.")

    answer = {"outbox": box.url, "waiting": waiting, "oldest_at": oldest, "refused": [job._asdict() for job in refused]}
    show(answer, as_json, render)


@outbox.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that were set aside.")
@click.option("--url", help="The database; default: the setting outbox.")
@target_options
@common
def retry(ids: tuple[str, ...], everything: bool, url: str | None, target: Target, as_json: bool) -> int:
    """Relay jobs again that were set aside, once the reason is gone."""
    return _change(target, url, ids, everything, as_json, Outbox.retry, "wait again")


@outbox.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that were set aside.")
@click.option("--url", help="The database; default: the setting outbox.")
@target_options
@common
def discard(ids: tuple[str, ...], everything: bool, url: str | None, target: Target, as_json: bool) -> int:
    """Delete jobs that were set aside, for good."""
    return _change(target, url, ids, everything, as_json, Outbox.discard, "are deleted")


def _change(
    target: Target,
    url: str | None,
    ids: tuple[str, ...],
    everything: bool,
    as_json: bool,
    verb: Callable[[Outbox, tuple[str, ...] | None], int],
    done: str,
) -> int:
    if bool(ids) == everything:
        raise click.UsageError("Which jobs? Give ids, or --all.")
    box = _named(target, url)
    changed = verb(box, None if everything else ids)
    show({"outbox": box.url, "changed": changed}, as_json, lambda: say(f"{changed} jobs {done}."))
    return EXIT_NOT_FOUND if ids and changed < len(ids) else 0
