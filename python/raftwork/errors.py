"""Every error that raftwork raises, in one tree. `docs/reference/errors.md` lists each with its code and what to do.

    RaftworkError
    ├── ConfigError       RW001   a setting is unknown, malformed or out of range (also a ValueError)
    ├── TaskError         RW1..   the call itself is wrong; nothing was stored
    ├── StorageError      RW3..   the storage did not do it
    ├── JobError          RW4..   about one job, or one flow of jobs
    ├── LockError         RW5..   about one lock
    ├── HarnessError      RW6..   about `raftwork.testing.harness`
    ├── ScheduleError     RW7..   about one recurring schedule
    ├── PayloadError      RW8..   about what is stored of a job's arguments, result, state, progress or error
    └── OutboxError       RW9..   the SQL database with the outbox cannot be used

A message says what happened, to which thing, and what to do next. Its text begins with the code, which never changes.
"""

from __future__ import annotations

import uuid

from raftwork.remote_error import RemoteError

__all__ = [
    "BatchNotFound",
    "ClusterUnreachable",
    "ConfigError",
    "CorruptData",
    "CrashLoop",
    "CryptoMissing",
    "DirectoryBusy",
    "DiskError",
    "DiskFull",
    "FlowCycle",
    "ForeignDirectory",
    "ForkedProcess",
    "HarnessError",
    "HarnessMisused",
    "InvalidFilter",
    "InvalidName",
    "InvalidOption",
    "InvalidTask",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobNotFound",
    "KeyMissing",
    "LeaseLost",
    "LimitExceeded",
    "LockError",
    "LockHeld",
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
    "RaftworkError",
    "RemoteError",
    "RunawayJobs",
    "ScheduleError",
    "ScheduleNotFound",
    "SecretRefused",
    "SerializationError",
    "SessionExpired",
    "StateDiffers",
    "StepError",
    "StorageError",
    "TaskError",
    "TaskNotRegistered",
    "TimedOut",
    "TooStale",
    "UniqueConflict",
    "WrongState",
]


class RaftworkError(Exception):
    """The base of every error of raftwork. `code` is stable; `str()` begins with it."""

    code = "RW000"

    @property
    def message(self) -> str:
        """The text without the code."""
        return str(self.args[0]) if self.args else type(self).__doc__ or ""

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


class ConfigError(RaftworkError, ValueError):
    """A setting is unknown, malformed or out of range. Nothing was opened."""

    code = "RW001"


class TaskError(RaftworkError):
    """The call is wrong. It was refused before anything was stored."""

    code = "RW100"


class InvalidTask(TaskError):
    """The function cannot be a task (others could not find it again), a middleware, or what `depends` takes."""

    code = "RW101"


class TaskNotRegistered(TaskError, LookupError):
    """No task of this name is registered in this process."""

    code = "RW102"


class MigrationError(TaskError):
    """A job has arguments of an older version of its task, and nothing here makes those of today of them."""

    code = "RW103"


class SerializationError(TaskError):
    """A value cannot travel to another process and come back the same. `path` says which, such as `args[2]['x']`."""

    code = "RW110"

    def __init__(self, message: str = "", path: str = "") -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLarge(TaskError):
    """Arguments, a result or a batch are above their limit. Store large data elsewhere and pass its address."""

    code = "RW111"


class InvalidName(TaskError, ValueError):
    """A name is empty, longer than 255 bytes, or contains control characters."""

    code = "RW112"


class InvalidOption(TaskError, ValueError):
    """An option is unknown or its value is out of range. The message gives the range."""

    code = "RW113"


