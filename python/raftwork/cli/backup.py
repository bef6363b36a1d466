"""`raftwork cluster backup | verify | restore | recover`: the state in a file, and a cluster from what is left."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from raftwork import _core
from raftwork.app import Raftwork
from raftwork.cli.orders import order
from raftwork.cli.output import moment, say, show
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.errors import CorruptData, DiskError, DiskFull, RaftworkError

__all__ = ["backup", "recover", "restore", "verify"]

EXIT_STORAGE = 3

BEGIN, PIECE, END = 5, 6, 7
"""The orders of the core."""

RATE_MIB = 64
"""Mebibytes a second that a backup takes of the node's disk and of the network, unless told otherwise."""

WORDS = "accept loss"
"""What a person types to recover."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--history/--no-history", default=True, help="With finished jobs of the archive. Default: with them.")
@click.option(
    "--rate", default=RATE_MIB, type=click.IntRange(1), show_default=True, help="Mebibytes a second, at most."
)
@click.option("--force", is_flag=True, help="Replace FILE if there is one.")
@target_options
@common
def backup(file: Path, history: bool, rate: int, force: bool, target: Target, as_json: bool) -> None:
    """Write the whole state to FILE while the cluster, or the one node, goes on.

    The state is as of one moment after the command began, so everything answered before is in it. FILE has its name
    only when it is whole, read back and on disk; only its owner can read it. Example:

        raftwork cluster backup /backups/shop.rwb --storage raftwork://10.0.0.1:7001,10.0.0.2:7001
    """
    if file.exists() and not force:
        raise click.UsageError(f"{file} is there already. Name another file, or add --force to replace it.")
    began = time.monotonic()
    with connected(target) as app, _unfinished(file) as (part, unfinished):
        number = order(app, BEGIN, history)
        try:
            _fetch(app, number, part, rate)
        finally:
            # It may have ended, or be another member's: then nothing is left to forget.
            with contextlib.suppress(RaftworkError):
                order(app, END, number)
        part.flush()
        os.fsync(part.fileno())
        report: dict[str, Any] = msgspec.msgpack.decode(_core.verify(str(unfinished)))
        unfinished.replace(file)
    _sync_directory(file.absolute().parent)
    report |= {"file": str(file), "seconds": round(time.monotonic() - began, 3)}
    show(report, as_json, lambda: _print_backup(report, f"Wrote {file}"))


def _fetch(app: Raftwork, number: int, part: IO[bytes], rate: int) -> None:
    """Ask for one piece after the other, no faster than told."""
    began, written, pause = time.monotonic(), 0, threading.Event()
    for piece in range(1, sys.maxsize):
        content: bytes = order(app, PIECE, number, piece)
        if not content:
            return
        part.write(content)
        written += len(content)
        ahead = written / (rate << 20) - (time.monotonic() - began)
        if ahead > 0:
            pause.wait(ahead)


@contextlib.contextmanager
def _unfinished(file: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file beside `file` that only its owner can read, gone at the end unless it was moved."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    with _told(file):
        descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as part, _told(file):
            yield part, unfinished
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """What goes wrong with the file, as an error of ours."""
    try:
        yield
    except RaftworkError:
        raise  # One of them is an OSError too, and is not about the file.
    except OSError as error:
        kind = DiskFull if error.errno == 28 else DiskError
        raise kind(f"{file} cannot be written: {error.strerror}. Nothing is left of it; name another place.") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@click.command()
@click.argument("place", metavar="FILE|DIRECTORY", type=click.Path(path_type=Path))
@common
def verify(place: Path, as_json: bool) -> int:
    """Read a backup, or a data directory, in full: what it holds, and whether it is whole.

    Exits 0 if it is, 3 if not. A backup is read as a restore would read it, so it takes as much memory as the state.
    """
    if place.is_dir():
        data: dict[str, Any] = msgspec.msgpack.decode(_core.doctor(str(place)))
        show(data, as_json, lambda: _print_directory(data))
        return 0 if data["healthy"] else EXIT_STORAGE
    if not place.exists():
        raise click.UsageError(f"There is no file or directory {place}.")
    try:
        report: dict[str, Any] = msgspec.msgpack.decode(_core.verify(str(place))) | {"whole": True}
    except CorruptData as error:
        if as_json:
            show({"file": str(place), "whole": False, "problem": error.message}, as_json, lambda: None)
            return EXIT_STORAGE
        raise
    show(report, as_json, lambda: _print_backup(report, f"{place} is whole"))
    return 0


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--data", required=True, metavar="DIR", type=click.Path(path_type=Path), help="A new or empty directory.")
@click.option(
    "--cluster", metavar="ID", help="The id of the new cluster, as its certificates name it. Default: a new one."
)
@common
def restore(file: Path, data: Path, cluster: str | None, as_json: bool) -> None:
    """Begin a new cluster of one member from a backup. The others join it.

    Jobs that were running in the backup wait again and run once more. Fencing tokens go on above all that the old
    cluster can have given. Clients and workers of the old cluster are refused: start them again. Example:

        raftwork cluster restore shop.rwb --data /var/lib/shop
    """
    if not file.exists():
        raise click.UsageError(f"There is no file {file}.")
    report: dict[str, Any] = msgspec.msgpack.decode(_core.restore(str(file), str(data), cluster))
    show(report, as_json, lambda: _print_beginning(report))


@click.command()
@click.option(
    "--data", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Of the member that is left."
)
@click.option(
    "--compare", multiple=True, metavar="DIR", type=click.Path(path_type=Path), help="Of another one, to compare."
)
@click.option(
    "--cluster", metavar="ID", help="The id of the new cluster, as its certificates name it. Default: a new one."
)
@click.option("--accept-loss", is_flag=True, help="Agree to what is lost, without being asked.")
@common
def recover(data: Path, compare: Sequence[Path], cluster: str | None, accept_loss: bool, as_json: bool) -> None:
    """Go on with one stopped member, when the majority is lost for good. The last resort.

    It becomes the only member of a new cluster with all that its own disk has. Writes that were answered and are not
    on its disk are lost, so take the member with the longest log: --compare looks at others beside it. The other
    members are given up: should they come back, they are refused. Example:

        raftwork cluster recover --data /var/lib/shop --compare /mnt/other/shop
    """
    found = [_survey(place) for place in (data, *compare)]
    chosen = found[0]
    for other in found[1:]:
        if other["cluster"] != chosen["cluster"]:
            raise click.UsageError(f"{other['directory']} is of cluster {other['cluster']}, not {chosen['cluster']}.")
    best = max(found, key=lambda one: (one["term"], one["index"]))
    if (best["term"], best["index"]) > (chosen["term"], chosen["index"]):
        raise click.UsageError(
            f"{best['directory']} has more: it reaches entry {best['index']:,} of term {best['term']}, {data} only "
            f"entry {chosen['index']:,} of term {chosen['term']}. Recover that one: raftwork cluster recover --data "
            f"{best['directory']}"
        )
    _agree(found, accept_loss)
    report: dict[str, Any] = msgspec.msgpack.decode(_core.recover(str(data), cluster))
    show(report, as_json, lambda: _print_beginning(report))


def _survey(place: Path) -> dict[str, Any]:
    if not place.is_dir():
        raise click.UsageError(f"There is no directory {place}.")
    found: dict[str, Any] = msgspec.msgpack.decode(_core.survey(str(place)))
    return found


def _agree(found: Sequence[dict[str, Any]], accept_loss: bool) -> None:
    """Say what is lost, loudly; go on only if somebody agrees."""
    chosen = found[0]
    lines = [
        f"{one['directory']}: node {one['node']}, its log reaches entry {one['index']:,} of term {one['term']}; "
        f"{one['jobs']:,} jobs in memory"
        for one in found
    ]
    others = chosen["given_up"] or ["nobody: it was alone"]
    lines += [
        f"Given up for good: {'; '.join(others)}.",
        "Lost: every write that was answered and is not on this member's disk. Jobs that were running run again.",
        "If the members that are given up run or can come back: stop them, and set their directories aside first.",
    ]
    if chosen["suspect_upto"] is not None:
        lines.append(
            f"The end of this member's log was damaged: writes up to entry {chosen['suspect_upto']:,} may be lost."
        )
    for line in lines:
        click.echo(click.style(line, fg="yellow"), err=True)
    if accept_loss:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("Nothing was changed. Add --accept-loss to do it.")
    if click.prompt(f"Type '{WORDS}' to go on", default="", show_default=False, err=True) != WORDS:
        raise click.UsageError("Nothing was changed.")


def _time(ms: int) -> str:
    return moment(datetime.fromtimestamp(ms / 1_000, UTC))


def _print_backup(report: dict[str, Any], first: str) -> None:
    manifest = report["manifest"]
    say(f"{first}: {report['bytes']:,} bytes")
    rows = {
        "cluster": manifest["cluster"],
        "state": f"as of entry {manifest['index']:,} of term {manifest['term']}, {_time(manifest['clock_ms'])}",
        "made": f"{_time(manifest['made_ms'])} by node {manifest['node']}, raftwork {manifest['program']}",
        "jobs": f"{report['jobs']:,} in memory, {report['history']:,} finished in the archive"
        + ("" if manifest["history"] else " (made without them)"),
        "sessions": f"{report['sessions']:,}",
        "digest": report["digest"],
    }
    for name, value in rows.items():
        say(f"  {name:<9} {value}")


def _print_directory(data: dict[str, Any]) -> None:
    say(f"{data['directory']} is {'whole' if data['healthy'] else 'damaged'}")
    if data["identity"] is not None:
        say(f"  cluster   {data['identity']['cluster']}, node {data['identity']['node']}")
    for snapshot in data["snapshots"]:
        say(f"  snapshot  at entry {snapshot['index']:,}, {'whole' if snapshot['whole'] else 'damaged'}")
    if data["log"] is not None:
        say(f"  log       up to entry {data['log']['last_index']:,}")
    for line in [*data["problems"], *data["losses"]]:
        say(f"  {line}")
    if not data["healthy"]:
        say(f"  raftwork doctor {data['directory']} shows more")


def _print_beginning(report: dict[str, Any]) -> None:
    origin = report["origin"]
    say(f"{report['directory']} holds a new cluster, {report['cluster']}, with one member, node {report['node']}.")
    say(f"Its {report['jobs']:,} jobs are those of cluster {origin['cluster']} up to entry {origin['index']:,}.")
    say(f"Start it:       raftwork node --data {report['directory']} --listen HOST:PORT")
    say("Then the others, each with a new directory: raftwork node --data DIR --listen HOST:PORT --join THE-FIRST")
    say("Clients and workers that knew the old cluster are refused until they are started again.")
