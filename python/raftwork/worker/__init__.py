"""Runs jobs: a `Worker` for this process, a `Supervisor` for several."""

from __future__ import annotations

from raftwork.worker.reload import SourceWatch
from raftwork.worker.server import Worker
from raftwork.worker.supervisor import Supervisor, end_with_parent

__all__ = ["SourceWatch", "Supervisor", "Worker", "end_with_parent"]
