"""`raftwork doctor`: where the settings come from, whether the disk keeps its word in time, and what is in the log."""

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

__all__ = ["doctor"]

EXIT_STORAGE = 3

SPARE_BYTES_LEAST = 1 << 30
OPEN_FILES_LEAST = 1_024
SYNC_MS_MOST = 20.0


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--salvage", is_flag=True, help="Keep what is readable of a damaged log. Needs a stopped application.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before salvaging.")
@target_options
@common
def doctor(directory: Path | None, salvage: bool, yes: bool, target: Target, as_json: bool) -> int:
    """Check the settings, the disk, and the data DIRECTORY (by default that of the application).

    Reads only. With --salvage, the damaged part of a log is set aside, and the jobs that were written after it are
    lost; the files as they were are kept. Exits 0 when all is well, 3 when the data is damaged.
    """
    app = target.application()
    path = directory if directory is not None else directory_of(app.setting("storage"))
    if salvage:
        return _salvage(path, yes, as_json)
    log = _log_report(path)
    report = {
        "settings": [_setting(row) for row in app.config.rows()],
        "checks": _checks(path),
        "directory": None if path is None else str(path.absolute()),
        "log": log,
    }
    show(report, as_json, lambda: _print(app, report))
    return EXIT_STORAGE if _damaged(log) else 0


def _setting(row: Source) -> dict[str, Any]:
    return {"name": row.name, "value": row.value, "from": row.place}


def _log_report(path: Path | None) -> dict[str, Any] | None:
    """What the core finds in the directory, or None when there is none."""
    if path is None or not path.exists():
        return None
    report: dict[str, Any] = msgspec.msgpack.decode(_core.doctor(str(path)))
    return report


def _damaged(log: dict[str, Any] | None) -> bool:
    return bool(log) and not log.get("healthy", True) if log is not None else False


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
    if report["log"] is None:
        say(f"There is no data directory {report['directory'] or ''} yet.")
        return
    say(f"Data directory {report['directory']}")
    _print_map(report["log"], "  ")
    if _damaged(report["log"]):
        say(f"Damaged. To keep what is readable: raftwork doctor {report['directory']} --salvage")


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


def _salvage(path: Path | None, yes: bool, as_json: bool) -> int:
    if path is None or not path.exists():
        raise click.UsageError("There is no data directory to salvage. Name it: raftwork doctor DIRECTORY --salvage")
    question = (
        f"Salvage {path.absolute()}? What cannot be read is given up, and with it all that was written later. "
        "The files as they are now are kept beside."
    )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Add --yes to do it.")
        click.confirm(question, abort=True, err=True)
    report: dict[str, Any] = msgspec.msgpack.decode(_core.salvage(str(path)))
    show(report, as_json, lambda: _print_map(report, ""))
    return 0
