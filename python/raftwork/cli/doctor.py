"""`raftwork doctor`: where the settings come from, whether the disk keeps its word, what the data directory holds."""

from __future__ import annotations

import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from raftwork import _core, durations
from raftwork.app import Raftwork
from raftwork.cli.measure import sync_seconds
from raftwork.cli.output import say, show, table
from raftwork.cli.target import Target, common, directory_of, target_options
from raftwork.config import Source
from raftwork.errors import ConfigError, RaftworkError
from raftwork.keyring import Keyring
from raftwork.outbox import database_of
from raftwork.secret import MASK, Masked

__all__ = ["doctor"]

EXIT_USAGE = 2
EXIT_STORAGE = 3

SPARE_BYTES_LEAST = 1 << 30
OPEN_FILES_LEAST = 1_024
SYNC_MS_MOST = 20.0


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--salvage", is_flag=True, help="Start again with what is readable. Needs a stopped application.")
@click.option("--accept-loss", is_flag=True, help="With --salvage: agree to lose the state if nothing else helps.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before salvaging.")
@target_options
@common
def doctor(directory: Path | None, salvage: bool, accept_loss: bool, yes: bool, target: Target, as_json: bool) -> int:
    """Check the settings, the disk, the keys of payloads, and the data DIRECTORY (by default the application's).

    Reads only, also while the application runs. With --salvage, what is damaged is set aside, and what was written
    after it is lost; the files as they were are kept in quarantine/. Exits 0 when all is well, 3 when the data is
    damaged, 2 when the keys cannot be used.
    """
    app = target.application()
    path = directory if directory is not None else directory_of(app.setting("storage"))
    if accept_loss and not salvage:
        raise click.UsageError("--accept-loss goes with --salvage.")
    if salvage:
        return _salvage(path, accept_loss, yes, as_json)
    data, keys = _data_report(path), _keys_report(app)
    report = {
        "settings": [_setting(row) for row in app.config.rows()],
        "checks": _checks(path),
        "keys": keys,
        "directory": None if path is None else str(path.absolute()),
        "data": data,
    }
    show(report, as_json, lambda: _print(app, report))
    if _damaged(data):
        return EXIT_STORAGE
    return 0 if keys is None or keys["usable"] else EXIT_USAGE


def _setting(row: Source) -> dict[str, Any]:
    value = row.value
    if isinstance(value, Masked):
        value = _outbox(value) if row.name == "outbox" else MASK
    return {"name": row.name, "value": value, "from": row.place}


def _outbox(url: str) -> str:
    """Where it is, without a password."""
    try:
        return database_of(url).shown
    except ConfigError:
        return MASK


def _keys_report(app: Raftwork) -> dict[str, Any] | None:
    """Which keys encrypt payloads, by their ids and never themselves; None when no setting names any."""
    given, file = app.setting("encryption_keys"), app.setting("encryption_key_file")
    if given is None and file is None:
        return None
    report: dict[str, Any] = {
        "from": "encryption_keys" if file is None else "encryption_key_file",
        "file": None if file is None else str(Path(file).absolute()),
        "usable": False,
        "encrypts": None,
        "ids": [],
        "problem": None,
    }
    try:
        keys = Keyring.of(given, file)
    except RaftworkError as error:
        return report | {"problem": str(error)}
    return report | {"usable": True, "encrypts": keys.first, "ids": keys.ids}


def _data_report(path: Path | None) -> dict[str, Any] | None:
    """What the core finds in the directory, or None when there is none."""
    if path is None or not path.exists():
        return None
    report: dict[str, Any] = msgspec.msgpack.decode(_core.doctor(str(path)))
    return report


def _damaged(data: dict[str, Any] | None) -> bool:
    return data is not None and not data["healthy"]


