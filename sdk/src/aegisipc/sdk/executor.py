"""Runs handlers: reads arguments, calls the function, turns what comes out into a mark and bytes.

What a handler emitted goes with its success and with nothing else. If it worked in a transaction, that is
committed here, with the outcome in it, once the result is known to be good.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

import structlog

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.sdk.context import Context
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, Identity
from aegisipc.sdk.emitting import Emitter, refusing, size_bytes
from aegisipc.sdk.errors import ServiceError
from aegisipc.sdk.failures import (
    OWN_ERRORS,
    cancelled,
    failure,
    of_arguments,
    of_handler,
    of_result,
    shown,
    stack_of,
    too_large,
)
from aegisipc.sdk.large_bodies import LargeBodies, NotFetched, NotStored, ObjectStore
from aegisipc.sdk.method import ArgumentsRejected, Method
from aegisipc.sdk.running import Run
from aegisipc.sdk.service import Service
from aegisipc.sdk.state import SharedState
from aegisipc.sdk.transacting import AsyncTransaction, Outcome, Transaction

_log = structlog.get_logger("aegisipc.service")

_CLOSED_CHECK_S: Final = 0.5
"""How often a thread that waits for the event loop looks whether the executor is closed."""


class Done(NamedTuple):
    """How a call ended: its mark, its result or error, and the events of the shared state that belong to it,
    as :meth:`SharedState.apply <aegisipc.sdk.state.SharedState.apply>` takes them.

    ``again``: it failed with an error after which the method's retry policy runs it again, attempts
    permitting. ``stack``: where that error was raised, as a few lines for people.
    """

    mark: Mark
    body: bytes | None
    emitted: tuple[bytes, ...]
    again: bool = False
    stack: tuple[str, ...] = ()


class Executor:
    """Runs the calls of one instance. Plain functions run in its bounded pool of threads.

    ``max_result_bytes`` bounds a result together with the events that go with it. ``state`` encodes events;
    without one (in a pool, or if the service shares no state), handlers cannot emit. ``objects`` keeps what
    is too large for a frame; without it, results over the limit fail.
    """

    def __init__(
        self,
        service: Service,
        identity: Identity,
        clock: Callable[[], int],
        max_result_bytes: int,
        state: SharedState | None = None,
        objects: ObjectStore | None = None,
    ) -> None:
        self._methods: Mapping[str, Method] = service.methods
        self._service = service
        self._identity = identity
        self._clock = clock
        self._max_result_bytes = max_result_bytes
        self._state = state
        self._large = None if objects is None else LargeBodies(objects, identity, clock)
        self._refuse: Callable[[object, str | None], None] = refusing(identity.service, identity.group)
        self._threads: ThreadPoolExecutor | None = None
        self._runs: dict[CallId, Run] = {}
        self._is_closed = False

    # -- for hosts --------------------------------------------------------------------------------------

    async def execute(self, call: OpenCall, epoch: int) -> Done:
        """Run one call to its outcome, whatever the handler does. Raises only if the task is cancelled by
        its host; if the call is (see :meth:`cancel`), that is an outcome.
        """
        method = self._methods.get(call.method)
        if method is None:
            return _failed(self._no_method(call))
        run = Run(call, epoch, self._identity, self._clock, is_async=method.is_async)
        self._runs[call.call_id] = run
        emitter: Emitter | None = None
        try:
            body = call.body if self._large is None else await self._fetched(self._large, call)
            args, kwargs = method.load(body)
            if method.context_name is not None:
                emitter = None if self._state is None else Emitter(self._state, run.target)
                method.put_context(self._context(run, emitter), args, kwargs)
            run.has_begun = True
            if not method.is_async:
                return await self._in_thread(method, run, emitter, args, kwargs)
            result = await method.function(*args, **kwargs)
            run.has_ended = True
            done, is_large = self._encoded(method, run, result, () if emitter is None else emitter.end())
            if is_large or run.transaction is not None or run.is_cancelled:
                done = await self._conclude(run, done, is_large=is_large)
        except GeneratorExit:  # this coroutine itself is being thrown away
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler does is an outcome
            return await self._on_error(method, run, error)
        else:
            return done
        finally:
            self._end(run, emitter)

    async def _fetched(self, large: LargeBodies, call: OpenCall) -> bytes:
        body = await large.arguments(call)
        if body is not call.body and self._clock() >= call.deadline_ns:  # to fetch them took too long
            raise _TooLate
        return body

    def _end(self, run: Run, emitter: Emitter | None) -> None:
        run.has_ended = True
        if emitter is not None:
            emitter.end()
        if self._runs.get(run.call_id) is run:
            del self._runs[run.call_id]

    def cancel(self, call_id: CallId, author: str, reason: str = "") -> bool:
        """Ask the handler that runs a call to stop; to be called in the event loop. Returns whether one runs.

        An ``async`` handler gets a ``CancelledError`` at its ``await``; a plain one has to look at
        ``ctx.cancelled``. If it ends by ``CancelledError``, :meth:`execute` returns the mark ``CANCELLED``;
        if it returns or raises something else, that is the outcome. To ask again does nothing.
        """
        run = self._runs.get(call_id)
        return run is not None and run.cancel(author, reason)

    def close(self) -> None:
        """Let go of the threads; what still runs in them is abandoned, as its outcome could not be written
        any more.
        """
        self._is_closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _on_error(self, method: Method, run: Run, error: BaseException) -> Done:
        run.has_ended = True
        is_host_stopping = run.is_host_stopping and isinstance(error, asyncio.CancelledError)
        if not is_host_stopping and run.is_cancelled:
            await run.absorb()
        if method.is_async and run.transaction is not None:
            await cast("AsyncTransaction", run.transaction).discard()
        if is_host_stopping:
            raise error
        if isinstance(error, _TooLate):
            return self._expired(method)
        if run.found is not None:
            return _of_outcome(run.found)
        if isinstance(error, asyncio.CancelledError) and run.is_cancelled:
            return _done(Mark.CANCELLED, cancelled(run.target, run.author, run.reason, started=True))
        if not run.has_begun:
            if isinstance(error, ArgumentsRejected):
                return _failed(of_arguments(run.target, error.errors))
            if isinstance(error, NotFetched):
                return self._not_fetched(method, run, error.error)
        return self._raised(method, run, error)

    # -- what comes out ---------------------------------------------------------------------------------

    async def _conclude(self, run: Run, done: Done, *, is_large: bool) -> Done:
        """The handler has returned, and this is its outcome: put a large result away, and commit what the
        handler did.
        """
        if run.is_cancelled:
            await run.absorb()
        if run.found is not None:
            return _of_outcome(run.found)
        if is_large:
            done = await self._stored(run, done)
        if run.transaction is None:
            return done
        transaction = cast("AsyncTransaction", run.transaction)
        if done.mark is not Mark.SUCCEEDED:
            await transaction.discard()
            return done
        return _of_outcome(await transaction.conclude(Outcome(done.mark, done.body, done.emitted)))

    def _encoded(
        self, method: Method, run: Run, result: object, emitted: tuple[bytes, ...]
    ) -> tuple[Done, bool]:
        """The outcome, and whether its result is too large for a frame and has to become an object."""
        try:
            body = method.dump(result)
        except Exception as error:  # noqa: BLE001 - the type's own validators and serializers run here
            _log.error("result_rejected", method=run.call.method, error=shown(error, 1000))
            return _failed(of_result(run.target, method.contract.signature, error)), False
        size = size_bytes(body, emitted) if emitted else len(body)
        if size <= self._max_result_bytes or self._large is not None:
            return _done(Mark.SUCCEEDED, body, emitted), size > self._max_result_bytes
        return _failed(too_large(run.target, size, len(emitted), self._max_result_bytes)), False

    async def _stored(self, run: Run, done: Done) -> Done:
        """The outcome with its result as an object."""
        large, body, emitted = cast("LargeBodies", self._large), cast("bytes", done.body), done.emitted
        try:
            reference = await large.result(run.call, run.epoch, body)
        except NotStored as refused:
            error = refused.error
            if refused.limit_bytes is not None:
                return _failed(too_large(run.target, len(body), 0, refused.limit_bytes))
            _log.error("result_not_stored", method=run.call.method, error=error.message)
            message = f"{run.target} ran, but its result cannot be stored: {error.message}"
            return _failed(failure("result_not_stored", message, error.to_plain()))
        size = size_bytes(reference, emitted)
        if size > self._max_result_bytes:
            return _failed(too_large(run.target, size, len(emitted), self._max_result_bytes))
        return _done(Mark.SUCCEEDED, reference, emitted)

    def _expired(self, method: Method) -> Done:
        return _failed(CLAIMED_TOO_LATE) if method.effect is Effect.ONCE else _done(Mark.EXPIRED, None)

    def _not_fetched(self, method: Method, run: Run, error: AegisError) -> Done:
        if self._clock() >= run.call.deadline_ns:
            return self._expired(method)
        message = f"cannot call {run.target}: its arguments are not to be had: {error.message}"
        return _failed(failure(error.code, message, error.details))

    def _no_method(self, call: OpenCall) -> bytes:
        return failure(
            "no_such_method",
            f"service {self._service.name!r} has no method {call.method!r}; it has "
            f"{', '.join(sorted(self._methods))}",
            {"service": self._service.name, "method": call.method},
        )

    def _raised(self, method: Method, run: Run, error: BaseException) -> Done:
        is_answer = isinstance(error, ServiceError | AegisError) and not isinstance(error, OWN_ERRORS)
        again = method.retry is not None and method.retry.matches(error)
        stack = stack_of(error) if again or not is_answer else ()
        if not is_answer:
            with suppress(Exception):  # a text or a traceback that cannot be made must not cost the outcome
                _log.error(
                    "handler_raised",
                    service=self._service.name,
                    method=run.call.method,
                    error=f"{type(error).__name__}: {shown(error, 1000)}",
                    traceback=shown("".join(traceback.format_exception(error)), 16_000),
                )
        done: Done = new_tuple(Done, (Mark.FAILED, of_handler(run.target, error), (), again, stack))
        return done

    # -- threads ----------------------------------------------------------------------------------------

    async def _in_thread(
        self, method: Method, run: Run, emitter: Emitter | None, args: list[Any], kwargs: dict[str, Any]
    ) -> Done:
        """Run a plain function, up to its outcome: its result is checked and encoded in the thread, too."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._service.threads, thread_name_prefix=self._service.name)
        loop, copied = asyncio.get_running_loop(), contextvars.copy_context()

        def work() -> tuple[Done, bool]:
            if self._clock() >= run.call.deadline_ns:  # it had to wait for a thread, for too long
                raise _TooLate
            try:
                run.raise_if_cancelled()  # while it waited for its arguments, or for a thread
                result = copied.run(method.function, *args, **kwargs)
                run.has_ended = True
                done, is_large = self._encoded(method, run, result, () if emitter is None else emitter.end())
                if run.transaction is None:
                    return done, is_large
                return self._conclude_in_thread(run, done, loop, is_large=is_large), False
            except BaseException:
                if run.transaction is not None:
                    cast("Transaction", run.transaction).discard()
                raise

        done, is_large = await loop.run_in_executor(self._threads, work)
        return await self._stored(run, done) if is_large else done

    def _conclude_in_thread(
        self, run: Run, done: Done, loop: asyncio.AbstractEventLoop, *, is_large: bool
    ) -> Done:
        """As :meth:`_conclude`, where the transaction was opened: some drivers insist on that."""
        if run.found is not None:
            return _of_outcome(run.found)
        if is_large:
            done = self._wait(asyncio.run_coroutine_threadsafe(self._stored(run, done), loop))
        transaction = cast("Transaction", run.transaction)
        if done.mark is not Mark.SUCCEEDED:
            transaction.discard()
            return done
        return _of_outcome(transaction.conclude(Outcome(done.mark, done.body, done.emitted)))

    def _wait(self, storing: concurrent.futures.Future[Done]) -> Done:
        """Wait for the event loop; not for one that has ended."""
        while True:
            try:
                return storing.result(_CLOSED_CHECK_S)
            except concurrent.futures.TimeoutError:
                if storing.done() or self._is_closed:
                    storing.cancel()
                    raise

    def _context(self, run: Run, emitter: Emitter | None) -> Context:
        who, call = self._identity, run.call
        return Context(
            who.service,
            who.group,
            who.instance,
            call.method,
            call.client,
            call.resource,
            run.epoch,
            call.call_id,
            call.deadline_ns,
            self._clock,
            self._refuse if emitter is None else emitter.emit,
            run,
        )


class _TooLate(Exception):
    """The deadline passed before a thread was free, or its arguments were there."""


def _done(mark: Mark, body: bytes | None, emitted: tuple[bytes, ...] = ()) -> Done:
    done: Done = new_tuple(Done, (mark, body, emitted, False, ()))
    return done


def _failed(body: bytes) -> Done:
    return _done(Mark.FAILED, body)


def _of_outcome(outcome: Outcome) -> Done:
    return _done(outcome.mark, outcome.body, outcome.emitted)
