"""A long job that tells how far it is, and goes on where it stopped when it has to run again.

python examples/import_rows.py
"""

from raftwork import JobContext, Raftwork, Retry

app = Raftwork("import")
ROWS = 1_000


@app.task(queue="imports", retry=Retry(5, backoff=["10ms"]), timeout="10m")
def import_rows(ctx: JobContext, source: str) -> int:
    """Read rows from `source`; fails once on the way, to show what happens then."""
    first = ctx.state or 0
    for row in range(first, ROWS):
        ctx.check_cancelled()
        if row % 100 == 0:
            ctx.save(row)  # the next attempt starts here
            ctx.progress(row, ROWS, "rows")
        if row == 450 and ctx.attempt == 1:
            raise ConnectionError("the source went away")
    return ROWS - first


def main() -> None:
    """Run one import with a worker inside this process."""
    with app.running(workers=True):
        job = import_rows.enqueue("customers.csv")
        print("rows of the last attempt:", job.result(timeout=30))
        print("attempts:", job.info().attempt)


if __name__ == "__main__":
    main()
