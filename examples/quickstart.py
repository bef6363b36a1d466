"""One file: a task, a worker inside the process, and a result. Run it twice: the jobs of the first run are still there.

python examples/quickstart.py
"""

from raftwork import Raftwork

app = Raftwork("quickstart")


@app.task(retry=5)
def word_count(text: str) -> int:
    """How many words a text has."""
    return len(text.split())


def main() -> None:
    """Enqueue three jobs and wait for them."""
    with app.running(workers=True):
        jobs = [word_count.enqueue(line) for line in ("a", "a b", "a b c")]
        print("results:", [job.result(timeout=30) for job in jobs])
        print("jobs so far:", app.counts()["created"])


if __name__ == "__main__":
    main()
