"""How doubts of a pool end, beside the late word of the worker that claimed the call.

The worker that has the frame of a call in doubt asks the service's own hook: it has the arguments, and as a
rule no other one has the frame. An operator is answered by the eldest worker that is ready, whoever has the
frame: that one finds the call in the log, by the time in its id, and writes the resolution; the worker that
has the frame reads it and goes on. Both wait until their record has come back as the one that counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.events import Resolution
from aegisipc.eventstore.frames import Mark, decode_calls
from aegisipc.eventstore.ids import CallId, format_call_id, time_of
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.log import Start as From
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.seeking import MAX_ACCEPT_DELAY_S, SEEK_MARGIN_S
from aegisipc.eventstore.subjects import CALL
from aegisipc.sdk.core.pool import PoolWorker, Resolved
from aegisipc.sdk.errors import InvalidResult
from aegisipc.sdk.hosts.base import HostParts
from aegisipc.sdk.hosts.pool_consumer import PoolConsumer
from aegisipc.sdk.hosts.telling import (
    Busy,
    NoSharedState,
    NotInDoubt,
    Resolve,
    UnknownCall,
    answer_error,
    answer_ok,
    decode_tell,
)
from aegisipc.sdk.reconciling import Reconciler

_log = structlog.get_logger("aegisipc.instance")

MAX_WAITING: Final = 256
"""Commands of operators that may be under way at once."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


