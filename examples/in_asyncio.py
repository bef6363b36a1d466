"""Coroutines as jobs, inside a program that runs on asyncio. A web application does the same in its lifespan.

python examples/in_asyncio.py
"""

import asyncio

from raftwork import Raftwork

app = Raftwork("asyncio-example")


@app.task
async def fetch(number: int) -> int:
    """Stands for a request to somewhere else."""
    await asyncio.sleep(0.01)
    return number * number


async def main() -> None:
    """A hundred jobs at once on one event loop."""
    async with app.running(workers=True):
        jobs = await app.aenqueue_many(fetch.s(number) for number in range(100))
        print("sum:", sum([await job.aresult(30) for job in jobs]))


if __name__ == "__main__":
    asyncio.run(main())
