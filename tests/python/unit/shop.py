"""An application at module level, as users write it, for tests that need tasks with stable names."""

from __future__ import annotations

from raftwork import JobContext, Raftwork

app = Raftwork("shop", "memory://?clock=manual")


@app.task
def add(left: int, right: int = 1) -> int:
    return left + right


@app.task(queue="mail", unique="args")
def send(user_id: int, *, template: str = "default") -> str:
    return f"{user_id} {template}"


@app.task
async def ping(url: str) -> str:
    return url


@app.task
def report(ctx: JobContext, tenant: str) -> str:
    return f"{tenant} {ctx.attempt}"
