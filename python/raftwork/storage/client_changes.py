"""The verbs that change jobs over the compiled client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from raftwork.errors import AccessDenied
from raftwork.job_info import JobInfo
from raftwork.reading import SESSION, Reading
from raftwork.storage.changes import ChangeStorage
from raftwork.storage.records import Change

__all__ = ["ClientChanges"]


class ClientChanges(ChangeStorage):
    """Changes of jobs for storages behind the compiled client."""

    @abstractmethod
    def _submit(self, command: tuple[Any, ...]) -> Any: ...

    @abstractmethod
    def job(self, job: bytes, reading: Reading = SESSION) -> JobInfo | None: ...

    def cancel(self, jobs: Sequence[bytes], reason: str = "") -> list[Change]:
        return self._change_live(8, jobs, reason)

    def requeue(self, jobs: Sequence[bytes]) -> list[Change]:
        return self._change(9, jobs)

    def delete(self, jobs: Sequence[bytes]) -> list[Change]:
        return self._change(10, jobs)

    def move(self, jobs: Sequence[bytes], queue: str) -> list[Change]:
        return self._change_live(70, jobs, queue)

    def set_priority(self, jobs: Sequence[bytes], priority: int) -> list[Change]:
        return self._change_live(71, jobs, priority)

    def _change_live(self, operation: int, jobs: Sequence[bytes], how: Any) -> list[Change]:
        """Do something with jobs that are not final. One that left memory is."""
        answers = [Change(code) for code in self._submit((operation, jobs, how))]
        for place, answer in enumerate(answers):
            if answer is Change.UNKNOWN and self._is_archived(jobs[place]):
                answers[place] = Change.ALREADY
        return answers

    def _is_archived(self, job: bytes) -> bool:
        try:
            return self.job(job) is not None
        except AccessDenied:
            return False  # Who may operate but not read is not told more than that nothing was done.

    def _change(self, operation: int, jobs: Sequence[bytes]) -> list[Change]:
        """Do something with jobs that may be in the archive.

        A node looks there before it writes, and a job may go there between the two. Nothing was done to a job that is
        answered as unknown; asked once more, the node finds it.
        """
        answers = [Change(code) for code in self._submit((operation, jobs))]
        places = [place for place, answer in enumerate(answers) if answer is Change.UNKNOWN]
        if places:
            again = self._submit((operation, [jobs[place] for place in places]))
            for place, code in zip(places, again, strict=True):
                answers[place] = Change(code)
        return answers
