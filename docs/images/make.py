"""Draws demo-light.svg and demo-dark.svg from a run of the demo on this machine: `python docs/images/make.py`."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import threading
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

from raftwork.cli.demo.keys import SCRIPT, Script, parse_script
from raftwork.cli.demo.report import Report, print_report
from raftwork.cli.demo.show import Demo
from raftwork.cli.demo.view import LiveView

FOLDER = Path(__file__).parent
SPACE = "&#160;"
CELL = 12.2
"""The width of a character, as rich draws them."""
BEGINS_WITH_SPACES = re.compile(rf'x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"([^>]*>)((?:{SPACE})+)')
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": SVG_EXPORT_THEME}


def run() -> tuple[LiveView, Report]:
    """Run the demo once, by its script, with a picture that nobody watches; the last one stays."""
    view = LiveView(Console(width=100, height=40, file=io.StringIO(), force_terminal=True, highlight=False))
    with tempfile.TemporaryDirectory(prefix="raftwork-demo-") as place:
        return view, Demo(Path(place), view, Script(parse_script(SCRIPT)), None, threading.Event()).run()


def ledger(report: Report) -> str:
    """What is printed at the end."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        print_report(report, None)
    return said.getvalue()


def moved(text: re.Match[str]) -> str:
    """A text without the spaces that it begins with, further to the right: some viewers drop them."""
    x, y, length, rest, spaces = text.groups()
    wide = len(spaces) // len(SPACE) * CELL
    return f'x="{float(x) + wide:g}" y="{y}" textLength="{float(length) - wide:g}"{rest}'


def main() -> None:
    """Run, and draw what was to be seen."""
    view, report = run()
    for name, theme in THEMES.items():
        console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(Text("$ raftwork demo", style="bold"))
        console.print(view.picture)
        console.print(Text(ledger(report).rstrip()))
        drawing = console.export_svg(title="raftwork demo", theme=theme)
        # Nothing is fetched from anywhere: the reader's own font is good enough.
        drawing = re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL).replace("Fira Code, ", "")
        drawing = BEGINS_WITH_SPACES.sub(moved, drawing)
        (FOLDER / f"demo-{name}.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
