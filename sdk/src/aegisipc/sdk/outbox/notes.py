"""What a relay has to note about entries; each note is one change of one row."""

# ruff: noqa: S608 - what is put into SQL here are constants of this package

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from aegisipc.sdk.core.outbox import OPEN, UNSENT, Status
from aegisipc.sdk.outbox.schema import listed

_UNSENT = f"status IN ({listed(UNSENT)})"
_OPEN = f"status IN ({listed(OPEN)})"


class Accepted(NamedTuple):
    """It is a call in the log."""

    entry_id: int
    call_id: str

    def write(self, connection: sqlite3.Connection, now_ns: int) -> None:
        """Note it, unless something later is noted already."""
        connection.execute(
            "UPDATE aegis_outbox SET status = 'accepted', call_id = ?, accepted_ns = ?, trouble = NULL "
            f"WHERE id = ? AND {_UNSENT}",
            (self.call_id, now_ns, self.entry_id),
        )


class Held(NamedTuple):
    """It could not be sent, or nobody knows whether it was accepted; it is tried again. ``call_id``: what it
    would be known by, if it was.
    """

    entry_id: int
    is_uncertain: bool
    trouble: str | None
    call_id: str | None = None

    def write(self, connection: sqlite3.Connection, now_ns: int) -> None:  # noqa: ARG002 - as the others
        """Note it, unless something later is noted already."""
        status = Status.SENDING if self.is_uncertain else Status.WAITING
        connection.execute(
            "UPDATE aegis_outbox SET status = ?, trouble = coalesce(?, trouble), "
            f"call_id = coalesce(?, call_id) WHERE id = ? AND {_UNSENT}",
            (status, self.trouble, self.call_id, self.entry_id),
        )


class Doubted(NamedTuple):
    """It may have run, and the doubt is not over."""

    entry_id: int

    def write(self, connection: sqlite3.Connection, now_ns: int) -> None:  # noqa: ARG002 - as the others
        """Note it, unless something later is noted already."""
        connection.execute(
            "UPDATE aegis_outbox SET status = 'in_doubt' WHERE id = ? AND status = 'accepted'",
            (self.entry_id,),
        )


class Ended(NamedTuple):
    """Nothing more will happen to it. A refusal for good forgets the call id: it never became a call."""

    entry_id: int
    status: Status
    result: bytes | None = None
    error: bytes | None = None
    is_refusal: bool = False

    def write(self, connection: sqlite3.Connection, now_ns: int) -> None:
        """Note it, unless it had an end already."""
        connection.execute(
            "UPDATE aegis_outbox SET status = ?, result = ?, error = ?, finished_ns = ?, "
            f"call_id = iif(?, NULL, call_id) WHERE id = ? AND {_OPEN}",
            (self.status, self.result, self.error, now_ns, self.is_refusal, self.entry_id),
        )


type Note = Accepted | Held | Doubted | Ended
