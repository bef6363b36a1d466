"""`raftwork demo`: its options, its temporary directory, and how it ends."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from raftwork import clock
from raftwork.cli.demo.keys import SCRIPT, Script, parse_script
from raftwork.cli.demo.report import print_report
from raftwork.cli.demo.show import Demo
from raftwork.cli.demo.view import PlainView, View, view_for
from raftwork.cli.keyboard import keyboard
from raftwork.cli.output import show
from raftwork.cli.target import common

__all__ = ["demo"]

REMOVE_S = 5.0
TICK_S = 0.1


@click.command()
@click.option("--script", metavar="KEYS", help=f"Press these by themselves, such as {SCRIPT}; without a q you go on.")
@click.option("--keep", is_flag=True, help="Keep the data directories, logs and the ledger.")
@common
def demo(script: str | None, keep: bool, as_json: bool) -> int:
    """Three nodes and two workers on this machine: kill the leader, bring it back, and count what was lost.

    Keys: e enqueues 10,000 jobs, k kills the leader with SIGKILL, b brings it back, f breaks some jobs, r mends and
    retries them, c shows the code and writes it to app.py, q quits. Without a terminal, or with --json, keys are
    pressed by themselves. It ends with a ledger that is kept outside of the cluster. Exits 0 when nothing was lost, 1
    otherwise.
    """
    keys = None if script is None else parse_script(script)
    place = Path(tempfile.mkdtemp(prefix="raftwork-demo-"))
    view: View = PlainView(sys.stderr) if as_json else view_for(sys.stdout)
    try:
        with _signals() as stopped, keyboard(not as_json) as poll:
            if keys is None:
                keys = [] if poll else parse_script(SCRIPT)
            report = Demo(place, view, Script(keys), poll, stopped).run()
    finally:
        if not keep:
            _remove(place)
    show(report.fields(), as_json, lambda: print_report(report, place if keep else None))
    return 0 if report.good else 1


def _remove(place: Path) -> None:
    """Remove the directory, also while a process that was just killed still lets go of a file in it."""
    pause = threading.Event()
    until = clock.monotonic() + REMOVE_S
    shutil.rmtree(place, ignore_errors=True)
    while place.exists() and clock.monotonic() < until:
        pause.wait(TICK_S)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _signals() -> Generator[threading.Event]:
    """SIGTERM ends the demo as Ctrl-C does: with all processes and files cleaned up. The event tells that one came.

    The exception alone is not enough: where it is raised within a finaliser, Python drops it.
    """
    came = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
