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
from raftwork.bulk import Bulk, BulkProgress
from raftwork.context import JobContext, current_job
from raftwork.dependencies import depends
from raftwork.errors import (
    AccessDenied,
    BatchNotFound,
    ClusterUnreachable,
    ConfigError,
    CorruptData,
    CrashLoop,
    CryptoMissing,
    DirectoryBusy,
    DiskError,
    DiskFull,
    FlowCycle,
    ForeignDirectory,
    ForkedProcess,
    InvalidName,
    InvalidOption,
    InvalidTask,
    JobCancelled,
    JobError,
    JobFailed,
    JobNotFound,
    KeyMissing,
    LeaseLost,
    LimitExceeded,
    LockError,
    LockHeld,
    LockLost,
    LockMismatch,
    LockNotHeld,
    LockTimeout,
    LogsUnavailable,
    MigrationError,
    NodeFailed,
    NotCommitted,
    NotRunning,
    OutboxError,
    OutcomeUnknown,
    Overloaded,
    ParentMissing,
    PayloadDamaged,
    PayloadError,
    PayloadTooLarge,
    RaftworkError,
    RemoteError,
    ScheduleError,
    ScheduleNotFound,
    SecretRefused,
    SerializationError,
    SessionExpired,
    StateDiffers,
    StepError,
    StorageError,
    TaskError,
    TaskNotRegistered,
    TimedOut,
    TooStale,
    UniqueConflict,
    WrongState,
)
from raftwork.flow_info import FlowInfo
from raftwork.flows import Batch, BatchInfo, Chain, chain
from raftwork.job import Job
from raftwork.job_info import JobInfo, JobState
from raftwork.known import UnknownJobs
from raftwork.limits import Fair, Limit, Rate
from raftwork.lock import Lock, LockInfo, ReadWriteLock
from raftwork.logs import JobLogs
from raftwork.middleware import EnqueueCall
from raftwork.operators import BulkAnswer, ErrorGroup
from raftwork.options import Unique
from raftwork.outcomes import Cancel, Discard, RetryAfter, Snooze
from raftwork.retry import Retry
from raftwork.running import Running
from raftwork.schedules import Schedule, Schedules
from raftwork.secret import Secret
from raftwork.task import Signature, Task

__all__ = [
    "AccessDenied",
    "Batch",
    "BatchInfo",
    "BatchNotFound",
    "Bulk",
    "BulkAnswer",
    "BulkProgress",
    "Cancel",
    "Chain",
    "chain",
    "ClusterUnreachable",
    "ConfigError",
    "CorruptData",
    "CrashLoop",
    "CryptoMissing",
    "current_job",
    "depends",
    "DirectoryBusy",
    "Discard",
    "DiskError",
    "DiskFull",
    "EnqueueCall",
    "ErrorGroup",
    "Fair",
    "FlowCycle",
    "FlowInfo",
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
    "JobLogs",
    "JobNotFound",
    "JobState",
    "KeyMissing",
    "LeaseLost",
    "Limit",
    "LimitExceeded",
    "Lock",
    "LockError",
    "LockHeld",
    "LockInfo",
    "LockLost",
    "LockMismatch",
    "LockNotHeld",
    "LockTimeout",
    "LogsUnavailable",
    "MigrationError",
    "NodeFailed",
    "NotCommitted",
    "NotRunning",
    "OutboxError",
    "OutcomeUnknown",
    "Overloaded",
    "ParentMissing",
    "PayloadDamaged",
    "PayloadError",
    "PayloadTooLarge",
    "Raftwork",
    "RaftworkError",
    "Rate",
    "ReadWriteLock",
    "RemoteError",
    "Retry",
    "RetryAfter",
    "Running",
    "Schedule",
    "ScheduleError",
    "ScheduleNotFound",
    "Schedules",
    "Secret",
    "SecretRefused",
    "SerializationError",
    "SessionExpired",
    "Signature",
    "Snooze",
    "StateDiffers",
    "StepError",
    "StorageError",
    "Task",
    "TaskError",
    "TaskNotRegistered",
    "TimedOut",
    "TooStale",
    "Unique",
    "UniqueConflict",
    "UnknownJobs",
    "WrongState",
]

# The root joins all layers: it alone may tell the application where the worker is.
Running.worker_entry = "raftwork.worker:Worker"
