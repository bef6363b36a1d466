"""Which jobs a command is about: `--app`, `--storage`, or the default settings; and the options all commands share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args
from urllib.parse import unquote, urlsplit

import click

from raftwork.app import Raftwork
from raftwork.errors import ConfigError, NotRunning
from raftwork.reading import AsOf, Consistency, read_as
from raftwork.storage.raft import RaftStorage
from raftwork.storage.remote import RemoteStorage
from raftwork.worker.target import load

__all__ = ["Target", "age_of", "common", "connected", "directory_of", "load_app", "reading_options", "target_options"]

CLUSTER_WAIT_MS = 10_000
"""How long a command waits for a member of a cluster: longer than an election, shorter than a person's patience."""

F = TypeVar("F", bound=Callable[..., Any])


class Target:
    """What `--app` and `--storage` said."""

    def __init__(self, app: str | None, storage: str | None) -> None:
        self.app = app
        self.storage = storage

    def application(self) -> Raftwork:
        """The application that was named, or one that only has the default settings."""
        if self.app is not None:
            if self.storage is not None:
                raise click.UsageError("--app and --storage are both given, and each names the jobs. Give one.")
            return load_app(self.app)
        return Raftwork("raftwork") if self.storage is None else Raftwork("raftwork", storage=self.storage)


def load_app(target: str) -> Raftwork:
    """Import an application as Python itself would from the working directory."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return load(target)
    except ImportError as error:
        # An import that fails inside the user's module is theirs to see; the name given here is ours to explain.
        if isinstance(error, ModuleNotFoundError) and error.name and target.startswith(error.name):
            raise ConfigError(
                f"There is no module {error.name!r} here, so --app {target} leads nowhere. Run the command in the "
                "directory that holds it, or install the package."
            ) from None
        raise


def target_options(command: F) -> F:
    """Add --app and --storage, handed over as `target`."""

    @click.option("--app", metavar="MODULE:ATTR", help="The application, such as shop.jobs:app.")
    @click.option("--storage", metavar="URL", help="Where jobs live, such as raft:///jobs or raft:////var/lib/jobs.")
    @functools.wraps(command)
    def wrapped(*args: Any, app: str | None, storage: str | None, **kwargs: Any) -> Any:
        return command(*args, target=Target(app, storage), **kwargs)

    return wrapped  # type: ignore[return-value]


def reading_options(command: F) -> F:
    """Add --consistency and --max-staleness, handed over as `reading`."""

    @click.option(
        "--consistency", default="session", show_default=True, type=click.Choice(get_args(Consistency)),
        help="What the answer must have: all that was answered anywhere (linearizable), or what is at hand (local).",
    )  # fmt: skip
    @click.option("--max-staleness", metavar="DURATION", help="Refuse an answer that could be older; local: 2s.")
    @functools.wraps(command)
    def wrapped(*args: Any, consistency: Consistency, max_staleness: str | None, **kwargs: Any) -> Any:
        return command(*args, reading=read_as(consistency, max_staleness), **kwargs)

    return wrapped  # type: ignore[return-value]


def age_of(as_of: AsOf) -> dict[str, Any]:
    """Which state an answer is of, as JSON shows it."""
    ms = None if as_of.staleness is None else as_of.staleness // timedelta(milliseconds=1)
    return {"as_of_index": as_of.index, "staleness_ms": ms}


def common(command: F) -> F:
    """Add --json, handed over as `as_json`, and --debug, which `main` reads."""

    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @click.option("--debug", is_flag=True, help="Show where an error comes from.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


@contextmanager
def connected(target: Target, *, create: bool = False) -> Generator[Raftwork]:
    """The application with its storage open, closed at the end.

    Without `create`, a data directory that does not exist is an error and is not made: a question about jobs must not
    leave an empty store behind in the wrong directory.
    """
    app = target.application()
    url = app.setting("storage")
    directory = directory_of(url)
    if not create and directory is not None and not directory.exists():
        _no_directory(url, directory)
    storage = app.storage_to_open()
    if url.startswith("raftwork:") and isinstance(storage, RemoteStorage):
        storage.open_timeout_ms = min(storage.open_timeout_ms, CLUSTER_WAIT_MS)
    if isinstance(storage, RaftStorage):
        storage.owner_patience_ms = 0  # A person can start the node sooner than it is worth to wait for it.
    app.open()
    try:
        yield app
    finally:
        app.close()


def _no_directory(url: str, directory: Path) -> NoReturn:
    raise NotRunning(
        f"There is no data directory {directory.absolute()} ({url}), so there are no jobs to ask about. "
        "Go where the application runs, name it with --app MODULE:ATTR, or give --storage raft:////its/directory."
    )


def directory_of(url: str) -> Path | None:
    """The data directory of a `raft:` URL: `raft:///jobs` is below the working directory, `raft:////jobs` absolute."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)[1:]) if parts.scheme == "raft" else None
