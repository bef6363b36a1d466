"""One figure with all its rounds, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass
class Figure:
    """What was measured, its values by round, and what it should be."""

    what: str
    unit: str
    target: str = ""
    good: Callable[[float], bool] | None = None
    """Whether a median reaches the target; None where there is no number to compare with."""
    values: list[float] = field(default_factory=list)

    def row(self) -> str:
        """One line of the table."""
        median = statistics.median(self.values)
        verdict = "" if self.good is None else ("reached" if self.good(median) else "missed")
        spread = [number(value, self.unit) for value in (min(self.values), median, max(self.values))]
        return (
            f"| {self.what} | {self.target} | {spread[0]} | **{spread[1]}** | {spread[2]} | {self.unit} | {verdict} |"
        )


def number(value: float, unit: str) -> str:
    """Digits as a reader needs them."""
    digits = {"ms": 3, "µs": 2, "s": 2, "%": 1, "x": 2}.get(unit, 0)
    return f"{value:,.{digits}f}"


def render(figures: Iterable[Figure]) -> str:
    """The table in Markdown."""
    head = "| What | At least | Min | Median | Max | Unit | |\n|---|---|---:|---:|---:|---|---|"
    return "\n".join([head, *(figure.row() for figure in figures if figure.values)])


def at_least(limit: float) -> Callable[[float], bool]:
    """More is better."""
    return lambda value: value >= limit


def at_most(limit: float) -> Callable[[float], bool]:
    """Less is better."""
    return lambda value: value <= limit
