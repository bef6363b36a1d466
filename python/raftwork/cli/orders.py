"""Orders to the cluster: their numbers in the core, and who takes them."""

from __future__ import annotations

from typing import Any, Final

from raftwork.app import Raftwork
from raftwork.errors import ConfigError
from raftwork.storage.raft import RaftStorage
from raftwork.storage.remote import RemoteStorage

__all__ = ["FINALIZE", "INVITE", "LIST_ACTS", "LIST_TOKENS", "PUT_TOKEN", "RENEW", "REVOKE_TOKEN", "order"]

PUT_TOKEN: Final = 20
REVOKE_TOKEN: Final = 21
LIST_TOKENS: Final = 22
LIST_ACTS: Final = 23
INVITE: Final = 24
RENEW: Final = 25
FINALIZE: Final = 26


def order(app: Raftwork, *words: object) -> Any:
    """Give an order to the cluster of an application.

    Raises:
        ConfigError: its storage is no cluster.
    """
    storage = app.storage
    if not isinstance(storage, RaftStorage | RemoteStorage):
        raise ConfigError(f"{storage!r} is no cluster. Name one with --storage raftwork://host:port,host:port.")
    return storage.order(*words)
