"""What a person sees of the demo: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from raftwork import clock
from raftwork.cli.demo.chart import Chart
from raftwork.cli.demo.crew import Node
from raftwork.cli.demo.failures import Group
from raftwork.cli.demo.keys import KEYS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = ["LiveView", "PlainView", "Snapshot", "View", "view_for"]

TITLE = "three nodes, two workers, one machine, nothing else to install"
EVENTS_SHOWN = 6
CHART_ROWS = 4
NODE_CELLS_WIDTH = 72
PLAIN_S = 1.0
ROLE_STYLES = {"leader": "bold green", "follower": "cyan", "killed": "bold red"}
MARK_STYLES = {"k": "bold red", "b": "bold green", "e": "bold cyan", "f": "bold yellow", "r": "bold yellow"}


@dataclass
class Snapshot:
    """The numbers of one moment, from the ledger."""

    accepted: int
    done: int
    failed: int
    running: int
    lost: int
    """Acknowledged, without an end in the ledger, and the cluster does not know of it."""
    twice: int


class View(Protocol):
    """Both ways of showing."""

    def start(self) -> None:
        """Begin."""

    def event(self, text: str) -> None:
        """Something happened. From any thread."""

    def code(self, code: str, then: str) -> None:
        """Show a program, and what was done with it."""

    def update(self, now: Snapshot, nodes: list[Node], groups: list[Group], chart: Chart, keys: bool) -> None:
        """The numbers now. Called several times a second.

        Args:
            now: the ledger.
            nodes: how they are.
            groups: the failures, by error.
            chart: jobs a second.
            keys: whether somebody can press some.
        """

    def stop(self) -> None:
        """End, and leave the screen in order."""


def view_for(stream: TextIO) -> View:
    """The live picture where there is a terminal that can move its cursor."""
    live = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    return LiveView() if live else PlainView(stream)


class PlainView:
    """One line for each event, and one a second for the numbers."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = clock.monotonic()
        self._next = 0.0
        self._lock = threading.Lock()
        self._told_keys = False

    def start(self) -> None:
        """Nothing to set up."""

    def event(self, text: str) -> None:
        """One line."""
        with self._lock:
            self._stream.write(f"{clock.monotonic() - self._began:5.1f} s  {text}\n")
            self._stream.flush()

    def code(self, code: str, then: str) -> None:
        """As it is."""
        with self._lock:
            self._stream.write(f"\n{code}\n")
        self.event(then)

    def update(self, now: Snapshot, nodes: list[Node], groups: list[Group], chart: Chart, keys: bool) -> None:
        """One line, at most once a second."""
        if keys and not self._told_keys:
            self._told_keys = True
            self.event("  ".join(f"[{key}] {about}" for key, about in KEYS.items()))
        at = clock.monotonic()
        if at < self._next:
            return
        self._next = at + PLAIN_S
        roles = " ".join(f"{node.name} {node.role}" + (f" lag {node.lag:,}" if node.lag else "") for node in nodes)
        failed = f"failed {now.failed}  " if now.failed else ""
        self.event(
            f"accepted {now.accepted:,}  done {now.done:,}  {failed}running {now.running}  lost {now.lost}  "
            f"run twice {now.twice}  {chart.rate:,.0f} jobs/s  ({roles})"
        )

    def stop(self) -> None:
        """Nothing to put in order."""


