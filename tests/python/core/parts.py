"""What the processes of the tests do: `parts.py PART ARGUMENT...`. Not imported by anything."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time

from core import wires
from raftwork import _core


def say(*words: object) -> None:
    print(*words, flush=True)


def open_client(path: str, ttl_ms: int = 15_000) -> _core.Client:
    return _core.Client.open(path, wires.pack({"ttl_ms": ttl_ms}))


def serve(path: str, ttl_ms: str = "15000") -> None:
    """Opens the directory and does what it is told, line by line."""
    client = open_client(path, int(ttl_ms))
    fetchers: list[_core.Fetcher] = []
    say(client.role())
    for line in sys.stdin:
        verb, *words = line.split()
        if verb == "role":
            say(client.role())
        elif verb == "enqueue":
            say(wires.enqueue_one(client).hex())
        elif verb == "claim":
            if not fetchers:
                fetchers.append(client.fetcher(wires.wish()))
            job = fetchers[0].next(20)
            assert job is not None
            say(wires.lease(job)[0].hex())
        elif verb == "events":
            say(*(name for name, _job, _token in fetchers[0].events(float(words[0]))))
        elif verb == "fenced":
            say(fetchers[0].fenced())
        elif verb == "fork":
            # A child that does nothing and outlives its parent.
            child = os.fork()
            if child == 0:
                signal.pause()
            say(child)
        elif verb == "break":
            # From now on this process cannot write behind the first bytes of any file.
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
            say("broken")
        elif verb == "close":
            client.close(10)
            say("closed")


def write_until_killed(path: str) -> None:
    """Enqueues one job after the other and says each id when it is acknowledged."""
    client = open_client(path)
    say(client.role())
    while True:
        say(wires.enqueue_one(client).hex(), time.monotonic())


def exit_with_waiters(path: str) -> None:
    """Ends while threads wait inside the core."""
    client = open_client(path) if path else _core.Client.memory()
    fetcher = client.fetcher(wires.wish())
    job = wires.enqueue_one(client, queue="other")
    waiting = threading.Barrier(4)

    def wait(call: object, *args: object) -> None:
        waiting.wait()
        call(*args)  # type: ignore[operator]

    for call, args in [(fetcher.next, (None,)), (fetcher.events, (None,)), (client.wait, (job, None))]:
        threading.Thread(target=wait, args=(call, *args), daemon=True).start()
    waiting.wait()
    say("ending")
    sys.exit(7)


def interrupted(kind: str) -> None:
    """Waits on the main thread until Ctrl-C."""
    client = _core.Client.memory()
    fetcher = client.fetcher(wires.wish())
    job = wires.enqueue_one(client, queue="other")
    waits = {
        "next": lambda: fetcher.next(None),
        "events": lambda: fetcher.events(None),
        "wait": lambda: client.wait(job, None),
        "finish_and_next": lambda: fetcher.finish_and_next(wires.pack([job, 1, 4]), None),
    }
    begun = time.monotonic()
    try:
        say("waiting")
        waits[kind]()
    except KeyboardInterrupt:
        say("interrupted", time.monotonic() - begun)
        client.close(5)


PARTS = {part.__name__: part for part in (serve, write_until_killed, exit_with_waiters, interrupted)}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
