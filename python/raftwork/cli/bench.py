"""`raftwork bench`: a few seconds of measurement on this machine and this disk. benches/ has the full method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from raftwork.cli import measure
from raftwork.cli.output import say, show, table
from raftwork.cli.target import common

__all__ = ["bench"]


@click.command()
@click.option(
    "--place", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The disk to use."
)
@click.option("--jobs", default=5_000, show_default=True, type=click.IntRange(100), help="Jobs of each measurement.")
@common
def bench(place: Path, jobs: int, as_json: bool) -> None:
    """Measure enqueuing and running with every answer on disk, in a directory that is removed afterwards."""
    with measure.fresh_directory(place) as directory:
        figures = _figures(directory, jobs)
    show(figures, as_json, lambda: _print(figures))


def _figures(directory: Path, jobs: int) -> list[dict[str, Any]]:
    syncs = measure.sync_seconds(directory, 200)
    app, noop, noop_async = measure.noop_app(directory / "data")
    try:
        alone = measure.call_seconds(noop.enqueue, min(jobs, 2_000))
        return [
            _figure("fdatasync of 4 KiB, p50", measure.percentile(syncs, 0.5) * 1_000, "ms"),
            _figure("enqueue, one caller, p50", measure.percentile(alone, 0.5) * 1_000, "ms"),
            _figure("enqueue, one caller", len(alone) / sum(alone), "jobs/s"),
            _figure("enqueue, 8 threads", measure.thread_rate(noop.enqueue, 8, jobs // 8), "jobs/s"),
            _figure("enqueue_many, 1,000 a call", measure.bulk_rate(app, noop, max(jobs, 10_000)), "jobs/s"),
            _figure("run, one process, 8 threads", measure.run_rate(app, noop, jobs), "jobs/s"),
            _figure("run, one process, asyncio", measure.run_rate(app, noop_async, jobs), "jobs/s"),
        ]
    finally:
        app.close()


def _figure(what: str, value: float, unit: str) -> dict[str, Any]:
    return {"what": what, "value": round(value, 3 if unit == "ms" else 0), "unit": unit}


def _print(figures: list[dict[str, Any]]) -> None:
    rows = [
        (row["what"], f"{row['value']:,.3f}" if row["unit"] == "ms" else f"{row['value']:,.0f}", row["unit"])
        for row in figures
    ]
    table(["What", "Value#", "Unit"], rows, empty="")
    say("\nEvery answer was on disk. One short run; for a spread, run it again, or see benches/README.md.")
