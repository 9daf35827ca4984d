"""Runs handlers: reads arguments, calls the function, turns what comes out into a mark and bytes."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import structlog

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.context import Context
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, Identity
from aegisipc.sdk.errors import ServiceError
from aegisipc.sdk.failures import failure, of_arguments, of_handler, shown
from aegisipc.sdk.method import ArgumentsRejected, Method
from aegisipc.sdk.service import Service

_log = structlog.get_logger("aegisipc.service")


class Executor:
    """Runs the calls of one instance. Plain functions run in its bounded pool of threads."""

    def __init__(
        self, service: Service, identity: Identity, clock: Callable[[], int], max_result_bytes: int
    ) -> None:
        self._methods: Mapping[str, Method] = service.methods
        self._service = service
        self._identity = identity
        self._clock = clock
        self._max_result_bytes = max_result_bytes
        self._threads: ThreadPoolExecutor | None = None

    async def execute(self, call: OpenCall, epoch: int) -> tuple[Mark, bytes | None]:
        """Run one call to its outcome, whatever the handler does. Raises only if the task is cancelled."""
        method = self._methods.get(call.method)
        if method is None:
            return Mark.FAILED, self._no_method(call)
        try:
            args, kwargs = method.load(call.body)
            if method.context_name is not None:
                method.put_context(self._context(call, epoch), args, kwargs)
            if method.is_async:
                result = await method.function(*args, **kwargs)
            else:
                result = await self._in_thread(method, call, args, kwargs)
        except _TooLate:
            return self._expired(method)
        except ArgumentsRejected as rejected:
            return Mark.FAILED, of_arguments(self._target(call), rejected.errors)
        except GeneratorExit:  # this coroutine itself is being thrown away
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            return Mark.FAILED, self._raised(call, error)
        return self._succeeded(method, call, result)

    def _succeeded(self, method: Method, call: OpenCall, result: object) -> tuple[Mark, bytes]:
        try:
            body = method.dump(result)
        except Exception as error:  # noqa: BLE001 - the type's own validators and serializers run here
            _log.error("result_rejected", method=call.method, error=shown(error, 1000))
            return Mark.FAILED, failure(
                "invalid_result",
                f"{self._target(call)} ran, but its result does not fit {method.contract.signature!r}: "
                f"{shown(error, 1000)}",
            )
        if len(body) > self._max_result_bytes:
            return Mark.FAILED, self._too_large(call, len(body))
        return Mark.SUCCEEDED, body

    def _expired(self, method: Method) -> tuple[Mark, bytes | None]:
        return (Mark.FAILED, CLAIMED_TOO_LATE) if method.effect is Effect.ONCE else (Mark.EXPIRED, None)

    def _too_large(self, call: OpenCall, size_bytes: int) -> bytes:
        limit_bytes = self._max_result_bytes
        return failure(
            "result_too_large",
            f"{self._target(call)} ran, but its result of {size_bytes} bytes is over the limit of "
            f"{limit_bytes}",
            {"size_bytes": size_bytes, "limit_bytes": limit_bytes},
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

    def _context(self, call: OpenCall, epoch: int) -> Context:
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
        )

    def _no_method(self, call: OpenCall) -> bytes:
        return failure(
            "no_such_method",
            f"service {self._service.name!r} has no method {call.method!r}; it has "
            f"{', '.join(sorted(self._methods))}",
            {"service": self._service.name, "method": call.method},
        )

    def _raised(self, call: OpenCall, error: BaseException) -> bytes:
        if not isinstance(error, ServiceError | AegisError):
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


def _is_cancelled() -> bool:
    """Whether this very run is cancelled, and not something inside the handler."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
