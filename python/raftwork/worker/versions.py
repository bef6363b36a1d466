"""Jobs whose arguments were written by another version of the code.

* Of an older one: `@task.migrate` says what the call is today. Without it the attempt fails, and a later may find one.
* Of a newer one: as with a function that a worker does not know, the job waits. It is due again a little later, no
  attempt spent, for a worker that knows it. So old and new workers run side by side, and nothing fails meanwhile.
"""

from __future__ import annotations

import logging

from raftwork.job_info import version_of
from raftwork.worker.binding import Binding
from raftwork.worker.ending import Code, Ending
from raftwork.worker.payloads import Unopened
from raftwork.worker.run import Run

__all__ = ["VERSION_WAIT_MS", "Versions"]

logger = logging.getLogger("raftwork.worker")

VERSION_WAIT_MS = 10_000
"""How long a job waits that is too new for its worker. Shorter than for a key: a deployment ends soon."""


class Versions:
    """Sends jobs away that are too new for one runner."""

    def __init__(self) -> None:
        self._warned: set[tuple[str, int]] = set()

    def check(self, run: Run, binding: Binding) -> None:
        """Nothing, if the code here is as new as the job. Only for a job that other code may have written.

        Raises:
            Unopened: the job waits for a newer worker.
        """
        version = version_of(run.claim.meta)
        if version <= binding.version:
            return
        if (binding.name, version) not in self._warned:
            self._warned.add((binding.name, version))
            logger.warning(
                "A job of %s has arguments of version %d, and this worker knows version %d. It waits for a newer one, "
                "and so do others like it.", binding.name, version, binding.version,
            )  # fmt: skip
        raise Unopened(Ending(Code.SNOOZE, delay_ms=VERSION_WAIT_MS))
