"""What a person sees of the demo: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TextIO

from raftwork import clock

if TYPE_CHECKING:
    from rich.console import RenderableType

    from raftwork.cli.demo.crew import Member

__all__ = ["LiveView", "PlainView", "Snapshot", "View", "view_for"]

EVENTS_SHOWN = 8
PLAIN_SECONDS = 1.0


class Snapshot:
    """The numbers of one moment."""

    def __init__(self, files: int, acknowledged: int, finished: int, running: int, twice: int) -> None:
        self.files = files
        self.acknowledged = acknowledged
        self.finished = finished
        self.running = running
        self.twice = twice


class View(Protocol):
    """Both ways of showing."""

    def start(self) -> None:
        """Begin."""

    def event(self, text: str) -> None:
        """Something happened."""

    def update(self, now: Snapshot, members: list[Member]) -> None:
        """The numbers now. Called several times a second."""

    def stop(self) -> None:
        """End, and leave the screen in order."""


def view_for(stream: TextIO) -> View:
    """The live picture where there is a terminal."""
    return LiveView() if stream.isatty() else PlainView(stream)


class PlainView:
    """One line for each event, and one a second for the numbers."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = clock.monotonic()
        self._next = 0.0

    def start(self) -> None:
        """Nothing to set up."""

    def event(self, text: str) -> None:
        """One line."""
        self._stream.write(f"{clock.monotonic() - self._began:5.1f} s  {text}\n")
        self._stream.flush()

    def update(self, now: Snapshot, members: list[Member]) -> None:
        """One line, at most once a second."""
        at = clock.monotonic()
        if at >= self._next:
            self._next = at + PLAIN_SECONDS
            self.event(
                f"files {now.files:,}  acknowledged {now.acknowledged:,}  finished {now.finished:,}  "
                f"running {now.running}  run twice {now.twice}"
            )

    def stop(self) -> None:
        """Nothing to put in order."""


class LiveView:
    """A picture that redraws itself: a bar, the numbers, the processes, the latest events."""

    def __init__(self) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._began = clock.monotonic()
        self._events: list[str] = []
        self._bar = Progress(
            TextColumn("finished"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
        )
        self._task = self._bar.add_task("finished", total=None)
        self._live = Live(refresh_per_second=10, transient=False)

    def start(self) -> None:
        """Take over the lower part of the screen."""
        self._live.start()

    def event(self, text: str) -> None:
        """Shown under the numbers; only the latest stay."""
        self._events.append(f"{clock.monotonic() - self._began:5.1f} s  {text}")

    def update(self, now: Snapshot, members: list[Member]) -> None:
        """Redraw."""
        self._bar.update(self._task, total=now.files, completed=now.finished)
        self._live.update(self._picture(now, members))

    def stop(self) -> None:
        """Leave the last picture standing."""
        self._live.stop()

    def _picture(self, now: Snapshot, members: list[Member]) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        numbers = Text()
        for name, value in (
            ("acknowledged", now.acknowledged),
            ("finished", now.finished),
            ("running", now.running),
            ("run twice", now.twice),
        ):
            numbers.append(f"{name} ", "dim").append(f"{value:,}   ", "green" if name == "finished" else "")
        processes = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("Process", "Pid", "State"):
            processes.add_column(name)
        for member in members:
            style = "red" if member.state == "killed" else "green"
            processes.add_row(member.role, str(member.pid), Text(member.state, style=style))
        events = Text("\n".join(self._events[-EVENTS_SHOWN:]), style="dim")
        return Group(self._bar, numbers, "", processes, "", events)