def _checks(path: Path | None) -> list[dict[str, Any]]:
    """What was measured, what it should be, and what to do if it is not."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = [
        _check("open files", files, OPEN_FILES_LEAST, files >= OPEN_FILES_LEAST, "raise `ulimit -n` for this user"),
    ]
    if path is not None:
        place = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())
        spare = shutil.disk_usage(place).free
        found.append(
            _check("spare bytes", spare, SPARE_BYTES_LEAST, spare >= SPARE_BYTES_LEAST, "free space, or move the data")
        )
        ms = round(sorted(sync_seconds(place, 40))[20] * 1_000, 3)
        fix = f"writes that wait for each other reach about {1_000 / ms:.0f} a second here; use a local SSD"
        found.append(_check("fdatasync p50, ms", ms, SYNC_MS_MOST, ms <= SYNC_MS_MOST, fix))
    return found


def _check(name: str, measured: float, limit: float, good: bool, fix: str) -> dict[str, Any]:
    return {"check": name, "measured": measured, "limit": limit, "good": good, "fix": "" if good else fix}


def _print(app: Raftwork, report: dict[str, Any]) -> None:
    rows = [(row["name"], _value_text(app, row["name"], row["value"]), row["from"]) for row in report["settings"]]
    table(["Setting", "Value", "From"], rows, empty="")
    say("")
    checks = [
        (
            row["check"],
            f"{row['measured']:,}",
            f"{row['limit']:,}",
            ("ok", "green") if row["good"] else (row["fix"], "red"),
        )
        for row in report["checks"]
    ]
    table(["Check", "Measured#", "Limit#", "Advice"], checks, empty="")
    say("")
    if report["keys"] is not None:
        _print_keys(report["keys"])
    if report["data"] is None:
        where = report["directory"]
        say(f"There is no data directory {where} yet." if where else "This storage has no data directory here.")
        return
    _print_data(report["data"])


def _print_keys(keys: dict[str, Any]) -> None:
    say(f"Keys of payloads: {keys['from']}" + ("" if keys["file"] is None else f", {keys['file']}"))
    if keys["usable"]:
        say(f"  encrypts: {keys['encrypts']}")
        say(f"  decrypts: {', '.join(keys['ids'])}")
    else:
        say(f"  Problem: {keys['problem']}")
    say("")


def _print_data(data: dict[str, Any]) -> None:
    """The verdict first, then each part, then what can be done."""
    say(f"Data directory {data['directory']}")
    for problem in data["problems"]:
        say(f"  Problem: {problem}")
    for loss in data["losses"]:
        say(f"  Lost: {loss}")
    if data["in_use_by"] is not None:
        say(f"  In use by {data['in_use_by']}: what only its owner can know is left out, see `raftwork status`")
    if data["others"] and not data["way_out"]:
        say(f"  One of several members of a cluster; the others: {', '.join(data['others'])}")
    parts = {key: data[key] for key in ("identity", "start", "snapshots", "archive", "set_aside", "log")}
    _print_map({key: part for key, part in parts.items() if part is not None}, "  ")
    if data["way_out"]:
        why, *steps = data["way_out"]
        say(f"It is not salvaged: {why}.")
        for step in steps:
            say(f"  - {step}")
    if data["salvage"] is not None:
        plan = data["salvage"]
        say(f"To start again with {plan['keeps']}" + (f", without {plan['loses']}" if plan["loses"] else "") + ":")
        say(f"  raftwork doctor {data['directory']} --salvage" + (" --accept-loss" * plan["needs_accept_loss"]))


def _value_text(app: Raftwork, name: str, value: Any) -> str:
    spans = {"timeout", "keep_result", "keep_failed", "submit_timeout", "session_ttl"}
    return durations.text(value) if name in spans and isinstance(value, int) else str(value)


def _print_map(values: dict[str, Any], indent: str) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            say(f"{indent}{name}")
            _print_map(value, indent + "  ")
        elif isinstance(value, list):
            say(f"{indent}{name}: {'none' if not value else ''}")
            for item in value:
                text = ", ".join(f"{key} {part}" for key, part in item.items()) if isinstance(item, dict) else str(item)
                say(f"{indent}  {text}")
        else:
            say(f"{indent}{name}: {value}")


def _salvage(path: Path | None, accept_loss: bool, yes: bool, as_json: bool) -> int:
    if path is None or not path.exists():
        raise click.UsageError("There is no data directory to salvage. Name it: raftwork doctor DIRECTORY --salvage")
    data = _data_report(path) or {}
    if data.get("way_out"):
        _core.salvage(str(path), accept_loss)  # Refuses, and says what to do instead: there is nothing to agree to.
    plan = data.get("salvage")
    loses = f"Lost is then: {plan['loses']}. " if plan and plan["loses"] else ""
    if plan and plan["members_unknown"]:
        loses += (
            "Nothing that can be read says whether there are other members of a cluster: if there are, do not do this, "
            "but set the directory aside and have it replaced (raftwork cluster replace). "
        )
    question = (
        f"Salvage {path.absolute()}? What cannot be read is given up, and with it all that was written later. {loses}"
        "The files as they are now are kept in quarantine/."
    )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Add --yes to do it.")
        click.confirm(question, abort=True, err=True)
    report: dict[str, Any] = msgspec.msgpack.decode(_core.salvage(str(path), accept_loss))
    show(report, as_json, lambda: _print_salvaged(report))
    return 0


def _print_salvaged(report: dict[str, Any]) -> None:
    for move in report["set_aside"]:
        say(f"{move['from']} is now {move['to']}")
    if not report["set_aside"]:
        say("There was nothing to salvage: it starts as it is.")
    _print_data(report["data"])
