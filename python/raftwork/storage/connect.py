"""From a URL to a storage. Opens nothing.

| URL                     | storage                                                                    |
|-------------------------|----------------------------------------------------------------------------|
| `raft:///jobs`          | the directory `jobs` under the working directory                           |
| `raft:////var/lib/jobs` | an absolute directory                                                      |
| `memory://`             | this process, in memory; `memory://?clock=manual` for tests that move time |
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from raftwork.errors import ConfigError
from raftwork.storage.base import Storage
from raftwork.storage.memory import MemoryStorage
from raftwork.storage.raft import RaftStorage

__all__ = ["connect", "path_of"]


def connect(
    url: str,
    *,
    session_ttl_ms: int = 15_000,
    submit_timeout_ms: int = 30_000,
    segment_bytes: int | None = None,
    snapshot_bytes: int | None = None,
) -> Storage:
    """The storage that a URL names.

    Raises:
        ConfigError: the URL is malformed, or names a storage that this version does not have.
    """
    scheme = url.partition("://")[0]
    if scheme == "memory":
        query = _query(url)
        clock = query.pop("clock", "real")
        _refuse_rest(query, url)
        if clock not in ("real", "manual"):
            raise ConfigError(f"storage={url!r}: clock is real or manual, not {clock!r}.")
        return MemoryStorage(manual_clock=clock == "manual", submit_timeout_ms=submit_timeout_ms)
    return RaftStorage(
        path_of(url),
        session_ttl_ms=session_ttl_ms,
        submit_timeout_ms=submit_timeout_ms,
        segment_bytes=segment_bytes,
        snapshot_bytes=snapshot_bytes,
    )


def path_of(url: str) -> str:
    """The directory that a `raft://` URL names, for tools that work on files.

    Raises:
        ConfigError: it is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "raft":
        raise ConfigError(
            f"storage={url!r}: there is no storage {parts.scheme!r} in this version. "
            "Use raft:///jobs, raft:////var/lib/jobs or memory://."
        )
    _refuse_rest(_query(url), url)
    if parts.netloc:
        raise ConfigError(
            f"storage={url!r} has a host. Three slashes make a directory here: raft:///{parts.netloc}{parts.path}; "
            "four an absolute one."
        )
    path = unquote(parts.path[1:])
    if not path or "\0" in path:
        raise ConfigError(f"storage={url!r} names no directory. Write raft:///jobs or raft:////var/lib/jobs.")
    return path


def _query(url: str) -> dict[str, Any]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def _refuse_rest(query: dict[str, Any], url: str) -> None:
    if query:
        raise ConfigError(f"storage={url!r}: {', '.join(sorted(query))} is not an option of this storage.")
