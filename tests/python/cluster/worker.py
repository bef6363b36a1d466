"""A process that claims jobs, runs them and says so until the board says stop, and records each operation.

A run is a line in the outside ledger, `job token attempt process time`, written before its end is reported. The file is
what a job with effects would write to: who reads it can tell each run by its token.

A claim or an end without an answer leaves in doubt what the session holds. The worker then ends it and opens another
one. It also reads what became of the jobs whose end was not answered, before they are history. If it was killed, the
next process of its place does that: the jobs stand in a file.

python -m cluster.worker SLOT PROCESS NODES FOLDER
"""

import os
import random
import time

import msgspec

from cluster.parts import FUNCTION, HISTORY_S, QUEUE, SUBMIT_S, Place, connect, name, read
from cluster.recording import Board, Recorder
from raftwork.errors import OutcomeUnknown, RaftworkError, SessionExpired
from raftwork.storage.records import ClaimedJob, result_succeeded

JOBS_MAX = 16
IDLE_S = 0.02
RUN_S = 0.02
"""The longest run of a batch of jobs."""

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode
_decode_claimed = msgspec.msgpack.Decoder(tuple[int, int, list[ClaimedJob]]).decode


class Held(msgspec.Struct):
    """What a worker holds, as the next process of its place finds it."""

    session: int
    at: float = 0.0
    """When the end of the jobs was told."""
    jobs: list[bytes] = []
    """Jobs whose end was told and not answered so far."""


class Worker:
    """One thread that works, one batch of jobs after the other."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.board = Board(place.folder / "board")
        self.record = Recorder(place.history, place.process)
        self.chance = random.Random(place.process)
        self.ledger = os.open(place.folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.held_file = place.folder / f"held-{place.slot}"
        before = msgspec.msgpack.decode(self.held_file.read_bytes(), type=Held) if self.held_file.exists() else None
        self.client = connect(place.nodes, "worker")
        self.held = Held(0)
        self._open()
        if before is not None:
            self._look_after(before)

    def run(self) -> None:
        while not self.board.workers_stop:
            if not self.work():
                time.sleep(IDLE_S)
        self._close(self.held.session)
        self.client.close(5.0)

    def work(self) -> bool:
        """Claim once and run what was given; false if that was nothing."""
        session = self.held.session
        number = self.record.begin("claim", {"session": session, "queues": [QUEUE], "max": JOBS_MAX})
        try:
            claim = _encode((5, session, [(QUEUE, 1)], False, [FUNCTION], JOBS_MAX))
            _, index, jobs = _decode_claimed(self.client.submit(claim, SUBMIT_S))
        except RaftworkError as error:
            self._in_doubt(number, error)
            return False
        leases = [
            {"job": name(job.id), "token": job.token, "attempt": job.attempt, "crashes": job.crashes} for job in jobs
        ]
        self.record.answered(number, index, leases)
        if not jobs:
            return False
        self.board.count(self.place.slot)
        self._write_down(jobs)
        time.sleep(self.chance.random() * RUN_S)
        self._finish(jobs)
        return True

    def _write_down(self, jobs: list[ClaimedJob]) -> None:
        """What the jobs do: a line each, all in one write."""
        end = f"{self.place.process} {time.monotonic_ns()}\n"
        os.write(self.ledger, "".join(f"{name(job.id)} {job.token} {job.attempt} {end}" for job in jobs).encode())

    def _finish(self, jobs: list[ClaimedJob]) -> None:
        self._hold(Held(self.held.session, time.monotonic(), [job.id for job in jobs]))
        number = self.record.begin("finish", {"results": [{"job": name(job.id), "token": job.token} for job in jobs]})
        results = [msgspec.Raw(result_succeeded(job.id, job.token, None)) for job in jobs]
        try:
            _, index, codes = _decode(self.client.submit(_encode((6, results)), SUBMIT_S))
        except RaftworkError as error:
            self._in_doubt(number, error)
            return
        self.record.answered(number, index, codes)
        self.held.jobs = []
        self.board.count(self.place.slot)

    def _in_doubt(self, number: int, error: RaftworkError) -> None:
        self.record.failed(number, error)
        if not isinstance(error, OutcomeUnknown | SessionExpired):
            return
        old, before = self.client, self.held
        self.client = connect(self.place.nodes, "worker")
        self._open()
        self._look_after(before)
        self._close(before.session)
        old.close(0.0)

    def _open(self) -> None:
        self._hold(Held(self.client.session()))

    def _hold(self, held: Held) -> None:
        self.held = held
        # Under another name first: a kill leaves the old content or the new one.
        fresh = self.held_file.with_suffix(".new")
        fresh.write_bytes(msgspec.msgpack.encode(held))
        fresh.rename(self.held_file)

    def _look_after(self, before: Held) -> None:
        """Read what became of the jobs whose end was told without an answer."""
        for job in before.jobs:
            began = time.monotonic_ns()
            try:
                index, detail = read(self.client, 3, job)
            except RaftworkError:
                continue
            state = None if detail is None else detail["state"]
            if state is not None or time.monotonic() - before.at < HISTORY_S:
                self.record.saw(began, "read", {"jobs": [name(job)]}, index, [state])

    def _close(self, session: int) -> None:
        """End a session, if it has not ended by itself."""
        number = self.record.begin("close", {"session": session})
        try:
            _, index, _ = _decode(self.client.submit(_encode((2, session)), SUBMIT_S))
            self.record.answered(number, index, True)
        except RaftworkError as error:
            self.record.failed(number, error)


if __name__ == "__main__":
    Worker(Place.of_arguments()).run()
