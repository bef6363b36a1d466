"""Which jobs a command means: a filter text, and options for its most used parts."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from raftwork import filters
from raftwork.job_info import JobState
from raftwork.storage.base import Clause, Storage

__all__ = ["Selection", "filter_options", "text_clauses"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Selection:
    """What the options say. What `--task` means only the storage knows."""

    clauses: list[Clause]
    tasks: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.clauses or self.tasks)

    def within(self, storage: Storage) -> list[Clause]:
        """The conditions. A task's name without a dot and a star may be the last part of a name that has had jobs.

        Raises:
            click.BadParameter: it is that of several.
        """
        if not self.tasks:
            return self.clauses
        names = [row.function for row in storage.functions()] if any(map(_is_short, self.tasks)) else []
        found = [_whole(task, names) if _is_short(task) else task for task in self.tasks]
        return [*self.clauses, *text_clauses([f"fn:{','.join(map(filters.literal, found))}"])]


def _is_short(task: str) -> bool:
    return not set(task) & {".", "*"}


def _whole(short: str, names: Sequence[str]) -> str:
    """The name that is meant, or the short one where there is none such."""
    ending = [name for name in names if name.endswith(f".{short}")]
    if short in names or not ending:
        return short
    if len(ending) > 1:
        raise click.BadParameter(f"{short!r} may mean {', '.join(ending)}. Give the full name.", param_hint="--task")
    return ending[0]


def filter_options(command: F) -> F:
    """Add the options that are parts of a filter, handed over together as `selection`."""

    @click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]))
    @click.option("--queue", "queues", multiple=True, metavar="NAME")
    @click.option("--task", "tasks", multiple=True, metavar="NAME", help="send_welcome, shop.send_welcome or shop.*.")
    @click.option("--tag", "tags", multiple=True, metavar="TAG", help="Each must be there.")
    @click.option("--arg", "args", multiple=True, metavar="NAME=VALUE", help="An argument, such as user_id=7.")
    @click.option("--schedule", "schedules", multiple=True, metavar="NAME", help="Come from this schedule.")
    @click.option("--batch", "batches", multiple=True, metavar="ID", help="Belong to this batch.")
    @click.option("--fingerprint", "fingerprints", multiple=True, metavar="DIGITS", help="Of the last error.")
    @click.option("--since", metavar="DURATION", help="Created within this time, such as 2h.")
    @functools.wraps(command)
    def wrapped(
        *positional: Any,
        states: tuple[str, ...],
        queues: tuple[str, ...],
        tasks: tuple[str, ...],
        tags: tuple[str, ...],
        args: tuple[str, ...],
        schedules: tuple[str, ...],
        batches: tuple[str, ...],
        fingerprints: tuple[str, ...],
        since: str | None,
        **kwargs: Any,
    ) -> Any:
        terms = [
            f"{field}:{','.join(map(filters.literal, values))}"
            for field, values in (
                ("state", states),
                ("queue", queues),
                ("schedule", schedules),
                ("batch", batches),
                ("fingerprint", fingerprints),
            )
            if values
        ]
        terms += [f"tag:{filters.literal(tag)}" for tag in tags]
        terms += [f"args.{_argument(text)}" for text in args]
        terms += [] if since is None else [f"since:{since}"]
        return command(*positional, selection=Selection(text_clauses(terms), tasks), **kwargs)

    return wrapped  # type: ignore[return-value]


def _argument(text: str) -> str:
    """NAME=VALUE, with any of the operators, so that all behind it is the value."""
    name, operator, value = re.fullmatch(r"([^=<>:]*)([<>]=?|[=:]|)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{name}{operator}{filters.literal(value) if operator else value}"


def text_clauses(words: Sequence[str]) -> list[Clause]:
    """The conditions of a filter text."""
    return list(filters.parse(" ".join(words)))
