"""The files that the demo works on."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click

__all__ = ["FILE_BYTES_MAX", "find"]

FILE_BYTES_MAX = 16 << 20
FILES_WANTED = 1_000


def find(directory: Path | None) -> list[Path]:
    """All files below a directory; by default the sources of Python's standard library.

    A distribution may ship the library without its tests, which leaves fewer than a thousand files; then the sources
    of the installed packages are taken too.
    """
    if directory is not None:
        found = sorted(path for path in directory.rglob("*") if _usable(path))
        if not found:
            raise click.UsageError(f"There is no file below {directory}.")
        return found
    paths = sysconfig.get_paths()
    found = sorted(_sources(Path(paths["stdlib"])))
    if len(found) < FILES_WANTED:
        found += sorted(set(_sources(Path(paths["purelib"]), packages=True)) - set(found))
    return found


def _sources(directory: Path, packages: bool = False) -> Iterator[Path]:
    for path in directory.rglob("*.py"):
        inside = path.relative_to(directory).parts
        if _usable(path) and (packages or "site-packages" not in inside):
            yield path


def _usable(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= FILE_BYTES_MAX
