"""A WSGI application over the shop, for prefork servers: the app is made before the fork, the storage after it."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from faults.shop import record


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`/NUMBER` enqueues one job and answers its id and the process that stored it."""
    job = record.enqueue(int(environ["PATH_INFO"].strip("/")))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {job.id}".encode()]
