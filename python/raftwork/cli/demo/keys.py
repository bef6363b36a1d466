"""The keys of the demo, and a script that presses them."""

from __future__ import annotations

import click

from raftwork import clock

__all__ = ["KEYS", "SCRIPT", "Script", "parse_script"]

KEYS = {
    "e": "+10,000 jobs",
    "k": "kill the leader",
    "b": "bring it back",
    "f": "break some jobs",
    "r": "mend and retry",
    "c": "show the code",
    "q": "quit",
}
SCRIPT = "e,k,b,f,q"
"""What is pressed where there is no keyboard."""
PAUSE_S = 1.0
SCRIPT_S_MAX = 45.0
"""After so long a script quits, whatever it still waits for, so that the demo ends within a minute."""


def parse_script(text: str) -> list[str]:
    """The keys of `e,k,b`.

    Raises:
        UsageError: one is no key of the demo.
    """
    keys = [key.strip() for key in text.split(",")]
    for key in keys:
        if key not in KEYS:
            known = ", ".join(f"{key} ({about})" for key, about in KEYS.items())
            raise click.UsageError(f"--script: {key!r} is no key of the demo. There are {known}.")
    return keys


class Script:
    """Presses one key after another, each when the effect of the one before has been seen, and a moment later."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = list(keys)
        self._began = clock.monotonic()
        self._idle_since: float | None = None

    @property
    def over(self) -> bool:
        """All keys were pressed."""
        return not self._keys

    def poll(self, busy: bool) -> str | None:
        """The next key, if it is time for it. `busy`: the effect of the last one is not there yet."""
        now = clock.monotonic()
        if self._keys and now - self._began > SCRIPT_S_MAX:
            self._keys = []
            return "q"
        if busy:
            self._idle_since = None
            return None
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since < PAUSE_S or not self._keys:
            return None
        self._idle_since = None
        return self._keys.pop(0)
