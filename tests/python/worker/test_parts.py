"""The small parts of the worker: interrupting a thread, calling at a time, messages over a pipe, planning lanes."""

from __future__ import annotations

import queue
import socket
import sys
import threading
from functools import partial

import pytest

from raftwork.worker.guard import Interrupt, ThreadGuard, call_guarded
from raftwork.worker.pipe import MESSAGE_BYTES_MAX, Pipe, PipeClosed
from raftwork.worker.timekeeper import ENTRIES_LEAST, Timekeeper


def test_a_guard_interrupts_the_thread_that_runs() -> None:
    entered, outcome = queue.SimpleQueue[ThreadGuard](), queue.SimpleQueue[str]()

    def forever() -> None:
        while True:
            pass

    def work() -> None:
        guard = ThreadGuard()
        entered.put(guard)
        try:
            call_guarded(guard, forever)
        except Interrupt:
            outcome.put("interrupted")

    threading.Thread(target=work, daemon=True).start()
    assert entered.get(timeout=10).interrupt()
    assert outcome.get(timeout=10) == "interrupted"


def test_an_interrupt_never_hits_what_comes_after_the_job() -> None:
    current: list[ThreadGuard] = []
    strays: list[int] = []
    done = threading.Event()

    def attack() -> None:
        while not done.is_set():
            if current:
                current[-1].interrupt()

    def work() -> None:
        for number in range(3_000):
            guard = ThreadGuard()
            current[:] = [guard]
            try:
                try:
                    call_guarded(guard, lambda: sum(range(200)))
                except Interrupt:
                    pass
                sum(range(50))  # The worker's own code.
            except Interrupt:
                strays.append(number)
        done.set()

    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=attack), threading.Thread(target=work)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    assert strays == []


def test_a_guard_that_was_left_refuses() -> None:
    guard = ThreadGuard()
    assert call_guarded(guard, lambda: 7) == 7
    assert not guard.interrupt()


def test_the_timekeeper_calls_in_order_and_survives_a_failing_call() -> None:
    keeper, called = Timekeeper(), queue.SimpleQueue[str]()

    def fail() -> None:
        called.put("failed")
        raise ValueError("on purpose")

    gate = threading.Event()
    keeper.after(
        0, lambda: gate.wait(10) and None
    )  # Nothing is called before all is entered, however slow the machine is.
    keeper.after(1.2, lambda: called.put("late"))
    keeper.after(0.6, fail)
    keeper.after(0, lambda: called.put("early"))
    keeper.after(0.1, lambda: called.put("never")).cancel()
    gate.set()
    assert [called.get(timeout=10) for _ in range(3)] == ["early", "failed", "late"]
    keeper.close()
    keeper.after(0, lambda: called.put("closed"))
    assert called.empty()


def test_the_timekeeper_does_not_keep_what_was_cancelled() -> None:
    keeper, called = Timekeeper(), queue.SimpleQueue[int]()
    hours = [keeper.after(3_600, lambda: None) for _ in range(1_500)]
    longest = 0
    for _ in range(20_000):  # As jobs with a time-out that end at once.
        keeper.after(3_600, lambda: None).cancel()
        longest = max(longest, len(keeper._heap))
    assert longest <= 2 * len(hours) + ENTRIES_LEAST
    for number in (2, 0, 1):
        keeper.after(0.2 * number, partial(called.put, number))
    assert [called.get(timeout=10) for _ in range(3)] == [0, 1, 2], "it still calls in order"
    assert all(entry.call is not None for entry in hours)
    for entry in hours:
        entry.cancel()
    while len(keeper._heap) > ENTRIES_LEAST:
        keeper.after(3_600, lambda: None).cancel()
    keeper.close()


def test_a_pipe_carries_whole_messages_and_tells_its_end() -> None:
    ours, theirs = (Pipe(end) for end in socket.socketpair())
    large = b"x" * (1 << 20)
    sender = threading.Thread(target=lambda: (ours.send("job", large, None), ours.send("exit"), ours.close()))
    sender.start()
    assert theirs.receive() == ["job", large, None]
    assert theirs.receive() == ["exit"]
    with pytest.raises(PipeClosed):
        theirs.receive()
    sender.join()
    with pytest.raises(PipeClosed):
        theirs.send("late")
        theirs.send("late")
    theirs.close()


def test_a_pipe_refuses_what_is_too_large() -> None:
    ours, theirs = (Pipe(end) for end in socket.socketpair())
    with pytest.raises(ValueError, match="larger"):
        ours.send(b"x" * (MESSAGE_BYTES_MAX + 1))
    ours.close()
    theirs.close()
