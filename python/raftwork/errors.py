"""Every error that raftwork raises, in one tree.

    RaftworkError
    ├── ConfigError              RW001  a setting is unknown, malformed or out of range (also a ValueError)
    ├── TaskError                       the call itself is wrong; nothing was stored
    │   ├── InvalidTask          RW101  the function cannot be a task
    │   ├── TaskNotRegistered    RW102  no task of this name in this process
    │   ├── SerializationError   RW110  a value cannot travel without loss
    │   ├── PayloadTooLarge      RW111  arguments, result or batch above a limit
    │   ├── InvalidName          RW112  a queue, function, tag or key has a name that is not allowed
    │   └── InvalidOption        RW113  an option is unknown or out of range (also a ValueError)
    │       └── InvalidFilter    RW114  a filter cannot be read; carries the position
    ├── StorageError                    the storage did not do it
    │   ├── NotCommitted         RW301  it will never take effect; safe to repeat
    │   ├── OutcomeUnknown       RW302  it may or may not have taken effect
    │   ├── Overloaded           RW303  a bound is reached; repeat later
    │   ├── TimedOut             RW304  not within the time that you gave (also a TimeoutError)
    │   ├── DiskFull             RW310  no space left; resumes by itself when there is
    │   ├── DiskError            RW311  a read, write or sync failed; the node has stopped
    │   ├── CorruptData          RW312  stored bytes changed; `raftwork doctor` shows where
    │   ├── DirectoryBusy        RW313  another program holds the data directory
    │   ├── ForeignDirectory     RW314  the directory holds something else
    │   ├── NodeFailed           RW315  the node stopped because of an earlier error
    │   ├── NotRunning           RW316  the storage is closed
    │   ├── ForkedProcess        RW317  this object belongs to the parent process
    │   ├── SessionExpired       RW318  this process was silent for longer than its session lives
    │   └── ClusterUnreachable   RW319  no member of the cluster answers
    └── JobError                        about one job
        ├── JobNotFound          RW401  no job of this id, or it was deleted
        ├── UniqueConflict       RW402  a job with the same unique key exists
        ├── LeaseLost            RW403  another worker owns the job now; this answer changed nothing
        ├── WrongState           RW404  the job's state does not allow it
        ├── JobFailed            RW405  the job used up its attempts; carries the remote error
        └── JobCancelled         RW406  the job was cancelled

A message says what happened, to which thing, and what to do next. Its text begins with the code, which never changes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

__all__ = [
    "ClusterUnreachable",
    "ConfigError",
    "CorruptData",
    "DirectoryBusy",
    "DiskError",
    "DiskFull",
    "ForeignDirectory",
    "ForkedProcess",
    "InvalidFilter",
    "InvalidName",
    "InvalidOption",
    "InvalidTask",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobNotFound",
    "LeaseLost",
    "NodeFailed",
    "NotCommitted",
    "NotRunning",
    "OutcomeUnknown",
    "Overloaded",
    "PayloadTooLarge",
    "RaftworkError",
    "RemoteError",
    "SerializationError",
    "SessionExpired",
    "StorageError",
    "TaskError",
    "TaskNotRegistered",
    "TimedOut",
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
    """The function cannot be a task: another process could not find it again."""

    code = "RW101"


class TaskNotRegistered(TaskError, LookupError):
    """No task of this name is registered in this process."""

    code = "RW102"


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
    """The data directory belongs to something else, or to another version."""

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


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An exception of a job, as the worker that ran it saw it."""

    type: str
    """Its class, as `module.qualname`."""
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


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
