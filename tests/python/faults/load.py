"""A process that enqueues until it is killed and says each acknowledged job on its standard output.

One line an acknowledged job, `ack NUMBER ID`, written in one call and only after `enqueue` returned. Its
reader is outside the faulted file system, so what was said is what a customer was told.

    python -m faults.load FIRST_NUMBER THREADS PAUSE_MS

The pause between two calls of a thread is the offered rate; 0 is as fast as it goes.
"""

import itertools
import os
import sys
import threading
import time

from faults.shop import app, record


def enqueue_for_ever(numbers: "itertools.count[int]", pause_s: float) -> None:
    while True:
        time.sleep(pause_s)
        number = next(numbers)
        job = record.enqueue(number)
        os.write(1, f"ack {number} {job.id}\n".encode())


def main() -> None:
    first, threads, pause_ms = (int(argument) for argument in sys.argv[1:4])
    app.open()
    os.write(1, b"ready\n")
    runners = [
        threading.Thread(
            target=enqueue_for_ever, args=(itertools.count(first + slot, threads), pause_ms / 1000), daemon=True
        )
        for slot in range(threads)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()


if __name__ == "__main__":
    main()
