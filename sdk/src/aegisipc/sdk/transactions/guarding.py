"""Watches over a transaction that belongs to AegisIPC: nobody else ends it, or goes on after its end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from aegisipc.sdk.transacting import TransactionMisused

_ENDS: Final = re.compile(
    r"\s*(?:(?:--[^\n]*\n|/\*.*?\*/)\s*)*"
    r"(?:BEGIN|START\s+TRANSACTION|COMMIT|END|ABORT|PREPARE\s+TRANSACTION"
    r"|ROLLBACK(?!\s+(?:(?:TRANSACTION|WORK)\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)
"""Statements that begin or end a transaction, and not only a savepoint."""


class Phase(Enum):
    """How far the block is."""

    OPEN = auto()
    """The handler is in it."""
    LEFT = auto()
    """The handler has left it, and what it did waits for its outcome."""
    OVER = auto()
    """Committed or rolled back."""


class Guard:
    """Lets the handler work on the connection, and tells it when it does what it may not.

    What it did wrong is remembered: to catch the error does not help.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._is_ours = False
        self._listening: list[tuple[Any, str, Any]] = []
        self.phase = Phase.OPEN
        self.fault: TransactionMisused | None = None

    def attach(self, connection: Connection, session: Session) -> None:
        """Begin to watch."""
        self._listening = [
            (connection, "before_cursor_execute", self._on_statement),
            (connection, "begin", self._on_begin),
            (connection, "commit", self._on_commit),
            (connection, "rollback", self._on_rollback),
            (session, "before_commit", self._on_session_commit),
        ]
        for target, name, listener in self._listening:
            event.listen(target, name, listener)

    def detach(self) -> None:
        """Watch no more."""
        listening, self._listening = self._listening, []
        for target, name, listener in listening:
            event.remove(target, name, listener)

    @contextmanager
    def ours(self) -> Iterator[None]:
        """What is done in this block is done by AegisIPC."""
        before, self._is_ours = self._is_ours, True
        try:
            yield
        finally:
            self._is_ours = before

    def check(self) -> None:
        """Check that nothing was done wrong so far.

        Raises:
            TransactionMisused: what was.
        """
        if self.fault is not None:
            raise self.fault

    def misused(self, why: str) -> TransactionMisused:
        """Remember a fault and return it."""
        fault = TransactionMisused(f"cannot commit what {self._target} did: {why}")
        if self.fault is None:
            self.fault = fault
        return fault

    # -- events of SQLAlchemy ---------------------------------------------------------------------------

    def _on_statement(self, connection: object, cursor: object, statement: str, *rest: object) -> None:  # noqa: ARG002
        if self._is_ours:
            return
        if self.phase is not Phase.OPEN:
            raise self.misused(
                "it went on using the session after the block of ctx.transaction; do all work on the "
                "database within the block"
            )
        if _ENDS.match(statement):
            first = statement.split(maxsplit=1)[0]
            raise self.misused(
                f"it executed {first!r} itself, but the transaction ends with the call; leave that out (for "
                "a part that may fail, use session.begin_nested())"
            )

    def _on_session_commit(self, session: Session) -> None:
        if not self._is_ours and not session.in_nested_transaction():
            raise self._committed()

    def _on_commit(self, connection: object) -> None:  # noqa: ARG002
        if not self._is_ours:
            raise self._committed()

    def _committed(self) -> TransactionMisused:
        return self.misused(
            "it called commit() itself, but the transaction is committed with the outcome of the call, when "
            "the handler has returned; leave that out"
        )

    def _on_rollback(self, connection: object) -> None:  # noqa: ARG002
        if not self._is_ours:  # no error here: it may be SQLAlchemy's own, after a statement that failed
            self.misused(
                "its transaction was rolled back on the way, by rollback() or after an error that was "
                "caught; let the error end the handler, or use session.begin_nested() for a part that may "
                "fail"
            )

    def _on_begin(self, connection: object) -> None:  # noqa: ARG002
        if not self._is_ours:
            self.check()
            raise self.misused("it began another transaction; do all work on the database in one block")
