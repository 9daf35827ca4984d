"""From what a handler gives to ``ctx.transaction`` to the context manager that it gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.util import await_only, greenlet_spawn

from aegisipc.eventstore.ids import format_call_id
from aegisipc.sdk.running import Run
from aegisipc.sdk.transacting import (
    Outcome,
    OutcomeFound,
    TransactionMisused,
    TransactionUnsupported,
)
from aegisipc.sdk.transactions.effect_rows import Effect
from aegisipc.sdk.transactions.work import Work

_ASYNC_TARGETS: Final = "an AsyncEngine, an AsyncSession or an async_sessionmaker"
_PLAIN_TARGETS: Final = "an Engine, a Session or a sessionmaker"
_ending: set[asyncio.Task[Any]] = set()
"""What goes on even if whoever waits for it is cancelled."""


def open_for(run: Run, target: Any) -> BlockingBlock | AsyncBlock:
    """Return the block for `target`; nothing is begun yet.

    Raises:
        TransactionUnsupported: `target` does not fit the handler, or its database is not supported.
        TransactionMisused: the session is in use already.
    """
    if isinstance(target, AsyncEngine | AsyncSession | async_sessionmaker):
        if not run.is_async:
            raise _wrong_kind(run, target, "a handler that is a plain function", _PLAIN_TARGETS)
        opened = _async_session(target)
        return AsyncBlock(run, opened, _work(run, opened.sync_session, _pause_async))
    if isinstance(target, Engine | Session | sessionmaker):
        if run.is_async:
            raise _wrong_kind(run, target, "an async handler", _ASYNC_TARGETS)
        session = _session(target)
        return BlockingBlock(run, session, _work(run, session, time.sleep))
    raise _wrong_kind(run, target, "a handler", _ASYNC_TARGETS if run.is_async else _PLAIN_TARGETS)


def _wrong_kind(run: Run, target: object, handler: str, wanted: str) -> TransactionUnsupported:
    return TransactionUnsupported(
        f"cannot open a transaction in {run.target} on a {type(target).__name__}: {handler} gives {wanted} "
        "of SQLAlchemy to ctx.transaction"
    )


def _async_session(target: AsyncEngine | AsyncSession | async_sessionmaker[AsyncSession]) -> AsyncSession:
    if isinstance(target, AsyncSession):
        return target
    return AsyncSession(target, expire_on_commit=False) if isinstance(target, AsyncEngine) else target()


def _session(target: Engine | Session | sessionmaker[Session]) -> Session:
    if isinstance(target, Session):
        return target
    return Session(target, expire_on_commit=False) if isinstance(target, Engine) else target()


def _work(run: Run, session: Session, pause: Any) -> Work:
    engine = session.bind
    if not isinstance(engine, Engine) or getattr(session, "_Session__binds", None) or session.twophase:
        raise TransactionUnsupported(
            f"cannot open a transaction in {run.target}: the session must work on one engine, given as its "
            "bind, and without two-phase commit; what it changes elsewhere could not be in the transaction"
        )
    if session.in_transaction():
        raise TransactionMisused(
            f"cannot open a transaction in {run.target}: the session is in one already; give it to "
            "ctx.transaction before anything else, or give the engine"
        )
    effect = Effect(
        format_call_id(run.call_id),
        run.who.service,
        run.call.method,
        run.who.instance,
        run.epoch,
        run.clock(),
        lambda: run.remaining_s,
        pause,
    )
    return Work(engine, session, effect, run.target)


def _pause_async(seconds: float) -> None:
    await_only(asyncio.sleep(seconds))


def _found(run: Run, outcome: Outcome) -> OutcomeFound:
    run.found = outcome
    return OutcomeFound(f"call {format_call_id(run.call_id)} took effect before")


class BlockingBlock:
    """``with ctx.transaction(…) as session``, in a handler that is a plain function."""

    def __init__(self, run: Run, session: Session, work: Work) -> None:
        self._run = run
        self._session = session
        self._work = work

    def __enter__(self) -> Session:
        self._run.check_no_transaction()
        self._run.transaction = self
        outcome = self._work.enter()
        if outcome is not None:
            raise _found(self._run, outcome)
        return self._session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.leave(error)

    def conclude(self, outcome: Outcome) -> Outcome:
        """Store the outcome and commit; see :meth:`Work.conclude`."""
        return self._work.conclude(outcome)

    def discard(self) -> None:
        """Roll back, if it is not over."""
        self._work.discard()


class AsyncBlock:
    """``async with ctx.transaction(…) as session``, in an ``async`` handler."""

    def __init__(self, run: Run, session: AsyncSession, work: Work) -> None:
        self._run = run
        self._session = session
        self._work = work
        self._beginning: asyncio.Task[Any] | None = None
        self._is_concluding = False

    async def __aenter__(self) -> AsyncSession:
        self._run.check_no_transaction()
        self._run.transaction = self
        # Connecting must not be interrupted: drivers lose hold of a connection that is half made.
        await self._uninterrupted(greenlet_spawn(self._work.connect))
        begin = greenlet_spawn(self._work.begin)
        outcome = await (begin if self._work.may_be_interrupted else self._uninterrupted(begin))
        if outcome is not None:
            raise _found(self._run, outcome)
        return self._session

    async def _uninterrupted[T](self, work: Coroutine[Any, Any, T]) -> T:
        self._beginning = task = _kept(work)
        return await asyncio.shield(task)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            leave = greenlet_spawn(self._work.leave, None)
            await (leave if self._work.may_be_interrupted else self._uninterrupted(leave))
        else:
            await asyncio.shield(_kept(greenlet_spawn(self._work.leave, error)))

    async def conclude(self, outcome: Outcome) -> Outcome:
        """Store the outcome and commit; see :meth:`Work.conclude`. If this is cancelled, it goes on: a
        connection that was left amid a commit would be of no more use.
        """
        self._is_concluding = True
        return await asyncio.shield(_kept(greenlet_spawn(self._work.conclude, outcome)))

    async def discard(self) -> None:
        """Roll back, if it is not over, nor about to be committed."""
        if not self._is_concluding:
            await asyncio.shield(_kept(self._discard()))

    async def _discard(self) -> None:
        self._work.abandon()
        if self._beginning is not None:
            await asyncio.wait([self._beginning])
        await greenlet_spawn(self._work.discard)


def _kept[T](work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run it to its end, even if nobody waits for it any more."""
    task = asyncio.ensure_future(work)
    _ending.add(task)
    task.add_done_callback(_let_go)
    return task


def _let_go(task: asyncio.Task[Any]) -> None:
    _ending.discard(task)
    if not task.cancelled():
        task.exception()  # seen: whoever waited for it may be gone
