"""The transaction of one call, from its begin to the commit with the outcome in it.

Written once, as plain functions on SQLAlchemy's plain classes. Threaded handlers use it as it is; for
``async`` ones it runs in SQLAlchemy's greenlets, as all of its asyncio does.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from aegisipc.sdk.failures import shown
from aegisipc.sdk.transacting import (
    Outcome,
    TransactionMisused,
    TransactionUnknown,
    encode_outcome,
)
from aegisipc.sdk.transactions.effect_rows import Effect, database_of
from aegisipc.sdk.transactions.guarding import Guard, Phase

_log = structlog.get_logger("aegisipc.transactions")

LOOKUPS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0)
"""Pauses between attempts to find out whether a commit took place that was not answered."""


class Work:
    """What a handler does in one transaction.

    :meth:`connect` and :meth:`begin`, the handler's own work, :meth:`leave`; then either :meth:`conclude` or
    :meth:`discard`.
    """

    def __init__(self, engine: Engine, session: Session, effect: Effect, target: str) -> None:
        self._engine = engine
        self._database = database_of(engine)
        self._session = session
        self._effect = effect._replace(remaining_s=self._remaining_s)
        self._patience_s = effect.remaining_s
        self._is_abandoned = False
        self._target = target
        self._guard = Guard(target)
        self._connection: Connection | None = None
        self._before: tuple[Any, Any] = (session.bind, session.join_transaction_mode)

    @property
    def may_be_interrupted(self) -> bool:
        """Whether what is done at the database can be cut short. SQLite's is in a thread that goes on: cut
        short, it could take or keep the lock all the same, with nobody there to give it back.
        """
        return self._engine.dialect.name != "sqlite"

    def abandon(self) -> None:
        """Nobody wants it any more: what waits for the database is to give up."""
        self._is_abandoned = True

    def _remaining_s(self) -> float:
        return 0.0 if self._is_abandoned else self._patience_s()

    # -- the block --------------------------------------------------------------------------------------

    def enter(self) -> Outcome | None:
        """Connect and begin; see there."""
        self.connect()
        return self.begin()

    def connect(self) -> None:
        """Get hold of a connection."""
        self._connection = self._engine.connect()

    def begin(self) -> Outcome | None:
        """Begin. Returns the outcome of an earlier run of the call, if there is one: then it is over."""
        connection = self._connection
        if connection is None:
            raise TransactionMisused(f"cannot begin a transaction in {self._target}: it is over")
        found = None
        try:
            found = self._database.begin(connection, self._effect)
            if found is None:
                self._lend(connection)
        except BaseException:
            self.discard()
            raise
        if found is not None:
            self.discard()
        return found

    def _lend(self, connection: Connection) -> None:
        """Let the session work on the connection, but not end its transaction."""
        self._session.bind = connection
        self._session.join_transaction_mode = "rollback_only"
        self._guard.attach(connection, self._session)

    def leave(self, error: BaseException | None) -> None:
        """The handler leaves the block; with an error, everything is rolled back."""
        if self._guard.phase is not Phase.OPEN:
            return
        if error is not None:
            self.discard()
            return
        try:
            self._guard.check()
            self._session.flush()
            self._guard.phase = Phase.LEFT
        except BaseException:
            self.discard()
            raise

    # -- the end ----------------------------------------------------------------------------------------

    def conclude(self, outcome: Outcome) -> Outcome:
        """Store the outcome and commit; return the outcome that counts: it may be that of another run.

        Raises:
            TransactionMisused: the handler did what it may not.
            TransactionUnknown: nobody knows whether it was committed.
            SQLAlchemyError: certainly not committed.
        """
        connection = self._connection
        if self._guard.phase is Phase.OVER or connection is None:  # rolled back by an error that was caught
            return outcome
        try:
            self._check_left()
            with self._guard.ours():
                self._database.store(connection, self._effect, encode_outcome(outcome))
        except BaseException:
            self.discard()
            raise
        try:
            with self._guard.ours():
                self._database.commit(connection, self._effect)
        except Exception as error:
            self.discard()
            found = self._found_after(error)
            if found is None:
                raise
            return found
        self._guard.phase = Phase.OVER
        self._give_back()
        return outcome

    def _check_left(self) -> None:
        self._guard.check()
        if self._guard.phase is Phase.OPEN:
            raise TransactionMisused(
                f"cannot commit what {self._target} did: it returned, but the block of ctx.transaction has "
                "not been left; await all that was started in it"
            )
        session = self._session
        if session.new or session.deleted or session.dirty:
            raise TransactionMisused(
                f"cannot commit what {self._target} did: it changed objects of the session after the block "
                "of ctx.transaction; do all work on the database within the block"
            )

    def _found_after(self, error: Exception) -> Outcome | None:
        """After a commit that failed: the outcome, if it was committed after all; ``None`` if certainly not.

        The row is asked for as by a run of the call: should the server still be busy with the commit, that
        waits for its end.
        """
        for pause_s in (0.0, *LOOKUPS_S):
            self._effect.pause(pause_s)
            try:
                with self._engine.connect() as connection:
                    try:
                        return database_of(self._engine).begin(connection, self._effect)
                    finally:
                        with suppress(SQLAlchemyError):
                            self._database.rollback(connection)
            except (SQLAlchemyError, OSError) as again:
                _log.warning("commit_unknown", call=self._effect.call_id, error=shown(again, 400))
        raise TransactionUnknown(
            f"cannot say whether {self._target} took effect: the database failed during the commit "
            f"({shown(error, 400)}), and has not answered since. If the call is run again, it takes effect "
            "only if it has not yet",
            call_id=self._effect.call_id,
        ) from error

    def discard(self) -> None:
        """Roll back, if it is not over. Never raises but for a cancellation."""
        if self._guard.phase is not Phase.OVER:
            self._guard.phase = Phase.OVER
            self._give_back()

    # -- the connection ---------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """Part the session from the connection, and the connection from its transaction."""
        connection, self._connection = self._connection, None
        try:
            with self._guard.ours(), suppress(SQLAlchemyError, OSError):
                self._session.close()
        finally:
            self._guard.detach()
            self._session.bind, self._session.join_transaction_mode = self._before
            if connection is not None:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        try:
            if not connection.invalidated:
                self._database.rollback(connection)
            connection.close()
        except (DBAPIError, SQLAlchemyError, OSError):  # a connection that fails at this is of no more use
            with suppress(SQLAlchemyError, OSError):
                connection.invalidate()
                connection.close()
