"""How a run of a random program ends, as its script says."""

from __future__ import annotations

from raftwork import Cancel, Discard, Snooze

__all__ = ["end_as"]


def end_as(ending: str, snooze_s: float) -> None:
    """Raise what makes a run end so; whatever is no such word returns."""
    match ending:
        case "raise":
            raise ValueError("of the script")
        case "snooze":
            raise Snooze(f"{snooze_s}s")
        case "discard":
            raise Discard("of the script")
        case "cancel":
            raise Cancel("of the script")
