"""Tasks of an application whose storage and keys come from the environment, so that child processes have them too."""

from __future__ import annotations

import logging
import os
import signal

from raftwork import Cancel, JobContext, Raftwork, Retry, Secret, Unique, current_job

app = Raftwork("vault")
WORD = "tangerine"
"""Part of all that these jobs are given and say."""

once = Retry(1)
twice = Retry(2, backoff="fixed", base="1ms")


@app.task(name="echo", retry=twice)
def echo(ctx: JobContext, text: str, *, numbers: list[int]) -> list[object]:
    """Fails with the text, then answers it, with what the first run saved."""
    if ctx.state is None:
        ctx.progress(1, 2, f"note {text}")
        ctx.save({"state": text})
        raise ValueError(f"message {text}")
    return [text, numbers, ctx.state]


@app.task(name="fail", retry=once, executor="process")
def fail(text: str) -> None:
    """Fails in a child process, with a log line, and an error whose cause has a text too."""
    logging.getLogger("vault").warning("line %s", text)
    current_job().step("fetch", str.title, text)
    try:
        raise KeyError(f"cause {text}")
    except KeyError as error:
        raise RuntimeError(f"message {text}") from error


@app.task(name="crash", max_crashes=1, executor="process")
def crash(text: str) -> None:
    """Dies with a log line."""
    logging.getLogger("vault").warning("line %s", text)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="leave")
async def leave(text: str) -> None:
    """Cancels itself with a reason."""
    raise Cancel(f"reason {text}")


@app.task(name="once", unique=Unique("{text}", window="1h"))
def single(text: str) -> str:
    """Only one for each text."""
    return text


@app.task(name="pay", tags=["pay"])
def pay(ctx: JobContext, token: Secret[str], *, pin: Secret[int] | None = None) -> Secret[str]:
    """Keeps its secret, logs it, and answers it."""
    ctx.save({"token": token})
    ctx.progress(1, 2, f"with {token}")
    ctx.log("paid with %s and %r", token, [pin])
    return Secret(token.reveal().upper())
