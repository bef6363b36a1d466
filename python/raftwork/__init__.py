"""Durable background jobs for Python with an embedded Raft log.

Example:
    >>> from raftwork import Raftwork
    >>> app = Raftwork("shop")
    >>> @app.task
    ... def add(a: int, b: int) -> int:
    ...     return a + b
    >>> add.enqueue(1, 2).result(timeout=30)  # with `raftwork worker shop:app` running
    3
"""

from raftwork.app import Raftwork
from raftwork.context import JobContext, current_job
from raftwork.errors import (
    ClusterUnreachable,
    ConfigError,
    CorruptData,
    DirectoryBusy,
    DiskError,
    DiskFull,
    ForeignDirectory,
    ForkedProcess,
    InvalidName,
    InvalidOption,
    InvalidTask,
    JobCancelled,
    JobError,
    JobFailed,
    JobNotFound,
    LeaseLost,
    NodeFailed,
    NotCommitted,
    NotRunning,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    RaftworkError,
    RemoteError,
    SerializationError,
    SessionExpired,
    StorageError,
    TaskError,
    TaskNotRegistered,
    TimedOut,
    UniqueConflict,
    WrongState,
)
from raftwork.job import Job, JobInfo, JobState
from raftwork.operators import BulkAnswer
from raftwork.options import Unique
from raftwork.outcomes import Cancel, Discard, RetryAfter, Snooze
from raftwork.retry import Retry
from raftwork.running import Running
from raftwork.task import Signature, Task

__all__ = [
    "BulkAnswer",
    "Cancel",
    "ClusterUnreachable",
    "ConfigError",
    "CorruptData",
    "current_job",
    "DirectoryBusy",
    "Discard",
    "DiskError",
    "DiskFull",
    "ForeignDirectory",
    "ForkedProcess",
    "InvalidName",
    "InvalidOption",
    "InvalidTask",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobError",
    "JobFailed",
    "JobInfo",
    "JobNotFound",
    "JobState",
    "LeaseLost",
    "NodeFailed",
    "NotCommitted",
    "NotRunning",
    "OutcomeUnknown",
    "Overloaded",
    "PayloadTooLarge",
    "Raftwork",
    "RaftworkError",
    "RemoteError",
    "Retry",
    "RetryAfter",
    "Running",
    "SerializationError",
    "SessionExpired",
    "Signature",
    "Snooze",
    "StorageError",
    "Task",
    "TaskError",
    "TaskNotRegistered",
    "TimedOut",
    "Unique",
    "UniqueConflict",
    "WrongState",
]

# The root joins all layers: it alone may tell the application where the worker is.
Running.worker_entry = "raftwork.worker:Worker"
