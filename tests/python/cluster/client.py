"""A process that enqueues, reads and cancels until the board says stop, and records each operation.

python -m cluster.client SLOT PROCESS NODES FOLDER
"""

import random
import time
from collections import deque

import msgspec

from cluster.parts import HISTORY_S, SPEC, SUBMIT_S, Place, connect, name, read
from cluster.recording import Board, Recorder
from raftwork import _core
from raftwork.errors import RaftworkError
from raftwork.storage.base import NewJob
from raftwork.storage.records import enqueue_command

PAUSE_S = 0.002
"""Between two operations: the offered rate."""
TOLD = 1
DELAYS_MS = (0,) * 19 + (300,)
"""One job of twenty is due later."""

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Client:
    """One thread that asks, one operation after the other."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.board = Board(place.folder / "board")
        self.record = Recorder(place.history, place.process)
        self.chance = random.Random(place.process)
        self.client: _core.Client = connect(place.nodes, "client")
        self.own: deque[tuple[bytes, float]] = deque(maxlen=50)
        self.told: deque[bytes] = deque()
        """Jobs that were running when they were cancelled: how they end is told to their workers only."""

    def run(self) -> None:
        while not self.board.clients_stop:
            kind = self.chance.random()
            if kind < 0.55 or not self.own:
                self.enqueue()
            elif kind < 0.80:
                self.read(self.chance.choice(("session", "session", "local")), *self.chance.choice(self.own))
            elif kind < 0.95:
                self.read("linearizable", *self.chance.choice(self.own))
            else:
                self.cancel()
            if self.told and kind < 0.2:
                self.look_after(self.told.popleft())
            time.sleep(PAUSE_S)
        self.client.close(5.0)

    def enqueue(self) -> None:
        ids = _core.new_ids(self.chance.randint(1, 3))
        jobs = [NewJob(job, SPEC, b"\x90", self.chance.choice(DELAYS_MS)) for job in ids]
        told = [_told(job) for job in jobs]
        number = self.record.begin("enqueue", {"jobs": told})
        reply = self._submit(number, enqueue_command(jobs))
        if reply is not None:
            codes = [0] * len(jobs)
            for position, code, _ in reply[2] or []:
                codes[position] = code
            self._answered(number, reply[1], codes)
            self.own.extend((job, time.monotonic()) for job in ids)

    def cancel(self) -> None:
        job, _ = self.chance.choice(self.own)
        number = self.record.begin("cancel", {"jobs": [name(job)]})
        reply = self._submit(number, _encode((8, [job], "lab")))
        if reply is not None:
            self._answered(number, reply[1], reply[2])
            if reply[2] == [TOLD]:
                self.told.append(job)

    def look_after(self, job: bytes) -> None:
        """See how a job ended, before it is history."""
        if self.read("linearizable", job, time.monotonic()) == "processing":
            self.told.append(job)

    def read(self, consistency: str, job: bytes, known: float) -> "str | None":
        number = self.record.begin("read", {"jobs": [name(job)], "consistency": consistency})
        try:
            index, detail = read(self.client, 3, job, consistency=consistency)
        except RaftworkError as error:
            self.record.failed(number, error)
            return "processing"
        state = None if detail is None else detail["state"]
        if state is None and time.monotonic() - known > HISTORY_S:
            self.record.note(history=name(job))
            return None
        self._answered(number, index, [state])
        return state

    def _submit(self, number: int, command: bytes) -> "list[object] | None":
        try:
            reply: list[object] = _decode(self.client.submit(command, SUBMIT_S))
        except RaftworkError as error:
            self.record.failed(number, error)
            return None
        return reply

    def _answered(self, number: int, index: object, answer: object) -> None:
        assert isinstance(index, int)
        self.record.answered(number, index, answer)
        self.board.count(self.place.slot)


def _told(job: NewJob) -> dict[str, object]:
    return {
        "id": name(job.id),
        "queue": job.spec.queue,
        "delay": job.delay_ms,
        "max_attempts": job.spec.max_attempts,
        "max_crashes": job.spec.max_crashes,
    }


if __name__ == "__main__":
    Client(Place.of_arguments()).run()
