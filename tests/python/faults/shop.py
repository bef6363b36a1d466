"""The application under fault: what the load, the workers and the web server of these tests import.

Where it stores is told by `RAFTWORK_STORAGE`; where its jobs write what they did, by `LEDGER`.
"""

import os

from raftwork import Raftwork

app = Raftwork("shop")


@app.task(max_crashes=1000)
def record(number: int) -> int:
    """Append the number to the ledger, in one write, and give it back."""
    descriptor = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b"%d\n" % number)
    finally:
        os.close(descriptor)
    return number
