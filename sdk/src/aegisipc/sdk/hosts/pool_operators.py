"""What operators want of a pool's calls, and who asks for a key: the eldest worker that is ready answers.

It finds the call in the log, by the time in its id, and writes what is wanted; whoever has the frame of the
call reads that and goes on. A dead letter is in nobody's frame: to let it run again its call is stored once
more, in a frame that says which dead letter it is about, and who wants it; that is the body, around the
arguments. Whoever is handed that frame writes ``REQUEUED``, and of several the first counts.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aegisipc.eventstore.bodies import Resolution
from aegisipc.eventstore.calls import state_after
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AckUnknown, AegisError, UnknownCall
from aegisipc.eventstore.frames import NORMAL, CallEntry, CallFrame, CallOptions, Mark, encode_calls
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import key_hash
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.seeking import find_call, read_history
from aegisipc.eventstore.subjects import may_answer
from aegisipc.sdk.core.pool import PoolWorker, Resolved
from aegisipc.sdk.errors import InvalidResult
from aegisipc.sdk.hosts.base import HostParts
from aegisipc.sdk.hosts.key_reading import KeyReader
from aegisipc.sdk.hosts.pool_consumer import PoolConsumer
from aegisipc.sdk.hosts.requeueing import check_size, letter_of, requeued_of, timeout_ms_of
from aegisipc.sdk.hosts.telling import (
    Busy,
    Check,
    Discard,
    FindKey,
    NoSharedState,
    NotDeadLettered,
    NotInDoubt,
    Requeue,
    Resolve,
    answer_error,
    answer_ok,
    asks_for_key,
    decode_tell,
)

MAX_WAITING: Final = 256
"""Commands that may be under way at once."""
MAX_READING: Final = 8
"""Of these, the ones for which the log is read at once; the others wait."""

_MAX_REQUEUED: Final = 1024
_APPENDS: Final = 3
_APPEND_TIMEOUT_S: Final = 2.0

type Command = Resolve | Requeue | Discard


class PoolOperators:
    """One worker's part in answering."""

    def __init__(
        self,
        parts: HostParts,
        worker: PoolWorker,
        consumer: PoolConsumer,
        reader: KeyReader,
        *,
        pump: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._site, self._service, self._identity = parts.site, parts.service, parts.identity
        self._worker, self._consumer, self._reader = worker, consumer, reader
        self._pump, self._spawn = pump, spawn
        self._waiting: dict[CallId, tuple[str, Command]] = {}
        """Who waits for the word about a call, and what is wanted."""
        self._reading = asyncio.Semaphore(MAX_READING)
        self._seeking = 0
        self._requeued: OrderedDict[tuple[CallId, int], int] = OrderedDict()
        """Dead letters that were stored again, and where."""
        self._frames = 0

    def on_tell(self, message: Message) -> None:
        """Take a command, if it is this worker's to answer."""
        if not may_answer(message.reply) or not self._worker.is_eldest:
            return
        try:
            command = decode_tell(message.payload)
            if isinstance(command, Check):
                raise NoSharedState(
                    f"cannot check the state of the pool of {self._identity.service!r}: workers of a pool "
                    "share none",
                    group=self._identity.group,
                )
            if isinstance(command, FindKey):
                if self._seeking >= MAX_WAITING:
                    raise Busy(f"cannot look for more than {MAX_WAITING} keys at once; try again")
                self._seeking += 1
                self._spawn(self._find_key(command.key, message.reply))
                return
            if command.raw_call_id in self._waiting:
                raise self._refused(command, "being resolved")
            if len(self._waiting) >= MAX_WAITING:
                raise Busy(f"cannot take more than {MAX_WAITING} commands at once; try again")
        except AegisError as error:
            self._answer(message.reply, answer_error(error))
            return
        self._waiting[command.raw_call_id] = message.reply, command
        self._spawn(self._obey(command, message.reply))

    def on_find_key(self, message: Message) -> None:
        """Take a question of a client. Commands are not obeyed here: clients may publish this subject."""
        if asks_for_key(message.payload):
            self.on_tell(message)

    async def _obey(self, command: Command, reply: str) -> None:
        try:
            async with self._reading:
                match command:
                    case Resolve():
                        await self._resolve(command)
                    case Discard():
                        await self._discard(command)
                    case Requeue():
                        seq = await self._requeue(command)
                        del self._waiting[command.raw_call_id]
                        self._answer(reply, answer_ok(seq=seq))
        except AegisError as error:
            self._waiting.pop(command.raw_call_id, None)
            self._answer(reply, answer_error(error))
        except BaseException:
            self._waiting.pop(command.raw_call_id, None)
            raise
        self._pump()

    # -- doubts -----------------------------------------------------------------------------------------

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
            raise self._refused(command, self._state(call_id))

    async def _find(self, call_id: CallId) -> OpenCall:
        """Find a call whose frame another worker has, and learn what is known of it.

        Raises:
            UnknownCall: the pool's log does not have it.
            AegisError: the log cannot be read now.
        """
        found = await find_call(self._site.log, self._site.subjects, call_id)
        self._check_is_ours(found.service, found.group, call_id)
        known = await self._consumer.look_up({call_id}, found.seq)
        if call_id in known:
            self._worker.facts.learn(call_id, known[call_id])
        return OpenCall(
            call_id, found.client, found.method, found.resource, found.seq, found.deadline_ns, found.body
        )

    def _check_is_ours(self, service: str, group: str, call_id: CallId) -> None:
        if (service, group) != (self._identity.service, self._identity.group):
            shown = format_call_id(call_id)
            raise UnknownCall(
                f"cannot find call {shown} in the pool of {self._identity.service!r}: it is one of "
                f"{service}/{group}; ask that",
                call_id=shown,
            )

    # -- dead letters -----------------------------------------------------------------------------------

    async def _dead_letter(self, command: Requeue | Discard) -> tuple[CallHistory, int]:
        """Return the history of a dead letter, and where that stands."""
        call_id = command.raw_call_id
        history = await read_history(self._site.log, self._site.subjects, call_id)
        self._check_is_ours(history.call.service, history.call.group, call_id)
        if history.state is not CallState.DEAD_LETTERED or history.dead_letter is None:
            raise self._refused(command, str(history.state))
        return history, history.dead_letter.seq

    async def _discard(self, command: Discard) -> None:
        before = (await self._site.log.bounds()).last_seq
        history, dead_seq = await self._dead_letter(command)
        call_id = command.raw_call_id
        known = await self._consumer.look_up({call_id}, max(before, dead_seq), {call_id: dead_seq})
        self._worker.facts.learn(call_id, known[call_id])
        said = Resolution(source="operator", author=command.author, reason=command.reason)
        if not self._worker.discard(letter_of(history), said):
            raise self._refused(command, self._state(call_id))

    async def _requeue(self, command: Requeue) -> int:
        history, dead_seq = await self._dead_letter(command)
        about = (history.call.call_id, dead_seq)
        if about not in self._requeued:
            self._requeued[about] = await self._store_again(command, history, dead_seq)
            if len(self._requeued) > _MAX_REQUEUED:
                self._requeued.popitem(last=False)
        return self._requeued[about]

    async def _store_again(self, command: Requeue, history: CallHistory, dead_seq: int) -> int:
        call, who = history.call, self._identity
        options = call.options or CallOptions(None, NORMAL)
        timeout_ms = await timeout_ms_of(self._site, command, history)
        said = requeued_of(command, history, dead_seq, timeout_ms)
        entry = CallEntry(
            call.call_id,
            call.method,
            timeout_ms,
            call.resource,
            CallOptions(options.key, options.priority, (dead_seq, call.client)),
        )
        self._frames += 1
        number = self._frames
        payload = encode_calls(CallFrame(who.session, number, 0, [entry], [encode(said)]))
        check_size(len(payload), self._site.log.max_record_bytes)
        subject = self._site.subjects.call(who.service, who.group, who.instance)
        record_id = f"{who.session:x}.{who.instance}.again.{number}"
        for attempt in range(1, _APPENDS + 1):
            try:
                appended = await self._site.log.append(
                    subject, payload, record_id=record_id, timeout_s=_APPEND_TIMEOUT_S
                )
            except AckUnknown:
                if attempt == _APPENDS:
                    raise
            else:
                return appended.seq
        raise AssertionError("not reached")

    # -- keys -------------------------------------------------------------------------------------------

    async def _find_key(self, key: str, reply: str) -> None:
        hashed = key_hash(key)
        try:
            owner = await self._reader.owner(hashed, self._worker.keying.owner(hashed))
        except AegisError as error:
            self._answer(reply, answer_error(error))
            return
        finally:
            self._seeking -= 1
        call_id = owner.call_id if owner is not None else self._worker.keying.first_waiting(hashed)
        if call_id is None:
            self._answer(reply, answer_ok(call_id=None))
            return
        known = self._worker.facts.get(call_id)
        state = None if known is None else str(state_after(known.mark))
        self._answer(reply, answer_ok(call_id=format_call_id(call_id), state=state))

    # -- answers ----------------------------------------------------------------------------------------

    def on_resolved(self, resolved: list[Resolved]) -> None:
        """Words about calls came back from the log: tell those who wait for them."""
        for call_id, seq in resolved:
            reply, command = self._waiting.pop(call_id, ("", None))
            if command is None:
                continue  # the service's own hook said so
            if seq:
                self._answer(reply, answer_ok(seq=seq))
            else:
                self._answer(reply, answer_error(self._refused(command, self._state(call_id))))

    def _answer(self, reply: str, answer: bytes) -> None:
        self._consumer.tell(reply, answer)

    def _refused(self, command: Command, state: str) -> AegisError:
        if isinstance(command, Resolve):
            said = f"cannot resolve call {command.call_id}: it is not in doubt, but {state}"
            return NotInDoubt(said, call_id=command.call_id, state=state)
        said = f"cannot do that to call {command.call_id}: it is no dead letter, but {state}"
        return NotDeadLettered(said, call_id=command.call_id, state=state)

    def _state(self, call_id: CallId) -> str:
        known = self._worker.facts.get(call_id)
        return "accepted" if known is None else _STATES.get(known.mark, "accepted")


def _states() -> dict[Mark | None, str]:
    states: dict[Mark | None, str] = {mark: str(state_after(mark)) for mark in Mark if _moves(mark)}
    return states | {Mark.IN_DOUBT: "being resolved"}


def _moves(mark: Mark) -> bool:
    try:
        state_after(mark)
    except KeyError:
        return False
    return True


_STATES: Final = _states()
