"""The verb for log lines of running jobs over the compiled client."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from raftwork.errors import InvalidOption
from raftwork.reading import SESSION, AsOf, Reading
from raftwork.storage.lines import LinesStanding, LinesStorage, RunLines

__all__ = ["ClientLines"]

_LINES = 61
"""The question for log lines."""


class ClientLines(LinesStorage):
    """Log lines for storages behind the compiled client."""

    @abstractmethod
    def _view(self, question: tuple[Any, ...], reading: Reading) -> tuple[AsOf, Any]: ...

    def run_lines(self, job: bytes, session: int, token: int, start: int = 0) -> RunLines:
        try:
            standing, first, lines, why = self._view((_LINES, session, job, token, start), SESSION)[1]
        except InvalidOption as error:
            # An earlier version refuses a question that it does not know in these words; all else is a mistake here.
            if not error.message.startswith(f"invalid request: question {_LINES} "):
                raise
            return RunLines(LinesStanding.UNKNOWN_HERE, start, [], error.message)
        return RunLines(LinesStanding(standing), first, lines, why)
