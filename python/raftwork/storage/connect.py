"""From a URL to a storage. Opens nothing.

| URL                                 | storage                                                                    |
|-------------------------------------|----------------------------------------------------------------------------|
| `raft:///jobs`                      | the directory `jobs` under the working directory                           |
| `raft:////var/lib/jobs`             | an absolute directory                                                      |
| `raft:///jobs?listen=..&members=..` | the same, as a member of a cluster; the query wins over the settings       |
| `raftwork://host:port,host:port`    | a cluster on other machines, by the addresses where members serve clients  |
| `memory://`                         | this process, in memory; `memory://?clock=manual` for tests that move time |
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from raftwork.errors import ConfigError
from raftwork.network import Network, check_addresses
from raftwork.storage.base import Storage
from raftwork.storage.memory import MemoryStorage
from raftwork.storage.raft import RaftStorage
from raftwork.storage.remote import RemoteStorage

__all__ = ["connect", "network_of", "nodes_of", "path_of"]

OF_CLIENTS: Final = ("tls_ca", "tls_certificate", "tls_key", "insecure", "token_file", "cluster_id")
"""Options of `raftwork://`. Whoever is no node has nothing to say of the others."""


def connect(
    url: str,
    *,
    session_ttl_ms: int = 15_000,
    submit_timeout_ms: int = 30_000,
    segment_bytes: int | None = None,
    snapshot_bytes: int | None = None,
    max_jobs: int | None = None,
    max_state_bytes: int | None = None,
    network: Network | None = None,
) -> Storage:
    """The storage that a URL names.

    Args:
        url: see the table of the module.
        session_ttl_ms: silence, in milliseconds, after which this process counts as dead.
        submit_timeout_ms: longest wait of one write.
        segment_bytes, snapshot_bytes: sizes of the log, for the process that owns a node. None: the core's defaults.
        max_jobs, max_state_bytes: what the state may hold before that node accepts no more jobs. None: all that it can.
        network: how this process is on the network, but for what the URL says otherwise. None: not at all.

    Raises:
        ConfigError: the URL is malformed, names a storage that this version does not have, or settings do not go
            together.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        query = _query(url)
        clock = query.pop("clock", "real")
        if query:
            raise ConfigError(f"storage={url!r}: {', '.join(sorted(query))} is not an option of this storage.")
        if clock not in ("real", "manual"):
            raise ConfigError(f"storage={url!r}: clock is real or manual, not {clock!r}.")
        return MemoryStorage(manual_clock=clock == "manual", submit_timeout_ms=submit_timeout_ms)
    if scheme == "raftwork":
        return RemoteStorage(
            nodes_of(url),
            session_ttl_ms=session_ttl_ms,
            submit_timeout_ms=submit_timeout_ms,
            network=network_of(url, network),
        )
    return RaftStorage(
        path_of(url),
        session_ttl_ms=session_ttl_ms,
        submit_timeout_ms=submit_timeout_ms,
        segment_bytes=segment_bytes,
        snapshot_bytes=snapshot_bytes,
        max_jobs=max_jobs,
        max_state_bytes=max_state_bytes,
        network=network_of(url, network),
    )


def network_of(url: str, network: Network | None = None) -> Network:
    """How this process is on the network, with what a `raft://` or `raftwork://` URL says, which wins.

    Raises:
        ConfigError: the URL has an option that it cannot have, or one with a bad value.
    """
    allowed = OF_CLIENTS if urlsplit(url).scheme == "raftwork" else None
    return (network or Network()).with_query(_query(url), url, allowed)


def path_of(url: str) -> str:
    """The directory that a `raft://` URL names, for tools that work on files.

    Raises:
        ConfigError: it is no such URL.
    """
    parts = _parts(url, "raft")
    if parts.netloc:
        raise ConfigError(
            f"storage={url!r} has a host. Three slashes make a directory here: raft:///{parts.netloc}{parts.path}; "
            f"four an absolute one. A cluster on other machines is raftwork://{parts.netloc}."
        )
    path = unquote(parts.path[1:])
    if not path or "\0" in path:
        raise ConfigError(f"storage={url!r} names no directory. Write raft:///jobs or raft:////var/lib/jobs.")
    return path


def nodes_of(url: str) -> tuple[str, ...]:
    """The addresses that a `raftwork://` URL names.

    Raises:
        ConfigError: it is no such URL.
    """
    parts = _parts(url, "raftwork")
    if parts.path not in ("", "/"):
        raise ConfigError(
            f"storage={url!r} has a path behind its addresses. Write raftwork://host:port,host:port; a directory of "
            f"this machine is raft:///{parts.path[1:]}."
        )
    return check_addresses(parts.netloc, "storage=raftwork://")


def _parts(url: str, scheme: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("raft", "raftwork", "memory"):
        raise ConfigError(
            f"storage={url!r}: there is no storage {parts.scheme!r} in this version. "
            "Use raft:///jobs, raft:////var/lib/jobs, raftwork://host:port,host:port or memory://."
        )
    if parts.scheme != scheme:
        raise ConfigError(f"storage={url!r} is no {scheme}:// URL.")
    return parts


def _query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
