"""Log lines of running jobs: asked of the fetcher that holds the job, whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Callable

from raftwork.storage.base import ClaimedJob, Fetcher, LinesStanding, RunLines, Storage
from raftwork.testing.conformance.making import PATIENCE, Contract, Worker, fetch, fetching, put

UNKNOWN_SESSION = 2**40


def asked(storage: Storage, fetcher: Fetcher, job: ClaimedJob, start: int = 0) -> Callable[[], RunLines]:
    """Ask from another thread; return when the fetcher has heard of it, with what waits for the answer."""
    found: list[RunLines] = []
    session = fetcher.session()
    thread = threading.Thread(target=lambda: found.append(storage.run_lines(job.id, session, job.token, start)))
    thread.start()
    assert fetcher.events(PATIENCE) == [("lines", job.id, job.token)]

    def answer() -> RunLines:
        thread.join(PATIENCE)
        return found[0]

    return answer


class LinesContract(Contract):
    """`run_lines` and `Fetcher.tell_lines`."""

    def test_the_fetcher_of_a_job_is_asked_and_tells(self, storage: Storage) -> None:
        put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            answer = asked(storage, fetcher, job)
            fetcher.tell_lines(job.id, job.token, ["one", "zwei ü"])
            assert answer() == RunLines(LinesStanding.TOLD, 0, ["one", "zwei ü"], "")

    def test_only_lines_from_a_number_on_are_told(self, storage: Storage) -> None:
        put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            for start, first, lines in ((6, 6, ["six"]), (7, 7, []), (2, 5, ["five", "six"])):
                answer = asked(storage, fetcher, job, start)
                fetcher.tell_lines(job.id, job.token, ["five", "six"], 5)
                assert answer() == RunLines(LinesStanding.TOLD, first, lines, "")

    def test_a_fetcher_that_does_not_run_the_job_says_so(self, storage: Storage) -> None:
        put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            answer = asked(storage, fetcher, job)
            fetcher.tell_lines(job.id, job.token, None)
            assert answer().standing is LinesStanding.NOT_RUNNING

    def test_of_too_many_lines_the_newest_are_told(self, storage: Storage) -> None:
        put(storage)
        lines = [f"{number:<1000}" for number in range(500)]
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            answer = asked(storage, fetcher, job)
            fetcher.tell_lines(job.id, job.token, lines)
            _, first, told, _ = answer()
            assert 200 < len(told) < 300
            assert told == lines[first:]

    def test_without_a_connection_of_the_session_there_are_none(self, storage: Storage) -> None:
        id = put(storage)
        silent = Worker(storage)  # It has a session, and nothing that would hear.
        job = silent.one()
        for session in (silent.session, UNKNOWN_SESSION):
            assert storage.run_lines(id, session, job.token).standing is LinesStanding.NOT_CONNECTED

    def test_lines_that_nobody_asks_for_go_nowhere(self, storage: Storage) -> None:
        put(storage)
        with fetching(storage) as fetcher:
            job = fetch(fetcher)
            fetcher.tell_lines(job.id, job.token, ["one"])
            assert fetcher.events(0.02) == []
