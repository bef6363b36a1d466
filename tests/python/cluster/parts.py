"""What the load processes share: how they connect, and what their jobs are."""

import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from raftwork import _core
from raftwork.retry import Retry
from raftwork.storage.base import JobSpec
from raftwork.storage.records import pack_meta

FUNCTION = "lab.job"
QUEUE = "judged"
TTL_MS = 2_000
"""How long a session lives without a sign of life: so long the jobs of a worker wait when it is gone."""
SUBMIT_S = 15.0
CRASHES_MAX = 10_000
ATTEMPTS_MAX = 10_000

SPEC = JobSpec(
    function=FUNCTION, queue=QUEUE, max_attempts=ATTEMPTS_MAX, max_crashes=CRASHES_MAX, meta=pack_meta(Retry())
)


@dataclass(frozen=True)
class Place:
    """Where a load process is: told on its command line."""

    slot: int
    """Its place on the board."""
    process: int
    """Its number in the history. A process that is started again has another one."""
    nodes: list[str]
    folder: Path

    @classmethod
    def of_arguments(cls) -> "Place":
        slot, process, nodes, folder = sys.argv[1:5]
        return cls(int(slot), int(process), nodes.split(","), Path(folder))

    def arguments(self) -> list[str]:
        return [str(self.slot), str(self.process), ",".join(self.nodes), str(self.folder)]

    @property
    def history(self) -> Path:
        return self.folder / f"history-{self.process}"


def connect(nodes: list[str], kind: str) -> _core.Client:
    """A client of the cluster, with a session of its own."""
    options: dict[str, Any] = {
        "nodes": nodes,
        "insecure": True,
        "ttl_ms": TTL_MS,
        "kind": kind,
        "open_timeout_ms": 120_000,
    }
    return _core.Client.connect(msgspec.msgpack.encode(options))


def name(job: bytes) -> str:
    """The id of a job as histories write it."""
    return str(uuid.UUID(bytes=job))


def read(client: _core.Client, *question: Any, consistency: str = "linearizable") -> tuple[int, Any]:
    """Ask about the state: the index of the one that answers, and what it says."""
    answer = client.view(msgspec.msgpack.encode(question), consistency, None, SUBMIT_S)
    index, _, said = msgspec.msgpack.decode(answer)
    return index, said


HISTORY_S = 2.5
"""A finished job leaves memory after three seconds, and a node that was away lacks it then. That is history."""
