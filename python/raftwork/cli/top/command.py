"""`raftwork top`: its options, its keys, and the loop that redraws."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import click

from raftwork import clock, durations
from raftwork.app import Raftwork
from raftwork.cli.keyboard import keyboard
from raftwork.cli.output import show
from raftwork.cli.target import Target, common, connected, target_options
from raftwork.cli.top.asker import Asker
from raftwork.cli.top.scene import ORDERS, Scene, look
from raftwork.cli.top.screen import Looks, draw
from raftwork.errors import ConfigError

__all__ = ["top"]

TICK_S = 0.1
REDRAW_S = 1.0
"""The age of what is shown grows also while nothing is answered."""
ARROWS = {"a": "k", "b": "j"}
"""The last byte of an arrow key, to the key that does the same."""


@click.command()
@click.option("--once", is_flag=True, help="Show it once, with the rates of one interval, and end.")
@click.option("--interval", default="1s", show_default=True, metavar="DURATION", help="Time between two questions.")
@click.option("--sort", default="ready", show_default=True, type=click.Choice(ORDERS), help="Order of the queues.")
@target_options
@common
def top(once: bool, interval: str, sort: str, target: Target, as_json: bool) -> None:
    """Members, queues with their rates, workers and the newest failures, redrawn while you look.

    Keys: j and k (or the arrows) choose a queue, p pauses or resumes it, s sorts by another column, q quits. It goes on
    while no member leads, and says how old its figures are. For scripts: --once, or --json, which answers once too.
    """
    interval_s = durations.duration_ms(interval, "--interval", least_ms=100) / 1_000
    if str(target.application().setting("storage")).startswith("memory:"):
        raise ConfigError(
            "storage=memory:// is inside the process that uses it, where nobody else can look. Name a directory or a "
            "cluster with --storage."
        )
    live = not (once or as_json)
    if live and not (sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") != "dumb"):
        raise click.UsageError("A live view needs a terminal that can move its cursor. Add --once or --json.")
    with connected(target) as app:
        if live:
            _live(app, interval_s, Looks(sort))
        else:
            scene = _twice(app, interval_s)
            show(scene.fields(), as_json, lambda: _print(scene, Looks(sort)))


def _twice(app: Raftwork, interval_s: float) -> Scene:
    before = look(app, None)
    threading.Event().wait(interval_s)
    return look(app, before)


def _print(scene: Scene, looks: Looks) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    width = None if sys.stdout.isatty() else 200
    console.print(
        draw(scene, looks, height=10_000, seen_s=0, error="", said="", interactive=False), width=width, crop=False
    )


def _live(app: Raftwork, interval_s: float, looks: Looks) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    asker = Asker(app, interval_s)
    asker.start()
    shown: object = None
    try:
        with keyboard(True) as poll, Live(console=console, screen=True, auto_refresh=False) as picture:
            assert poll is not None
            while True:
                seen_s = clock.monotonic() - asker.seen_at
                # Redrawn for a new answer, another size of the terminal, a key, and as time goes by.
                now = (
                    asker.scene,
                    asker.error,
                    asker.said,
                    console.size,
                    looks.order,
                    looks.chosen,
                    seen_s // REDRAW_S,
                )
                if now != shown:
                    shown = now
                    picture.update(
                        draw(
                            asker.scene, looks, height=console.size.height, seen_s=seen_s, error=asker.error,
                            said=asker.said, interactive=True,
                        ),
                        refresh=True,
                    )  # fmt: skip
                key = _key(poll)
                if key == "q":
                    return
                if key is not None and asker.scene is not None:
                    _press(key, app, asker, asker.scene, looks)
    finally:
        asker.stop()


def _key(poll: Callable[[float], str | None]) -> str | None:
    """The next key, an arrow as the letter that does the same."""
    key = poll(TICK_S)
    if key == "\x1b" and poll(TICK_S) == "[":
        return ARROWS.get(poll(TICK_S) or "")
    return key


def _press(key: str, app: Raftwork, asker: Asker, scene: Scene, looks: Looks) -> None:
    if key in ("j", "k"):
        looks.move(scene, 1 if key == "j" else -1)
    elif key == "s":
        looks.order = ORDERS[(ORDERS.index(looks.order) + 1) % len(ORDERS)]
    elif key == "p":
        queue = next((row for row in looks.queues(scene) if row["name"] == looks.chosen), None)
        if queue is None:
            asker.said = "There is no queue to pause."
        elif queue["paused"]:
            asker.order(f"Queue {queue['name']} hands out jobs.", lambda: app.queues.resume(queue["name"]))
        else:
            asker.order(
                f"Queue {queue['name']} is paused. [p] resumes it.",
                lambda: app.queues.pause(queue["name"], reason="by raftwork top"),
            )
