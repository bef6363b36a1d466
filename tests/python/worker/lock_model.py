"""Who holds which lock and who waits for it, worked out by hand from the documents, without code of the package.

The model is told who asks, in their order, and the token of each grant, and says whether that token was allowed. It has
no clock: nothing that is promised of a lock depends on one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["lock", "semaphore", "read", "write"]
Answer = Literal["granted", "again", "waits", "late", "mismatch", "held", "lost", "not held", "released", "one less"]
Owner = int | tuple[int, str]
"""An object, by its number; of reentrant locks the task that asks, and the name of the lock."""
READERS = 1_000
"""So many may read at once."""


class Want(NamedTuple):
    """What an owner asks for, and in which session."""

    name: str
    kind: Kind
    permits: int
    session: str
    reentrant: bool = False

    def like(self, other: Want) -> bool:
        """Whether both take a lock of this name for the same thing."""
        shared = {"read", "write"}
        return self.permits == other.permits and (self.kind == other.kind or {self.kind, other.kind} == shared)

    def beside(self, others: list[Want]) -> bool:
        """Whether it can be had as long as these are held."""
        if self.kind == "read":
            return all(other.kind == "read" for other in others)
        return len(others) < self.permits


@dataclass
class Holding:
    """What an owner holds."""

    want: Want
    token: int = 0
    count: int = 1
    lost: bool = False


@dataclass
class Model:
    """All owners. Names that nobody holds are not there."""

    holdings: dict[Owner, Holding] = field(default_factory=dict)
    line: list[tuple[Owner, Want]] = field(default_factory=list)
    """Who waits, in the order of asking, for whatever name."""
    granted: list[Owner] = field(default_factory=list)
    """Since tokens were told last. Of one name in their order."""
    newest: int = 0
    """The greatest token that there was."""

    def acquire(self, owner: Owner, want: Want, waits: bool) -> Answer:
        """An owner asks for a lock."""
        holding = self.holdings.get(owner)
        if holding is not None and want.reentrant:
            if holding.lost:
                return "lost"
            holding.count += 1
            return "again"
        if self.waits(owner) or (holding is not None and not holding.lost):
            return "held"
        self.holdings.pop(owner, None)
        return self.ask(owner, want, waits)

    def ask(self, owner: Owner, want: Want, waits: bool = True) -> Answer:
        """It asks the cluster: also once more, when its session ended while it waited."""
        held = self.held(want.name)
        if any(not want.like(other) for other in held):
            return "mismatch"
        if want.beside(held) and all(other.name != want.name for _, other in self.line):
            self.grant(owner, want)
            return "granted"
        if waits:
            self.line.append((owner, want))
            return "waits"
        return "late"

    def release(self, owner: Owner) -> Answer:
        """An owner gives its lock back, if it has one."""
        holding = self.holdings.get(owner)
        if holding is None:
            return "not held"
        holding.count -= 1
        if holding.count:
            return "one less"
        del self.holdings[owner]
        self.move_up()
        return "lost" if holding.lost else "released"

    def give_up(self, owner: Owner) -> None:
        """It waits no more."""
        self.line = [(other, want) for other, want in self.line if other != owner]
        self.move_up()

    def end_session(self, session: str) -> list[tuple[Owner, Want]]:
        """What the session held is lost. Those that waited in it, who ask again in another."""
        for holding in self.holdings.values():
            if holding.want.session == session:
                holding.lost = True
        again = [(owner, want) for owner, want in self.line if want.session == session]
        self.line = [(owner, want) for owner, want in self.line if want.session != session]
        self.move_up()
        return again

    def got(self, tokens: dict[Owner, int]) -> None:
        """The tokens of those that were granted."""
        assert set(tokens) == set(self.granted)
        before: dict[str, int] = {}
        for owner in self.granted:
            holding, token = self.holdings[owner], tokens[owner]
            assert token > max(self.newest, before.get(holding.want.name, 0)), "K2"
            holding.token = before[holding.want.name] = token
        assert len(set(tokens.values())) == len(tokens), "K2"
        self.newest = max(self.newest, *tokens.values(), 0)
        self.granted.clear()

    # What is told

    def waits(self, owner: Owner) -> bool:
        return any(other == owner for other, _ in self.line)

    def held(self, name: str) -> list[Want]:
        """What a lock is held as."""
        return [holding.want for holding in self.holdings.values() if holding.want.name == name and not holding.lost]

    def rows(self) -> list[tuple[str, Kind, int, int, int]]:
        """Name, kind, permits, token and how many wait, of each holder."""
        return sorted(
            (
                holding.want.name,
                holding.want.kind,
                READERS if holding.want.kind == "read" else holding.want.permits,
                holding.token,
                sum(want.name == holding.want.name for _, want in self.line),
            )
            for holding in self.holdings.values()
            if not holding.lost
        )

    # How it goes on

    def grant(self, owner: Owner, want: Want) -> None:
        self.holdings[owner] = Holding(want)
        self.granted.append(owner)

    def move_up(self) -> None:
        """Of each name the first of the line has it as soon as it can, then the next."""
        blocked: set[str] = set()
        for owner, want in list(self.line):
            if want.name not in blocked and want.beside(self.held(want.name)):
                self.line.remove((owner, want))
                self.grant(owner, want)
            else:
                blocked.add(want.name)
