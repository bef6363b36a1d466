"""Jobs enqueued inside a transaction of the user's own SQL database, and relayed from there into the storage.

`writing` puts a row into the table `raftwork_outbox` over a connection of the user; `row` is what it holds;
`databases` is the SQL of the relay's own connection; `relay` moves rows into the storage.
"""

from raftwork.outbox.databases import Database, database_of
from raftwork.outbox.relay import Outbox, OutboxStatus, RefusedJob, Relay
from raftwork.outbox.row import pack_row
from raftwork.outbox.writing import Writer, writer_of

__all__ = [
    "Database",
    "Outbox",
    "OutboxStatus",
    "RefusedJob",
    "Relay",
    "Writer",
    "database_of",
    "pack_row",
    "writer_of",
]
