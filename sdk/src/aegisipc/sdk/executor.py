"""Runs handlers: reads arguments, calls the function, turns what comes out into a mark and bytes."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError, CodecError
from aegisipc.eventstore.events import ErrorInfo
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.context import Context
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.errors import ServiceError
from aegisipc.sdk.method import ArgumentsRejected, Method, ResultRejected
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

    async def execute(self, call: OpenCall, epoch: int) -> tuple[Mark, bytes]:
        """Run one call to its outcome. Raises only if the task is cancelled."""
        method = self._methods.get(call.method)
        if method is None:
            return Mark.FAILED, self._no_method(call)
        try:
            body = await self._run(method, call, epoch)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # this run is cancelled, not something in the handler
                raise
            return Mark.FAILED, self._raised(call, error)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is the call's outcome
            return Mark.FAILED, self._failure(method, call, error)
        if len(body) > self._max_result_bytes:
            return Mark.FAILED, self._too_large(call, len(body))
        return Mark.SUCCEEDED, body

    async def _run(self, method: Method, call: OpenCall, epoch: int) -> bytes:
        args, kwargs = method.load(call.body)
        if method.context_name is not None:
            method.put_context(self._context(call, epoch), args, kwargs)
        if method.is_async:
            result = await method.function(*args, **kwargs)
        else:
            result = await self._in_thread(method.function, args, kwargs)
        return method.dump(result)

    def _failure(self, method: Method, call: OpenCall, error: Exception) -> bytes:
        target = f"{self._service.name}.{call.method}"
        if isinstance(error, ArgumentsRejected):
            errors = [fault._asdict() for fault in error.errors]
            return _info("invalid_arguments", f"cannot call {target}: {error}", {"errors": errors})
        if isinstance(error, ResultRejected | CodecError):
            _log.error("result_rejected", method=call.method, error=str(error))
            return _info(
                "invalid_result",
                f"{target} ran, but its result does not fit {method.contract.signature!r}: {error}",
            )
        return self._raised(call, error)

    def _too_large(self, call: OpenCall, size_bytes: int) -> bytes:
        limit_bytes = self._max_result_bytes
        return _info(
            "result_too_large",
            f"{self._service.name}.{call.method} ran, but its result of {size_bytes} bytes is over the limit "
            f"of {limit_bytes}",
            {"size_bytes": size_bytes, "limit_bytes": limit_bytes},
        )

    async def _in_thread(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._service.threads, thread_name_prefix=self._service.name)
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: run(function, *args, **kwargs)
        )

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
        return _info(
            "no_such_method",
            f"service {self._service.name!r} has no method {call.method!r}; it has "
            f"{', '.join(sorted(self._methods))}",
            {"service": self._service.name, "method": call.method},
        )

    def _raised(self, call: OpenCall, error: BaseException) -> bytes:
        if isinstance(error, ServiceError | AegisError):
            return _info(error.code, error.message, error.details)
        _log.error(
            "handler_raised",
            service=self._service.name,
            method=call.method,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )
        return _info(
            "internal_error", f"{self._service.name}.{call.method} failed: {type(error).__name__}: {error}"
        )

    def close(self) -> None:
        """Let go of the threads; what still runs in them is abandoned, as its outcome could not be written
        any more.
        """
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _info(code: str, message: str, details: Mapping[str, Any] | None = None) -> bytes:
    info = ErrorInfo(code=code, message=message[:4000], details=dict(details or {}))
    try:
        return encode(info)
    except CodecError:  # details may hold anything: what cannot travel goes as text
        return encode(
            info.model_copy(update={"details": {str(k): repr(v)[:1000] for k, v in info.details.items()}})
        )
