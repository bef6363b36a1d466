"""A process that enqueues flows and jobs with limits and locks until the board says stop, over the public API.

What it was told goes to the ledger of `model_jobs`. What it was not told stays in doubt: a batch whose answers are
missing is cancelled at the end, so that it must finish, and nothing more is asked of it.

python -m cluster.model_client SLOT PROCESS NODES FOLDER
"""

from __future__ import annotations

import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.model_jobs import (
    app,
    asked,
    breaking,
    called,
    first,
    gathered,
    guarded,
    member,
    mended,
    paced,
    plus,
    tick,
    write,
)
from cluster.parts import Place
from cluster.recording import Board
from raftwork import Job, chain
from raftwork.errors import BatchNotFound, RaftworkError
from raftwork.flows import Batch

PAUSE_S = 0.25
"""Between two flows: the offered rate."""
KEYS = 3


class ModelClient:
    """One thread that asks for flows, one after the other."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.board = Board(place.folder / "board")
        self.chance = random.Random(place.process)
        self.count = 0
        self.doubtful: list[uuid.UUID] = []
        """Batches that are perhaps not sealed."""
        self.broken: deque[tuple[str, Batch, Job[None]]] = deque()
        """Batches that fail, and their members that do."""

    def run(self) -> None:
        shapes = (self.batch, self.batch, self.nested, self.failing, self.chain, self.gather, self.pace, self.guard)
        while not self.board.clients_stop:
            self.try_to(self.chance.choice(shapes))
            self.try_to(self.mend)
            time.sleep(PAUSE_S)
        # All is well again by now, so that these are answered at last.
        while self.broken:
            self.try_to(self.mend)
            time.sleep(PAUSE_S / 10)
        while self.doubtful:
            self.try_to(self.end_doubtful)
        while not self.try_to(lambda: app.schedules.pause(tick.name)):
            time.sleep(PAUSE_S / 10)
        app.close()

    def try_to(self, what: Callable[[], None]) -> bool:
        """Do it; what was not answered stays in doubt."""
        try:
            what()
        except RaftworkError as error:
            write("doubt", why=f"{type(error).__name__}: {error}"[:300])
            return False
        return True

    def tag(self) -> str:
        self.count += 1
        return f"{self.place.process}-{self.count}"

    def key(self) -> int:
        return self.chance.randrange(KEYS)

    def batch(self) -> None:
        """Members of which some add others, and one callback for each end."""
        with self.open(tag := self.tag()):
            for _ in range(self.chance.randint(1, 4)):
                self.add(tag)
        write("flow", tag=tag, callbacks=["finish", "success"])

    def nested(self) -> None:
        """A batch inside of a batch: the callbacks of the outer one follow all."""
        inner, outer = self.tag(), self.tag()
        with self.open(outer):
            self.add(outer)
            with self.open(inner):
                self.add(inner)
        for tag in (inner, outer):
            write("flow", tag=tag, callbacks=["finish", "success"])

    def failing(self) -> None:
        """A batch with a member that fails. It is mended later, which begins the batch again."""
        with self.open(tag := self.tag()) as batch:
            self.add(tag)
            broken = asked(1, lambda: breaking.enqueue(tag))
        write("flow", tag=tag, callbacks=["failure", "finish"])
        self.broken.append((tag, batch, broken))

    def mend(self) -> None:
        """Retry the member that failed, of a batch that has finished."""
        if not self.broken or not self.broken[0][1].info().finished:
            return
        tag, _, broken = self.broken.popleft()
        mended(tag).touch()
        write("again", tag=tag, acknowledged=False)
        write("again", tag=tag, acknowledged=broken.retry())

    @contextmanager
    def open(self, tag: str) -> Iterator[Batch]:
        """A new batch with its callbacks, which is sealed behind the block."""
        batch = app.batch(
            tag,
            on_success=called.s(tag, "success"),
            on_failure=called.s(tag, "failure"),
            on_complete=called.s(tag, "finish"),
        )
        self.doubtful.append(batch.id)
        asked(3, batch.open)
        with batch:
            yield batch
        batch.seal()
        self.doubtful.remove(batch.id)

    def add(self, tag: str) -> None:
        key, more = self.key(), self.chance.choice((0, 0, 1, 2))
        asked(1, lambda: member.enqueue(tag, key, more))

    def chain(self) -> None:
        """Each job gets the result of the one before."""
        tag, number, length = self.tag(), self.chance.randrange(1_000), self.chance.randint(2, 4)
        later = [plus.s(tag=tag, place=place, wanted=number + place - 1) for place in range(1, length)]
        asked(length, chain(first.s(tag, number), *later).enqueue)
        write("flow", tag=tag, places=length)

    def gather(self) -> None:
        """Several jobs, and one that takes the results of all."""
        tag, wanted = self.tag(), [self.chance.randrange(1_000) for _ in range(3)]
        parts = [asked(1, lambda number=number: first.enqueue(tag, number)) for number in wanted]
        asked(1, lambda: gathered.enqueue(tag, [part.output for part in parts], wanted))
        write("flow", tag=tag, places=2)

    def pace(self) -> None:
        tag = self.tag()
        asked(2, lambda: app.enqueue_many([paced.s(tag), paced.s(tag)]))
        write("flow", tag=tag)

    def guard(self) -> None:
        tag = self.tag()
        asked(3, lambda: app.enqueue_many([guarded.s(tag)] * 3))
        write("flow", tag=tag)

    def end_doubtful(self) -> None:
        """Cancel what nobody knows to be sealed."""
        try:
            app.batch(self.doubtful[-1]).cancel("the client was not answered")
        except BatchNotFound:
            pass  # Opening it did not happen.
        self.doubtful.pop()


if __name__ == "__main__":
    ModelClient(Place.of_arguments()).run()
