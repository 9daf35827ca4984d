"""A durable outbox: calls written in the application's own transaction, and submitted once, whatever fails.

::

    from aegisipc.sdk.outbox import Outbox

    outbox = Outbox("desk.db")
    with sqlite3.connect("desk.db") as database:
        database.execute("INSERT INTO orders …")
        outbox.add(database, "orders.place", order, resource_id="acc_1")

    async with connect() as client, outbox.relay(client):
        ...

See ``docs/outbox.md``.
"""

from __future__ import annotations

from aegisipc.sdk.core.outbox import Backoff, Status
from aegisipc.sdk.outbox.entries import Entry, Ticket
from aegisipc.sdk.outbox.errors import (
    OutboxCorrupted,
    OutboxEntryExpired,
    OutboxEntryUnknown,
    OutboxError,
    OutboxFull,
    OutboxKeyConflict,
    OutboxLocked,
    OutboxMisused,
    OutboxTimeout,
    OutboxUnavailable,
)
from aegisipc.sdk.outbox.outbox import Outbox
from aegisipc.sdk.outbox.relay import Relay, RelayOptions

__all__ = [
    "Backoff",
    "Entry",
    "Outbox",
    "OutboxCorrupted",
    "OutboxEntryExpired",
    "OutboxEntryUnknown",
    "OutboxError",
    "OutboxFull",
    "OutboxKeyConflict",
    "OutboxLocked",
    "OutboxMisused",
    "OutboxTimeout",
    "OutboxUnavailable",
    "Relay",
    "RelayOptions",
    "Status",
    "Ticket",
]
