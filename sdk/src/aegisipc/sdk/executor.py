"""Runs handlers: reads arguments, calls the function, turns what comes out into a mark and bytes.

What a handler emitted goes with its success and with nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import structlog

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.sdk.context import Context
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, Identity
from aegisipc.sdk.emitting import Emitter, refusing, size_bytes
from aegisipc.sdk.errors import ServiceError
from aegisipc.sdk.failures import OWN_ERRORS, failure, of_arguments, of_handler, shown
from aegisipc.sdk.method import ArgumentsRejected, Method
from aegisipc.sdk.service import Service
from aegisipc.sdk.state import SharedState

_log = structlog.get_logger("aegisipc.service")


class Done(NamedTuple):
    """How a call ended: its mark, its result or error, and the events of the shared state that belong to it,
    as :meth:`SharedState.apply <aegisipc.sdk.state.SharedState.apply>` takes them.
    """

    mark: Mark
    body: bytes | None
    emitted: tuple[bytes, ...]


class Executor:
    """Runs the calls of one instance. Plain functions run in its bounded pool of threads.

    ``max_result_bytes`` bounds a result together with the events that go with it. ``state`` encodes events;
    without one (in a pool, or if the service shares no state), handlers cannot emit.
    """

    def __init__(
        self,
        service: Service,
        identity: Identity,
        clock: Callable[[], int],
        max_result_bytes: int,
        state: SharedState | None = None,
    ) -> None:
        self._methods: Mapping[str, Method] = service.methods
        self._service = service
        self._identity = identity
        self._clock = clock
        self._max_result_bytes = max_result_bytes
        self._state = state
        self._refuse: Callable[[object, str | None], None] = refusing(identity.service, identity.group)
        self._threads: ThreadPoolExecutor | None = None

    async def execute(self, call: OpenCall, epoch: int) -> Done:
        """Run one call to its outcome, whatever the handler does. Raises only if the task is cancelled."""
        method = self._methods.get(call.method)
        if method is None:
            return _failed(self._no_method(call))
        emitter: Emitter | None = None
        try:
            args, kwargs = method.load(call.body)
            if method.context_name is not None:
                if self._state is not None:
                    emitter = Emitter(self._state, self._target(call))
                method.put_context(self._context(call, epoch, emitter), args, kwargs)
            if method.is_async:
                result = await method.function(*args, **kwargs)
            else:
                result = await self._in_thread(method, call, args, kwargs)
        except _TooLate:
            return self._expired(method)
        except ArgumentsRejected as rejected:
            return _failed(of_arguments(self._target(call), rejected.errors))
        except GeneratorExit:  # this coroutine itself is being thrown away
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            return _failed(self._raised(call, error))
        finally:
            emitted = () if emitter is None else emitter.end()
        return self._succeeded(method, call, result, emitted)

    def _succeeded(self, method: Method, call: OpenCall, result: object, emitted: tuple[bytes, ...]) -> Done:
        try:
            body = method.dump(result)
        except Exception as error:  # noqa: BLE001 - the type's own validators and serializers run here
            _log.error("result_rejected", method=call.method, error=shown(error, 1000))
            return _failed(
                failure(
                    "invalid_result",
                    f"{self._target(call)} ran, but its result does not fit {method.contract.signature!r}: "
                    f"{shown(error, 1000)}",
                )
            )
        size = size_bytes(body, emitted) if emitted else len(body)
        if size > self._max_result_bytes:
            return _failed(self._too_large(call, size, len(emitted)))
        return _done(Mark.SUCCEEDED, body, emitted)

    def _expired(self, method: Method) -> Done:
        return _failed(CLAIMED_TOO_LATE) if method.effect is Effect.ONCE else _done(Mark.EXPIRED, None)

    def _too_large(self, call: OpenCall, size: int, events: int) -> bytes:
        limit_bytes = self._max_result_bytes
        what = f"its result and its {events} events of together" if events else "its result of"
        return failure(
            "result_too_large",
            f"{self._target(call)} ran, but {what} {size} bytes is over the limit of {limit_bytes}",
            {"size_bytes": size, "limit_bytes": limit_bytes},
        )

    async def _in_thread(
        self, method: Method, call: OpenCall, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._service.threads, thread_name_prefix=self._service.name)
        run = contextvars.copy_context().run

        def work() -> Any:
            if self._clock() >= call.deadline_ns:  # it had to wait for a thread, for too long
                raise _TooLate
            return run(method.function, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _target(self, call: OpenCall) -> str:
        return f"{self._service.name}.{call.method}"

    def _context(self, call: OpenCall, epoch: int, emitter: Emitter | None) -> Context:
        who = self._identity
        return Context(
            who.service,
            who.group,
            who.instance,
            call.method,
            call.client,
            call.resource,
            epoch,
            call.call_id,
            call.deadline_ns,
            self._clock,
            self._refuse if emitter is None else emitter.emit,
        )

    def _no_method(self, call: OpenCall) -> bytes:
        return failure(
            "no_such_method",
            f"service {self._service.name!r} has no method {call.method!r}; it has "
            f"{', '.join(sorted(self._methods))}",
            {"service": self._service.name, "method": call.method},
        )

    def _raised(self, call: OpenCall, error: BaseException) -> bytes:
        if not isinstance(error, ServiceError | AegisError) or isinstance(error, OWN_ERRORS):
            with suppress(Exception):  # a text or a traceback that cannot be made must not cost the outcome
                _log.error(
                    "handler_raised",
                    service=self._service.name,
                    method=call.method,
                    error=f"{type(error).__name__}: {shown(error, 1000)}",
                    traceback=shown("".join(traceback.format_exception(error)), 16_000),
                )
        return of_handler(self._target(call), error)

    def close(self) -> None:
        """Let go of the threads; what still runs in them is abandoned, as its outcome could not be written
        any more.
        """
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class _TooLate(Exception):
    """The deadline passed before a thread was free."""


def _done(mark: Mark, body: bytes | None, emitted: tuple[bytes, ...] = ()) -> Done:
    done: Done = new_tuple(Done, (mark, body, emitted))
    return done


def _failed(body: bytes) -> Done:
    return _done(Mark.FAILED, body)


def _is_cancelled() -> bool:
    """Whether this very run is cancelled, and not something inside the handler."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