class PoolDoubts:
    """One worker's part in ending doubts."""

    def __init__(
        self,
        parts: HostParts,
        worker: PoolWorker,
        consumer: PoolConsumer,
        reconciler: Reconciler,
        *,
        pump: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._site, self._service, self._identity = parts.site, parts.service, parts.identity
        self._worker, self._consumer, self._reconciler = worker, consumer, reconciler
        self._pump, self._spawn = pump, spawn
        self._loop = asyncio.get_running_loop()
        self._asked: dict[CallId, tuple[float, float]] = {}
        """When to ask the service again about a doubt, and how long to wait after that."""
        self._is_asking = False
        self._waiting: dict[CallId, str] = {}
        """Who waits for the resolution of a call."""

    # -- the service's own hook -------------------------------------------------------------------------

    def on_tick(self) -> None:
        """Ask about the next doubt, if one is due: one at a time, and nothing while calls may not begin. What
        cannot be told is asked again after 0.5 s, then after twice that, and so on up to 30 s.
        """
        doubts = self._worker.doubts
        if not doubts or self._is_asking or not self._reconciler.is_defined:
            return
        standing = self._worker.standing
        if standing.is_draining or not standing.may_start:
            return
        self._asked = {call_id: due for call_id, due in self._asked.items() if call_id in doubts}
        now = self._loop.time()
        for call_id, call in doubts.items():
            if self._asked.get(call_id, (0.0, 0.0))[0] <= now:
                self._is_asking = True
                self._spawn(self._reconcile(call))
                return

    async def _reconcile(self, call: OpenCall) -> None:
        try:
            _, pause_s = self._asked.get(call.call_id, (0.0, _FIRST_PAUSE_S))
            doubt = self._worker.facts.get(call.call_id)
            finding = await self._reconciler.ask(call)
            self._asked[call.call_id] = self._loop.time() + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)
            if finding is None or doubt != self._worker.facts.get(call.call_id):
                return  # it cannot be told; or the answer is about a doubt that has ended meanwhile
            who = self._identity
            author = f"{who.service}/{who.instance}"
            said = Resolution(source="reconcile", author=author, reason=finding.reason)
            _log.info("reconciled", call=format_call_id(call.call_id), executed=finding.is_executed)
            self._worker.resolve(call, said, finding.body if finding.is_executed else None)
            self._pump()
        finally:
            self._is_asking = False

    # -- operators --------------------------------------------------------------------------------------

    def on_tell(self, message: Message) -> None:
        """Take an operator's command, if it is this worker's to answer."""
        if not message.reply or not self._worker.is_eldest:
            return
        try:
            command = decode_tell(message.payload)
            if not isinstance(command, Resolve):
                raise NoSharedState(
                    f"cannot check the state of the pool of {self._identity.service!r}: workers of a pool "
                    "share none",
                    group=self._identity.group,
                )
            if command.raw_call_id in self._waiting:
                raise self._not_in_doubt(command.raw_call_id, "being resolved")
            if len(self._waiting) >= MAX_WAITING:
                raise Busy(f"cannot take more than {MAX_WAITING} resolutions at once; try again")
        except AegisError as error:
            self._answer(message.reply, answer_error(error))
            return
        self._waiting[command.raw_call_id] = message.reply
        self._spawn(self._obey(command, message.reply))

    async def _obey(self, command: Resolve, reply: str) -> None:
        try:
            await self._resolve(command)
        except AegisError as error:
            self._waiting.pop(command.raw_call_id, None)
            self._answer(reply, answer_error(error))
        except BaseException:
            self._waiting.pop(command.raw_call_id, None)
            raise
        self._pump()

    async def _resolve(self, command: Resolve) -> None:
        call_id = command.raw_call_id
        call = self._worker.doubts.get(call_id) or await self._find(call_id)
        result: bytes | None = None
        if command.executed:
            method = self._service.methods.get(call.method)
            if method is None:
                raise InvalidResult(
                    f"cannot take a result of {call.method}(): this version of {self._identity.service!r} "
                    "does not have that method",
                    method=call.method,
                )
            result = method.result_body(command.result)
        said = Resolution(source="operator", author=command.author, reason=command.reason)
        if not self._worker.resolve(call, said, result):
            raise self._not_in_doubt(call_id, self._state(call_id))

    async def _find(self, call_id: CallId) -> OpenCall:
        """Find a call whose frame another worker has, and learn what is known of it.

        Raises:
            UnknownCall: the pool's log does not have it.
            AegisError: the log cannot be read now.
        """
        born_ns = time_of(call_id) * 1_000_000
        start = From(time_ns=max(0, born_ns - SEEK_MARGIN_S * 1_000_000_000))
        give_up_ns = born_ns + MAX_ACCEPT_DELAY_S * 1_000_000_000
        calls = self._site.subjects.of_kind(self._identity.service, self._identity.group, CALL)
        async for record in self._site.log.read([calls], start=start):
            if record.timestamp_ns > give_up_ns:
                break
            call = self._call_in(record, call_id)
            if call is not None:
                known = await self._consumer.look_up({call_id}, record.seq)
                if call_id in known:
                    self._worker.facts.learn(call_id, known[call_id])
                return call
        shown = format_call_id(call_id)
        raise UnknownCall(
            f"cannot resolve call {shown}: the pool of {self._identity.service!r} has no such call; look at "
            "the id, or ask another service",
            call_id=shown,
        )

    def _call_in(self, record: Record, call_id: CallId) -> OpenCall | None:
        try:
            frame = decode_calls(record.payload)
        except MalformedPayload:
            return None
        client = self._site.subjects.parse(record.subject).who
        for entry, body in zip(frame.entries, frame.bodies, strict=True):
            if entry.call_id == call_id:
                deadline_ns = record.timestamp_ns + entry.timeout_ms * 1_000_000
                return OpenCall(call_id, client, entry.method, entry.resource, record.seq, deadline_ns, body)
        return None

    def on_resolved(self, resolved: Sequence[Resolved]) -> None:
        """Resolutions came back from the log: tell those who wait for them."""
        for call_id, seq in resolved:
            reply = self._waiting.pop(call_id, None)
            if reply is None:
                continue  # the service's own hook said so
            if seq:
                self._answer(reply, answer_ok(seq=seq))
            else:
                self._answer(reply, answer_error(self._not_in_doubt(call_id, self._state(call_id))))

    def _answer(self, reply: str, answer: bytes) -> None:
        self._consumer.tell(reply, answer)

    def _not_in_doubt(self, call_id: CallId, state: str) -> NotInDoubt:
        shown = format_call_id(call_id)
        return NotInDoubt(
            f"cannot resolve call {shown}: it is not in doubt, but {state}", call_id=shown, state=state
        )

    def _state(self, call_id: CallId) -> str:
        known = self._worker.facts.get(call_id)
        return "accepted" if known is None else _STATES.get(known.mark, "accepted")


def _states() -> dict[Mark | None, str]:
    states: dict[Mark | None, str] = {mark: mark.name.lower() for mark in Mark}
    return states | {Mark.CLAIMED: "started", Mark.NOT_EXECUTED: "accepted", Mark.IN_DOUBT: "being resolved"}


_STATES: Final = _states()
