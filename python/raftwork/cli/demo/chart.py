"""Jobs a second as a chart of block characters, with a line of marks below it."""

from __future__ import annotations

from collections import deque

from raftwork import clock

__all__ = ["Chart"]

BLOCKS = " ▁▂▃▄▅▆▇█"
SAMPLE_S = 0.25
SAMPLES_MAX = 400


class Chart:
    """Takes samples of a total that only grows."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._marks: deque[str] = deque(maxlen=SAMPLES_MAX)
        self._mark = " "
        self._at = clock.monotonic()
        self._total = 0

    def mark(self, letter: str) -> None:
        """Something happened now."""
        self._mark = letter

    def take(self, total: int) -> None:
        """The total now. Called often; a sample is taken when it is time for one."""
        now = clock.monotonic()
        if now - self._at >= SAMPLE_S:
            self._rates.append((total - self._total) / (now - self._at))
            self._marks.append(self._mark)
            self._at, self._total, self._mark = now, total, " "

    @property
    def rate(self) -> float:
        """A second's average."""
        latest = list(self._rates)[-round(1 / SAMPLE_S) :]
        return sum(latest) / len(latest) if latest else 0.0

    @property
    def peak(self) -> float:
        """The largest sample so far."""
        return max(self._rates, default=0.0)

    def lines(self, width: int, height: int) -> list[str]:
        """The newest samples, from above; the last line holds the marks."""
        rates, marks = list(self._rates)[-width:], list(self._marks)[-width:]
        top = max(rates, default=0.0) or 1.0
        # Anything at all shows: a chart must tell a trickle from nothing.
        eighths = [max(1 if rate > 0 else 0, round(rate / top * height * 8)) for rate in rates]
        rows = [
            "".join(BLOCKS[min(8, max(0, level - 8 * row))] for level in eighths) for row in reversed(range(height))
        ]
        return [*rows, "".join(marks)]
