"""An exception of a job, as it is stored and told to others."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FINGERPRINT_HEADING", "RemoteError"]

FINGERPRINT_HEADING = "\nFingerprint: "
"""Stands before the last line of a traceback, which is the fingerprint of the error."""


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An exception of a job, as the worker that ran it saw it."""

    type: str
    """Its class, as `module.qualname`."""
    message: str
    traceback: str = ""

    @property
    def fingerprint(self) -> str | None:
        """The same for the same mistake: made of the types and the functions, without lines, values and the message.

        None in answers that leave out the traceback, and for errors of versions that made none.
        """
        _, found, last = self.traceback.rpartition(FINGERPRINT_HEADING)
        return last.rstrip("\n") if found and last.find("\n") == len(last) - 1 else None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"
