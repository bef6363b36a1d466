"""The application of the demo. Its worker processes import this module, as those of any application."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from raftwork.app import Raftwork
from raftwork.cli.demo.ledger import Executions
from raftwork.context import JobContext

__all__ = ["BROKEN", "LEDGER", "QUEUE", "app", "send_welcome", "settle_invoice"]

QUEUE = "demo"
# Names the file to which executions are written. The storage comes from RAFTWORK_STORAGE, as for any application.
LEDGER = "RAFTWORK_DEMO_LEDGER"
# A file beside the ledger. While it exists, invoices cannot be settled.
BROKEN = "broken"
# A job takes at least so long, as if it had called another server.
CALL_S = 0.002

app = Raftwork("demo")
_executions: Executions | None = None
_never = threading.Event()


def executions() -> Executions:
    """Where this process writes down what it runs."""
    global _executions
    if _executions is None:
        _executions = Executions(Path(os.environ[LEDGER]))
    return _executions


@app.task(queue=QUEUE, retry=5, max_crashes=20)
def send_welcome(ctx: JobContext, customer: int) -> None:
    """Works always."""
    ledger = executions()
    ledger.note("start", str(ctx.id), ctx.token)
    _never.wait(CALL_S)
    ledger.note("done", str(ctx.id), ctx.token)


@app.task(queue=QUEUE, retry=1, max_crashes=20)
def settle_invoice(ctx: JobContext, invoice: int) -> None:
    """Fails in two ways, as long as the file `BROKEN` exists."""
    ledger = executions()
    ledger.note("start", str(ctx.id), ctx.token)
    if Path(os.environ[LEDGER]).with_name(BROKEN).exists():
        ledger.note("failed", str(ctx.id), ctx.token)
        if invoice % 6 == 0:
            raise ValueError(f"invoice {invoice} has no address")
        raise ConnectionError("bank.example.org: connection refused")
    ledger.note("done", str(ctx.id), ctx.token)
