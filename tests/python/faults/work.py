"""A process that enqueues and works until it is killed, and says each finished job on its standard output.

One line an acknowledged job, `ack NUMBER ID`, as in `load`; and one line a finished one, `done NUMBER ID`, written only
after `result` returned. The batches are large enough that the archive takes jobs out of memory meanwhile.

    python -m faults.work FIRST_NUMBER
"""

import itertools
import os
import sys

from faults.shop import app, record

BATCH = 500


def main() -> None:
    first = int(sys.argv[1])
    with app.running(workers=True, threads=8):
        os.write(1, b"ready\n")
        for start in itertools.count(first, BATCH):
            jobs = app.enqueue_many(record.s(number) for number in range(start, start + BATCH))
            for number, job in enumerate(jobs, start):
                os.write(1, f"ack {number} {job.id}\n".encode())
            for job in jobs:
                os.write(1, f"done {job.result(timeout=60)} {job.id}\n".encode())


if __name__ == "__main__":
    main()
