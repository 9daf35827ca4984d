"""Ending a doubt: the service itself is asked whether a call ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog
from pydantic import ValidationError

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import MAX_REASON
from aegisipc.eventstore.ids import format_call_id
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.emitting import Emitter, size_bytes
from aegisipc.sdk.failures import shown
from aegisipc.sdk.hooks import HookFailed
from aegisipc.sdk.method import ArgumentsRejected, Method, ResultRejected
from aegisipc.sdk.service import Service
from aegisipc.sdk.state import SharedState

_log = structlog.get_logger("aegisipc.service")

_MAX_SHOWN: Final = 1000


@dataclass(frozen=True, slots=True)
class Doubt:
    """A call that was begun by an instance that is gone: it may have run.

    ``call_id`` is what the handler saw as ``ctx.call_id``: ask the outside world about that.
    ``arguments`` holds them by parameter name, validated, defaults included. ``claimed_by`` is the instance
    that began it, under epoch ``claimed_epoch``.
    """

    service: str
    group: str
    method: str
    call_id: str
    resource_id: str | None
    client: str
    arguments: Mapping[str, Any]
    claimed_by: str
    claimed_epoch: int


@dataclass(frozen=True, slots=True)
class Executed:
    """It ran; this is what its handler returned, or would have. ``events`` are those that the handler would
    have emitted: they enter the shared state with the outcome.
    """

    result: Any = None
    events: Sequence[object] = ()


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """It certainly did not run, and may run now."""

    reason: str = ""


class Finding(NamedTuple):
    """What the service knows of a call in doubt, encoded. Without execution, ``body`` is empty."""

    is_executed: bool
    body: bytes
    emitted: tuple[bytes, ...]
    reason: str


class Reconciler:
    """Asks the function that ``@service.reconcile`` names about calls in doubt, one question at a time.

    ::

        @orders.reconcile(timeout_s=5.0)
        async def ask_the_venue(doubt: Doubt) -> Executed | NotExecuted | None:
            order = await venue.find(client_order_id=doubt.call_id)
            if order is None:
                return NotExecuted("the venue has no such order")
            return Executed(Fill(order.price))
    """

    def __init__(
        self,
        service: Service,
        identity: Identity,
        max_result_bytes: int,
        state: SharedState | None = None,
    ) -> None:
        self._service = service
        self._identity = identity
        self._max_result_bytes = max_result_bytes
        self._state = state

    @property
    def is_defined(self) -> bool:
        """The service can be asked."""
        return self._service.reconciler is not None

    async def ask(self, call: OpenCall) -> Finding | None:
        """Return what became of `call`, or ``None`` if that cannot be told now. Raises only if cancelled."""
        hook = self._service.reconciler
        method = self._service.methods.get(call.method)
        if hook is None or method is None:
            return None
        try:
            answer = await hook.ask(self._doubt(method, call))
            return self._finding(method, answer)
        except HookFailed as failed:
            why = failed.reason
        except ArgumentsRejected as rejected:
            why = f"the call's arguments do not fit this version: {rejected}"
        except AegisError as error:
            why = error.message
        except (ResultRejected, ValidationError, TypeError) as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - the result's own validators and serializers run here
            why = f"{type(error).__name__}: {shown(error, _MAX_SHOWN)}"
        _log.warning(
            "reconcile_failed",
            service=self._service.name,
            method=call.method,
            call=format_call_id(call.call_id),
            error=shown(why, _MAX_SHOWN),
        )
        return None

    def _doubt(self, method: Method, call: OpenCall) -> Doubt:
        return Doubt(
            self._service.name,
            self._identity.group,
            call.method,
            format_call_id(call.call_id),
            call.resource,
            call.client,
            method.arguments(call.body),
            call.claimed_by or "",
            call.claimed_epoch,
        )

    def _finding(self, method: Method, answer: object) -> Finding | None:
        if answer is None:
            return None
        if isinstance(answer, NotExecuted):
            return Finding(False, b"", (), shown(answer.reason, MAX_REASON))
        if not isinstance(answer, Executed):
            raise TypeError(
                f"it returned {type(answer).__name__}, which is neither Executed, NotExecuted nor None"
            )
        body = method.dump(answer.result)
        emitted = self._emitted(f"{self._service.name}.{method.name}", answer.events)
        size = size_bytes(body, emitted)
        if size > self._max_result_bytes:
            raise TypeError(
                f"the result and its events take {size} bytes; the limit is {self._max_result_bytes}"
            )
        return Finding(True, body, emitted, "")

    def _emitted(self, target: str, events: Sequence[object]) -> tuple[bytes, ...]:
        if not events:
            return ()
        if self._state is None:
            raise TypeError("it returned events, but instances of a pool share no state")
        emitter = Emitter(self._state, target)
        for event in events:
            emitter.emit(event)
        return emitter.end()
