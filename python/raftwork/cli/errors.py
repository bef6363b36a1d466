"""`raftwork errors`: what runs failed with, in groups of the same mistake."""

from __future__ import annotations

from dataclasses import asdict

import click

from raftwork.cli.output import age, show, table
from raftwork.cli.target import Target, common, connected, reading_options, target_options
from raftwork.operators import ERROR_GROUPS_MAX, ErrorGroup
from raftwork.reading import Reading

__all__ = ["errors"]


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, ERROR_GROUPS_MAX), default=50, show_default=True, help="Groups at most."
)
@reading_options
@target_options
@common
def errors(limit: int, reading: Reading, target: Target, as_json: bool) -> None:
    """What runs failed with, in groups of the same mistake, the newest first.

    `raftwork retry --fingerprint DIGITS` gives the failed jobs of a group fresh attempts.
    """
    with connected(target) as app:
        found = [ErrorGroup.of(row) for row in app.storage.errors(limit, reading)]
        rows = [
            (
                group.fingerprint or "-",
                group.error,
                group.function,
                group.runs,
                group.failed,
                age(group.first_at),
                age(group.last_at),
                str(group.last_job),
            )
            for group in found
        ]
        columns = ["Fingerprint", "Error", "Task", "Runs#", "Failed#", "First", "Last", "Last Job"]
        show([asdict(group) for group in found], as_json, lambda: table(columns, rows, empty="No run has failed."))
