"""Which jobs a command means: a filter text, and options for its most used parts."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from raftwork import filters
from raftwork.job import JobState
from raftwork.storage.base import Clause

__all__ = ["filter_options", "text_clauses"]

F = TypeVar("F", bound=Callable[..., Any])


def filter_options(command: F) -> F:
    """Add the options that are parts of a filter, handed over together as `clauses`."""

    @click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]))
    @click.option("--queue", "queues", multiple=True, metavar="NAME")
    @click.option("--task", "tasks", multiple=True, metavar="NAME", help="shop.send_welcome, shop.* or *welcome*.")
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
                ("fn", tasks),
                ("schedule", schedules),
                ("batch", batches),
                ("fingerprint", fingerprints),
            )
            if values
        ]
        terms += [f"tag:{filters.literal(tag)}" for tag in tags]
        terms += [f"args.{_argument(text)}" for text in args]
        terms += [] if since is None else [f"since:{since}"]
        return command(*positional, clauses=text_clauses(terms), **kwargs)

    return wrapped  # type: ignore[return-value]


def _argument(text: str) -> str:
    """NAME=VALUE, with any of the operators, so that all behind it is the value."""
    name, operator, value = re.fullmatch(r"([^=<>:]*)([<>]=?|[=:]|)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{name}{operator}{filters.literal(value) if operator else value}"


def text_clauses(words: Sequence[str]) -> list[Clause]:
    """The conditions of a filter text."""
    return list(filters.parse(" ".join(words)))
