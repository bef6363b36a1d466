"""Which functions the connected workers know, so that jobs which nobody can run are seen.

A claim names the functions that its worker knows, and a job of another one waits without an error. Each session of a
worker therefore says in its labels what it claims: `functions:0`, `functions:1` and so on hold, one behind the other,
the first 24 bits of the BLAKE2 digest of each name, as four characters. A label has room for 63 names, so the 1,024 of
one claim need 17 labels of the 32 that a session may have.

* What is told as unknown is unknown: a digest is missing only if nobody wrote it.
* A session that does not say what it knows (of an older version, or with so many labels of its own that these have no
  room) counts as one that knows everything. Then nothing is told at all.
* Two names may have one digest, and then an unknown function counts as known. With a thousand functions that happens to
  one unknown name in 16,000.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from raftwork.reading import SESSION, Reading, Rows
from raftwork.storage.base import SessionInfo, Storage

__all__ = ["PREFIX", "Known", "UnknownJobs", "labels_of", "own_labels", "unknown_in", "unknown_jobs"]

PREFIX = "functions:"
"""What labels about functions begin with. A worker's own labels must not."""
LABELS_MAX = 32
"""Labels of one session."""
LABELS_KEPT = 1
"""Of these the cluster itself writes one: whose token opened the session."""
DIGEST_CHARS = 4
DIGESTS_OF_LABEL = 255 // DIGEST_CHARS
"""A label's text has 255 bytes."""
NAMES_OF_QUESTION_MAX = 1_024
"""Functions that one question about due jobs may name."""


class UnknownJobs(NamedTuple):
    """Jobs of one function that wait for a worker, while no connected worker knows the function."""

    function: str
    waiting: int
    """Those that are enqueued. Jobs that are not due yet, or wait for others, are not among them."""


class Known:
    """What the workers of these sessions know together."""

    def __init__(self, sessions: Iterable[SessionInfo]) -> None:
        workers = [session for session in sessions if session.kind == "worker"]
        self.workers = len(workers)
        """How many sessions of workers there are."""
        told = [[text for name, text in session.labels.items() if name.startswith(PREFIX)] for session in workers]
        self._everything = any(not texts for texts in told)
        self._digests = {digest for texts in told for text in texts for digest in _cut(text)}

    def __contains__(self, function: str) -> bool:
        return self._everything or _digest(function) in self._digests


def labels_of(functions: Sequence[str], own: Mapping[str, str]) -> dict[str, str]:
    """The labels of a session that claims jobs of these functions: its own, and which these are if they have room."""
    digests = [_digest(name) for name in functions]
    texts = ["".join(digests[at : at + DIGESTS_OF_LABEL]) for at in range(0, len(digests), DIGESTS_OF_LABEL)]
    if len(own) + len(texts) + LABELS_KEPT > LABELS_MAX:
        return dict(own)  # A part of them would say that the rest is unknown.
    return {**own, **{f"{PREFIX}{place}": text for place, text in enumerate(texts)}}


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of a session that people gave it."""
    return {name: text for name, text in labels.items() if not name.startswith(PREFIX)}


def unknown_jobs(storage: Storage, reading: Reading = SESSION) -> Rows[UnknownJobs]:
    """Functions with enqueued jobs that no connected worker knows, by name."""
    functions = storage.functions(reading)
    known = Known(storage.sessions(reading))
    waiting = (UnknownJobs(row.function, row.enqueued) for row in functions if row.enqueued)
    rows = Rows(jobs for jobs in waiting if jobs.function not in known)
    rows.as_of = functions.as_of
    return rows


def unknown_in(storage: Storage, queue: str, unknown: Sequence[UnknownJobs]) -> int:
    """How many of these jobs a worker of this queue could take now if it knew them: none of a queue that is paused."""
    names = [row.function for row in unknown]
    return storage.due([queue], names[:NAMES_OF_QUESTION_MAX]) if names else 0


def _digest(function: str) -> str:
    return base64.b64encode(hashlib.blake2b(function.encode(), digest_size=3).digest()).decode()


def _cut(text: str) -> list[str]:
    return [text[at : at + DIGEST_CHARS] for at in range(0, len(text), DIGEST_CHARS)]
