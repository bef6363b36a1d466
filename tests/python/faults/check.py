"""A process that opens the storage and says which of the jobs on its standard input are lost.

A line is the id of a job that must be known, or an id and a number: a job that must have succeeded with this result,
be it in memory or in the archive. What health tells of lost history is said too.

python -m faults.check < lines
"""

import sys
import uuid

from faults.shop import app
from raftwork import JobNotFound, JobState


def is_there(identity: str, *result: str) -> bool:
    try:
        info = app.job(uuid.UUID(identity)).info()
    except JobNotFound:
        return False
    return not result or (info.state is JobState.SUCCEEDED and str(info.result) == result[0])


def main() -> None:
    with app:
        lost = [job[0] for job in map(str.split, sys.stdin) if not is_there(*job)]
        history_lost = app.health()["archive"].get("lost")
    told = [f"health: {history_lost}"] if history_lost else []
    print(" ".join([f"lost {len(lost)}", *lost[:5], *told]))


if __name__ == "__main__":
    main()
