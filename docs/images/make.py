"""Draws demo-light.svg and demo-dark.svg from a run of the demo on this machine: `python docs/images/make.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

FOLDER = Path(__file__).parent
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": SVG_EXPORT_THEME}


def main() -> None:
    """Run the demo once and draw what it printed."""
    command = [str(Path(sys.executable).with_name("raftwork")), "demo"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for name, theme in THEMES.items():
        console = Console(record=True, width=100, file=sys.stderr)
        console.print(Text("$ raftwork demo", style="bold"))
        console.print(Text(said.rstrip()))
        drawing = console.export_svg(title="raftwork demo", theme=theme)
        # Nothing is fetched from anywhere: the reader's own font is good enough.
        drawing = re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL).replace("Fira Code, ", "")
        (FOLDER / f"demo-{name}.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
