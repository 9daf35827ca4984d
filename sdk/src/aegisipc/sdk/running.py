"""One run of a handler, as seen from outside: it can be cancelled, and it may work in a transaction."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.transacting import (
    AsyncTransaction,
    Outcome,
    Transaction,
    TransactionMisused,
    TransactionUnsupported,
)


class Run:
    """A handler at work. Made in its task.

    The task may be cancelled for two reasons: the host stops or loses the pen, and then there is no outcome;
    or somebody cancels the call, and then that may be the outcome. Both may happen, in any order: so it is
    counted how often :meth:`cancel` did it.
    """

    # Defaults of the class: one of these is made for every call, and few calls need more than a few of them.
    is_cancelled = False
    author = ""
    reason = ""
    has_begun = False
    """The handler was called."""
    has_ended = False
    """The handler returned or raised: from here on nobody can cancel the call."""
    transaction: AsyncTransaction | Transaction | None = None
    found: Outcome | None = None
    """The outcome that an earlier run of the call stored: the call took effect, and runs no more."""
    _own_cancels = 0

    def __init__(
        self, call: OpenCall, epoch: int, who: Identity, clock: Callable[[], int], *, is_async: bool
    ) -> None:
        self.call = call
        self.epoch = epoch
        self.who = who
        self.clock = clock
        self.is_async = is_async
        self._task = asyncio.current_task()

    # -- cancelling -------------------------------------------------------------------------------------

    def cancel(self, author: str, reason: str) -> bool:
        """Ask the handler to stop; to be called in the event loop. Returns whether it is still running. To
        ask again does nothing.
        """
        if self.has_ended:
            return False
        if not self.is_cancelled:
            self.author, self.reason = author, reason
            self.is_cancelled = True
            if self.is_async and self._task is not None:
                self._own_cancels += 1
                self._task.cancel(f"the call was cancelled by {author}")
        return True

    def raise_if_cancelled(self) -> None:
        """End the handler here if the call is cancelled.

        Raises:
            asyncio.CancelledError: it is.
        """
        if self.is_cancelled:
            raise asyncio.CancelledError(f"the call was cancelled by {self.author}")

    @property
    def is_host_stopping(self) -> bool:
        """The task was cancelled by its host, and not (or not only) by :meth:`cancel`."""
        return self._task is not None and self._task.cancelling() > self._own_cancels

    async def absorb(self) -> None:
        """Take back the cancellation of the task by :meth:`cancel`: it was for the handler, which has ended.
        What follows must not be interrupted by it.
        """
        task, count, self._own_cancels = self._task, self._own_cancels, 0
        if task is None or count == 0:
            return
        for _ in range(count):
            task.uncancel()
        if sys.version_info < (3, 13):  # there, one that was not yet delivered stays
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if task.cancelling() > 0:
                    raise

    # -- transaction ------------------------------------------------------------------------------------

    def open_transaction(self, target: Any) -> Any:
        """Return a context manager that opens the call's transaction on `target`.

        Raises:
            TransactionUnsupported: it cannot be used for that; nothing was opened.
            TransactionMisused: the handler has ended, or there was a transaction already.
        """
        self.check_no_transaction()
        try:
            from aegisipc.sdk.transactions.opening import open_for  # noqa: PLC0415 - SQLAlchemy is optional
        except ImportError as error:
            raise TransactionUnsupported(
                f"cannot open a transaction in {self.target}: {error}; install aegisipc-sdk[sql], and "
                "aegisipc-sdk[postgresql] for PostgreSQL"
            ) from error
        return open_for(self, target)

    def check_no_transaction(self) -> None:
        """Check that a transaction may be opened.

        Raises:
            TransactionMisused: the handler has ended, or there was a transaction already.
        """
        if self.has_ended:
            raise TransactionMisused(
                f"cannot open a transaction: the handler of {self.target} has ended; await all it started "
                "before it returns"
            )
        if self.transaction is not None:
            raise TransactionMisused(
                f"cannot open a second transaction in one call of {self.target}: its effects must be in one, "
                "with its outcome; do everything in one block"
            )

    @property
    def target(self) -> str:
        """What is called, for people."""
        return f"{self.who.service}.{self.call.method}"

    @property
    def call_id(self) -> CallId:
        """Which call."""
        return self.call.call_id

    @property
    def remaining_s(self) -> float:
        """Seconds until the caller's deadline."""
        return (self.call.deadline_ns - self.clock()) / 1e9
