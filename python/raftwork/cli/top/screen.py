"""The picture of a scene, never higher than the terminal: what has no room is counted instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raftwork import durations
from raftwork.cli.output import age
from raftwork.cli.top.scene import Scene, sort_queues
from raftwork.job_info import JobState

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["KEYS", "Looks", "draw"]

KEYS = {"q": "quit", "j/k": "choose a queue", "p": "pause or resume it", "s": "sort"}
ROLE_STYLES = {
    "leader": "bold green",
    "learner": "yellow",
    "candidate": "yellow",
    "no answer": "bold red",
    "failed": "red",
}
STALE_S = 3.0
"""An older picture says how old it is."""


@dataclass
class Looks:
    """How somebody wants to see it."""

    order: str = "ready"
    chosen: str = ""
    """The queue that keys are about."""

    def queues(self, scene: Scene) -> list[dict[str, Any]]:
        """The queues in their order; the first is chosen where none is, or the one that was is gone."""
        rows = sort_queues(scene.queues, self.order)
        if rows and self.chosen not in {row["name"] for row in rows}:
            self.chosen = rows[0]["name"]
        return rows

    def move(self, scene: Scene, by: int) -> None:
        """Choose the queue above or below."""
        names = [row["name"] for row in self.queues(scene)]
        if names:
            place = min(max(names.index(self.chosen) + by, 0), len(names) - 1)
            self.chosen = names[place]


def draw(
    scene: Scene | None, looks: Looks, *, height: int, seen_s: float, error: str, said: str, interactive: bool
) -> RenderableType:
    """Everything, in so many lines.

    Args:
        scene: what was seen last; None before the first answer.
        looks: how to show it.
        height: lines that there are.
        seen_s: how many seconds ago it was seen.
        error: why there is nothing newer.
        said: what became of the last key.
        interactive: whether somebody can press keys.
    """
    from rich.console import Group

    head = [_line(f"raftwork top  {scene.storage if scene else ''}", "bold")]
    if scene is not None:
        head.append(_line(_counts(scene), ""))
        if scene.verdict:
            head.append(_line(scene.verdict, "green" if scene.verdict.startswith("SAFE") else "red"))
        if scene.unknown and scene.workers:
            head.append(_line(_unknown(scene), "yellow"))
    if error or seen_s > STALE_S:
        head.append(_line(f"No answer for {seen_s:.0f} s. {error}".rstrip(), "bold red"))
    foot = [_line(said, "cyan"), _keys(looks)] if interactive else []
    parts: list[RenderableType] = [*head]
    if scene is not None:
        room = height - len(head) - len(foot)
        tables = [
            _members(scene),
            _queues(looks.queues(scene), looks if interactive else None),
            _workers(scene),
            _failures(scene),
        ]
        for lines, (columns, rows, empty) in zip(_share(room, [len(t[1]) or 1 for t in tables]), tables, strict=True):
            if lines >= MIN_LINES:
                parts += ["", *_table(columns, rows, lines - 2, empty)]
    return Group(*parts, *foot)


MIN_LINES = 3
"""An empty line, a head and one row: with less room a table is left out."""


def _share(room: int, wanted: Sequence[int]) -> list[int]:
    """Lines for each table: what it wants (its rows, a head, an empty line), but fairly where there is too little."""
    lines = [0] * len(wanted)
    need = [rows + 2 for rows in wanted]
    for place in range(len(wanted)):  # The first tables matter most: each gets its least before others get more.
        if room >= MIN_LINES:
            lines[place] = MIN_LINES
            room -= MIN_LINES
    while room > 0 and (hungry := [i for i, got in enumerate(lines) if MIN_LINES <= got < need[i]]):
        for place in hungry[:room]:
            lines[place] += 1
        room -= len(hungry[:room])
    return lines


Cell = tuple[str, str]
Drawn = tuple[Sequence[str], list[list[Cell]], str]


def _members(scene: Scene) -> Drawn:
    rows: list[list[Cell]] = []
    for member in scene.members:
        lag = "-" if member["lag"] is None else f"{member['lag']:,}"
        note = "; ".join(member["alarms"]) or ("" if member["ready"] else "not ready")
        role = member["role"]
        rows.append([(member["name"], ""), (role, ROLE_STYLES.get(role, "")), (lag, ""), (note, "red")])
    return ("Member", "Role", "Lag#", ""), rows, "No member."


def _queues(queues: list[dict[str, Any]], looks: Looks | None) -> Drawn:
    rows: list[list[Cell]] = []
    for queue in queues:
        chosen = looks is not None and queue["name"] == looks.chosen
        style = "reverse" if chosen else ""
        paused = f"paused{': ' + queue['reason'] if queue['reason'] else ''}" if queue["paused"] else ""
        oldest = "-" if queue["oldest_s"] is None else durations.text(queue["oldest_s"] * 1_000)
        rows.append(
            [
                (f"{'>' if chosen else ' '} {queue['name']}", style),
                *((f"{queue[name]:,}", "") for name in ("ready", "running", "scheduled", "retrying")),
                (oldest, ""),
                *((_rate(queue[name]), "") for name in ("in_per_s", "done_per_s", "failed_per_s")),
                (paused, "yellow"),
            ]
        )
    columns = (
        "  Queue",
        "Ready#",
        "Running#",
        "Scheduled#",
        "Retrying#",
        "Oldest#",
        "In/s#",
        "Done/s#",
        "Failed/s#",
        "",
    )
    return columns, rows, "  No queue has had a job."


def _workers(scene: Scene) -> Drawn:
    rows: list[list[Cell]] = [
        [
            (f"{worker['host']}:{worker['pid']}", ""),
            (worker["lane"], ""),
            (f"{worker['running']:,}", ""),
            (age(worker["since"]).removesuffix(" ago"), ""),
        ]
        for worker in sorted(scene.workers, key=lambda worker: (-worker["running"], worker["session"]))
    ]
    return ("Worker", "Lane", "Running#", "For"), rows, "No worker is connected."


def _failures(scene: Scene) -> Drawn:
    rows: list[list[Cell]] = [
        [
            (age(failure["finished_at"]), "dim"),
            (failure["function"], ""),
            (failure["id"], "dim"),
            (failure["error"], "red"),
        ]
        for failure in scene.failures
    ]
    return ("Failed", "Task", "Id", "Error"), rows, "Nothing has failed."


def _table(columns: Sequence[str], rows: list[list[Cell]], lines: int, empty: str) -> list[Text]:
    """A head, and rows in so many lines; the last one says how many more there are.

    Columns are as wide as what is shown in them. Of a narrow terminal the right end is cut off, where notes are.
    """
    from rich.cells import cell_len
    from rich.text import Text

    shown = [
        [(_plain(text), style) for text, style in row] for row in rows[: lines if len(rows) <= lines else lines - 1]
    ]
    grid = [[(name.removesuffix("#"), "bold") for name in columns], *shown]
    widths = [max(cell_len(row[place][0]) for row in grid) for place in range(len(columns))]
    made = []
    for row in grid:
        line = Text(no_wrap=True, overflow="ellipsis")
        for name, width, (text, style) in zip(columns, widths, row, strict=True):
            pad = " " * (width - cell_len(text))
            line.append(pad if name.endswith("#") else "").append(text, style)
            line.append("  " if name.endswith("#") else f"{pad}  ")
        line.rstrip()
        made.append(line)
    if not rows:
        made.append(Text(empty, style="dim", no_wrap=True))
    elif len(shown) < len(rows):
        made.append(Text(f"  {len(rows) - len(shown):,} more", style="dim", no_wrap=True))
    return made


def _counts(scene: Scene) -> str:
    always = ("enqueued", "processing", "failed")
    states = [state.value for state in JobState]
    parts = [f"{name} {scene.jobs.get(name, 0):,}" for name in states if name in always or scene.jobs.get(name)]
    old = "" if not scene.staleness_ms else f"   {scene.staleness_ms / 1_000:.1f} s old"
    return "  ".join(parts) + old


def _unknown(scene: Scene) -> str:
    jobs = sum(row["waiting"] for row in scene.unknown)
    names = ", ".join(row["function"] for row in sorted(scene.unknown, key=lambda row: -row["waiting"]))
    return f"{jobs:,} {'job waits' if jobs == 1 else 'jobs wait'} and no connected worker knows them: {names}"


def _keys(looks: Looks) -> Text:
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    for key, about in KEYS.items():
        line.append(f"[{key}]", "bold").append(f" {about}{f' (by {looks.order})' if key == 's' else ''}  ", "dim")
    return line


def _line(text: str, style: str) -> Text:
    from rich.text import Text

    return Text(_plain(text), style=style, no_wrap=True, overflow="ellipsis")


def _plain(text: str) -> str:
    """Names and messages are other people's: nothing of them may steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
