"""What a claimed job carries, opened before its function is called.

* A key that this worker lacks is not the job's fault. As with a function that a worker does not know, the job waits: it
  is due again a little later, no attempt spent, for another worker, or for this one after a restart with the key.
* Damaged bytes are the same for every worker and every attempt: the job fails at once.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from raftwork import serde
from raftwork.codecs import Codecs, Kind
from raftwork.errors import KeyMissing, ParentMissing, PayloadDamaged, SerializationError
from raftwork.output import fill_outputs
from raftwork.storage.base import ClaimedJob
from raftwork.worker.ending import Code, Ending
from raftwork.worker.failure import describe
from raftwork.worker.run import Run

__all__ = ["KEY_WAIT_MS", "Opener", "Unopened"]

logger = logging.getLogger("raftwork.worker")

KEY_WAIT_MS = 30_000
"""How long a job waits that a worker without its key has claimed: long enough that such jobs do not keep it busy."""
WARNED_MAX = 100
NONE = serde.encode(None)
"""The result of a parent that ended without one, for a job that runs however it ended."""


class Unopened(Exception):
    """The payload of a job could not be opened, so its function was never called. `ending` says what becomes of it."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.code)
        self.ending = ending


class Opener:
    """Opens the jobs of one runner."""

    def __init__(self, codecs: Codecs) -> None:
        self._codecs = codecs
        self._warned: set[str] = set()

    def open(self, run: Run) -> None:
        """Replace arguments and saved state of a claimed job by what was encoded.

        Raises:
            Unopened: they cannot be read.
        """
        claim, codecs = run.claim, self._codecs
        try:
            args = codecs.open(claim.id, Kind.ARGS, claim.args)
            state = None if claim.state is None else codecs.open(claim.id, Kind.STATE, claim.state)
        except KeyMissing as error:
            self._warn(error, claim.function)
            raise Unopened(Ending(Code.SNOOZE, delay_ms=KEY_WAIT_MS)) from None
        except PayloadDamaged as error:
            raise Unopened(Ending(Code.FAILED, failure=describe(error))) from None
        if claim.extras and 1 in claim.extras:
            args = self._filled(claim, args, claim.extras[1])
        if args is not claim.args or state is not claim.state:
            run.claim = msgspec.structs.replace(claim, args=args, state=state)

    def _filled(self, claim: ClaimedJob, args: bytes, results: list[Any]) -> bytes:
        """The arguments with the results of parents in their places."""
        try:
            outputs = {
                place: NONE if stored is None else self._codecs.open(parent, Kind.RESULT, stored)
                for place, parent, stored in results
            }
            return fill_outputs(args, outputs)
        except KeyMissing as error:
            self._warn(error, claim.function)
            raise Unopened(Ending(Code.SNOOZE, delay_ms=KEY_WAIT_MS)) from None
        except (PayloadDamaged, SerializationError, ParentMissing) as error:
            raise Unopened(Ending(Code.FAILED, failure=describe(error))) from None

    def _warn(self, error: KeyMissing, function: str) -> None:
        # Once for each key: there may be a million such jobs.
        if error.key_id not in self._warned and len(self._warned) < WARNED_MAX:
            self._warned.add(error.key_id)
            logger.error("A job of %s waits, and so do others of its key: %s", function, error)