class InvalidFilter(InvalidOption):
    """A filter cannot be read. `position` counts its characters from 0; the message shows the place and a way out."""

    code = "RW114"

    def __init__(self, message: str = "", position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class SecretRefused(TaskError):
    """A Secret would be stored in clear: the application has no encryption key. `path` says which."""

    code = "RW115"

    def __init__(self, message: str = "", path: str = "") -> None:
        super().__init__(message)
        self.path = path


class StorageError(RaftworkError):
    """The storage did not do what was asked."""

    code = "RW300"


class NotCommitted(StorageError):
    """The write did not happen and will not happen later. It is safe to repeat."""

    code = "RW301"


class OutcomeUnknown(StorageError):
    """The write may or may not have happened. Look the job up by its id, or repeat with a unique key."""

    code = "RW302"


class Overloaded(StorageError):
    """A bound of the storage is reached; the request was not taken. Repeat it a little later."""

    code = "RW303"


class TimedOut(StorageError, TimeoutError):
    """What was waited for did not happen within the given time. It may still happen."""

    code = "RW304"


class TooStale(StorageError):
    """The state at hand could be older than the read allows: `age_ms` old (None: nobody knows), and `bound_ms` allowed.

    Ask again in a moment, allow more with `max_staleness`, or ask for `consistency="linearizable"`.
    """

    code = "RW305"

    def __init__(self, message: str = "", age_ms: int | None = None, bound_ms: int = 0) -> None:
        super().__init__(message)
        self.age_ms = age_ms
        self.bound_ms = bound_ms


class DiskFull(StorageError):
    """No space is left on the volume of the data directory. Writes resume by themselves when there is."""

    code = "RW310"


class DiskError(StorageError):
    """The operating system refused a read, a write or a sync. The node has stopped, so that nothing unsafe is told."""

    code = "RW311"


class CorruptData(StorageError):
    """Bytes on disk are not those that were written. `raftwork doctor DIRECTORY` shows where, and can salvage."""

    code = "RW312"


class DirectoryBusy(StorageError):
    """Another process holds the data directory and does not answer on its socket."""

    code = "RW313"


class ForeignDirectory(StorageError):
    """The data directory belongs to something else, or to another version, or others may write to it.

    Or it is that of one member of a cluster: without the settings of that member it is neither opened nor salvaged.
    """

    code = "RW314"


class NodeFailed(StorageError):
    """The node stopped because of an earlier error, which is in its log and in `raftwork status`."""

    code = "RW315"


class NotRunning(StorageError):
    """The storage is closed. Open it again with `app.open()`."""

    code = "RW316"


class ForkedProcess(StorageError):
    """The object was opened by the parent of this process. A child opens its own."""

    code = "RW317"


class SessionExpired(StorageError):
    """This process was silent for longer than its session lives, so its jobs were given to others."""

    code = "RW318"


class ClusterUnreachable(StorageError):
    """No member of the cluster answers at the given addresses, or none of them has a majority behind it."""

    code = "RW319"


class StateDiffers(StorageError):
    """The state of the node in this process is not that of a majority of the members, so it stopped for good and its
    directory is not opened again. The message has the commands that bring the member back."""

    code = "RW320"


class CrashLoop(StorageError):
    """The node in this process failed three times in the same way. Its directory is not opened again by this process;
    the message says what failed, and what to do."""

    code = "RW321"


class AccessDenied(StorageError):
    """The cluster does not let this client do that. Nothing was changed. `principal` is the client, as in `token/a`,
    and `capability` what it lacks, such as `enqueue:mail`. Both are empty when the cluster does not know the client at
    all: its token was revoked, has expired, or is another cluster's."""

    code = "RW330"

    def __init__(self, message: str = "", principal: str = "", capability: str = "") -> None:
        super().__init__(message)
        self.principal = principal
        self.capability = capability


class LockError(RaftworkError):
    """Something about one lock."""

    code = "RW500"


class LockTimeout(LockError, TimeoutError):
    """Somebody else held the lock all the time. This object does not wait for it any more."""

    code = "RW501"


class LockLost(LockError):
    """The lock was lost before it was released, as its session ended. Others may have had it meanwhile."""

    code = "RW502"


class LockHeld(LockError):
    """This object holds the lock already, or waits for it. Another `app.lock(...)` object is another owner."""

    code = "RW503"


class LockNotHeld(LockError):
    """This object does not hold the lock: it was never acquired, or was released already."""

    code = "RW504"


class LockMismatch(LockError):
    """While somebody holds it, a name is one kind of lock, and a semaphore has one number of permits."""

    code = "RW505"


class ScheduleError(RaftworkError):
    """Something about one recurring schedule."""

    code = "RW700"


class ScheduleNotFound(ScheduleError, LookupError):
    """No schedule has this name. It was deleted, or never put."""

    code = "RW701"


class PayloadError(RaftworkError):
    """What is stored of a job (arguments, result, state, progress, error) cannot be read here, or not be written."""

    code = "RW800"


class KeyMissing(PayloadError, LookupError):
    """It is encrypted with a key that this process does not have; `key_id` names it. Nothing is wrong with the job."""

    code = "RW801"

    def __init__(self, message: str = "", key_id: str = "") -> None:
        super().__init__(message)
        self.key_id = key_id


class PayloadDamaged(PayloadError):
    """The stored bytes are not those that were written for this job, so they are not used."""

    code = "RW802"


class CryptoMissing(PayloadError, ImportError):
    """There are encryption keys, but the library `cryptography` is not installed."""

    code = "RW803"


class OutboxError(RaftworkError):
    """The SQL database with the outbox could not be used. What waits in it stays there, and nothing is lost."""

    code = "RW901"


class JobError(RaftworkError):
    """Something about one job. `job_id` names it, where it is known."""

    code = "RW400"

    def __init__(self, message: str = "", job_id: uuid.UUID | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFound(JobError, LookupError):
    """No job has this id. It was deleted, its retention ended, or it was never stored."""

    code = "RW401"


class UniqueConflict(JobError):
    """A job with the same unique key exists; `job_id` names it. Nothing was stored."""

    code = "RW402"


class LeaseLost(JobError):
    """The job belongs to another worker now, or to none. What this one reported changed nothing."""

    code = "RW403"


class WrongState(JobError):
    """The state of the job does not allow this."""

    code = "RW404"


class ParentMissing(JobError):
    """A job waits for one that was deleted or forgotten, or takes a result that was never given."""

    code = "RW410"


class FlowCycle(JobError):
    """A member of a batch would wait for what waits, or may come to wait, for this batch. Nothing was stored."""

    code = "RW411"


class BatchNotFound(JobError, LookupError):
    """No batch has this id, or it was forgotten, 14 days after it finished."""

    code = "RW412"


class LogsUnavailable(JobError):
    """The job runs, and its worker cannot be asked what it has logged so far. The job itself goes on."""

    code = "RW413"


class JobFailed(JobError):
    """The job used up its attempts or crashes. `error` is the last exception, with the traceback of the worker."""

    code = "RW405"

    def __init__(self, message: str = "", job_id: uuid.UUID | None = None, error: RemoteError | None = None) -> None:
        super().__init__(message, job_id)
        self.error = error


class JobCancelled(JobError):
    """The job was cancelled before it finished. `reason` says why."""

    code = "RW406"

    def __init__(self, message: str = "", job_id: uuid.UUID | None = None, reason: str = "") -> None:
        super().__init__(message, job_id)
        self.reason = reason


class StepError(JobError):
    """A step cannot be done like that: its name was used in this run, or it needs the other of `step` and `astep`."""

    code = "RW407"


class LimitExceeded(JobError):
    """The process of the job took more memory or processor time than its task allows, and was ended."""

    code = "RW408"


class HarnessError(RaftworkError):
    """Something about a harness of `raftwork.testing`. Never raised outside of tests."""

    code = "RW600"


class HarnessMisused(HarnessError):
    """The harness cannot be used like that. Nothing was changed."""

    code = "RW601"


class RunawayJobs(HarnessError):
    """Jobs make more jobs, or ask to run again, without an end. Those that ran are stored as they ended."""

    code = "RW602"