class LiveView:
    """A picture that redraws itself: nodes, numbers, a chart, failures, the latest events, the keys.

    Args:
        console: where to draw. None: the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        from importlib.metadata import version

        from rich.console import Console
        from rich.live import Live

        self._version = version("raftwork")
        self.console = console or Console(highlight=False)
        self.picture: RenderableType = ""
        """The latest one."""
        self._began = clock.monotonic()
        self._events: list[str] = []
        self._live = Live(console=self.console, auto_refresh=False, transient=False)

    def start(self) -> None:
        """Take over the lower part of the screen."""
        self._live.start()

    def event(self, text: str) -> None:
        """Shown below the numbers; only the latest stay."""
        self._events.append(f"{clock.monotonic() - self._began:5.1f} s  {text}")

    def code(self, code: str, then: str) -> None:
        """Above the picture, where it stays."""
        from rich.padding import Padding
        from rich.syntax import Syntax

        shown = Syntax(code.rstrip(), "python", theme="ansi_dark", background_color="default")
        self.console.print(Padding(shown, (1, 2)))
        self.event(then)

    def update(self, now: Snapshot, nodes: list[Node], groups: list[Group], chart: Chart, keys: bool) -> None:
        """Redraw."""
        self.picture = self._picture(now, nodes, groups, chart, keys)
        self._live.update(self.picture, refresh=True)

    def stop(self) -> None:
        """Leave the last picture standing."""
        self._live.stop()

    def _picture(
        self, now: Snapshot, nodes: list[Node], groups: list[Group], chart: Chart, keys: bool
    ) -> RenderableType:
        from rich.console import Group as Stack
        from rich.padding import Padding
        from rich.text import Text

        title = Text.assemble((f"raftwork {self._version}", "bold"), "    ", (TITLE, "dim"))
        title.no_wrap, title.overflow = True, "ellipsis"
        width, height = max(20, self.console.width - 4), self.console.height - 2
        head: list[RenderableType] = [title, "", _nodes(nodes, width), "", _numbers(now, chart), ""]
        foot: list[RenderableType] = ["", *_keys(bool(groups), width)] if keys else []
        failures: list[RenderableType] = ["", _failures(groups)] if groups else []
        # A low screen keeps what counts: the picture must never be higher than it.
        if self._height([*head, *failures, *foot], width) > height:
            failures = []
        room = height - self._height([*head, *failures, *foot], width)
        drawn: list[RenderableType] = [*_chart(chart, width)] if room > CHART_ROWS else []
        room -= len(drawn) + 1
        shown = self._events[-min(EVENTS_SHOWN, room) :] if room > 0 else []
        shown += [""] * (min(EVENTS_SHOWN, room) - len(shown))
        events: list[RenderableType] = [Text(each, "dim", no_wrap=True, overflow="ellipsis") for each in shown]
        return Padding(Stack(*head, *drawn, *failures, *([""] if events else []), *events, *foot), (1, 2, 0, 2))

    def _height(self, parts: list[RenderableType], width: int) -> int:
        from rich.console import Group as Stack

        return len(self.console.render_lines(Stack(*parts), self.console.options.update(width=width)))


def _nodes(nodes: list[Node], width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 3))
    for node in nodes:
        style = ROLE_STYLES.get(node.role, "yellow")
        down = node.pid is None
        cells = [
            Text(node.name, style="bold"),
            Text(("✗ " if down else "● ") + node.role, style=style),
            Text("" if down or not node.term else f"term {node.term}"),
            Text("" if down or not node.term else f"lag {node.lag:,}", style="bold yellow" if node.lag else ""),
            Text("" if down else f"pid {node.pid}", style="dim"),
            Text(node.address, style="dim"),
        ]
        grid.add_row(*(cells if width >= NODE_CELLS_WIDTH else cells[:4]))
    return grid


def _numbers(now: Snapshot, chart: Chart) -> Text:
    from rich.text import Text

    line = Text()
    for name, value, style in (
        ("accepted", now.accepted, "bold"),
        ("done", now.done, "bold green"),
        ("running", now.running, "bold"),
        ("lost", now.lost, "bold red" if now.lost else "bold green"),
        ("run twice", now.twice, "bold yellow" if now.twice else "bold"),
    ):
        line.append(f"{name} ", "dim").append(f"{value:,}   ", style)
    return line.append(f"{chart.rate:,.0f}", "bold").append(" jobs/s", "dim")


def _chart(chart: Chart, width: int) -> list[Text]:
    from rich.text import Text

    *rows, marks = chart.lines(width, CHART_ROWS)
    below = Text()
    for letter in marks:
        below.append(letter, MARK_STYLES.get(letter, ""))
    return [*(Text(row, style="green") for row in rows), below]


def _failures(groups: list[Group]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for number, group in enumerate(groups):
        head = Text("failed" if number == 0 else "", style="bold yellow")
        error = Text(group.error, no_wrap=True, overflow="ellipsis")
        grid.add_row(head, Text(f"{group.jobs:,}", style="bold", justify="right"), error, Text(group.task, style="dim"))
    return grid


def _keys(failures: bool, width: int) -> list[Text]:
    """The keys, on as few lines as they fit on, broken between two of them."""
    from rich.text import Text

    lines = [Text()]
    for key, about in KEYS.items():
        if key != "r" or failures:
            word = Text.assemble((f"[{key}]", "bold"), (f" {about}", "dim"))
            if len(lines[-1]) + len(word) > width:
                lines.append(Text())
            lines[-1].append_text(word).append("  ")
    for line in lines:
        line.rstrip()
    return lines
