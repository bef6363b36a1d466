"""A process that works until the jobs whose ids are on its standard input are finished.

python -m faults.finish < ids
"""

import sys

from faults.shop import app


def main() -> None:
    with app.running(workers=True, threads=8):
        for identity in sys.stdin.read().split():
            app.job(identity).result(timeout=60)
        counts = app.counts()
    print(counts["crashes"] + counts["released"])


if __name__ == "__main__":
    main()
