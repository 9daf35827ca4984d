"""A group whose holder of the pen is the test itself: a real server and clients, frames written by hand."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import (
    DEAD_MARKS,
    CallEntry,
    Mark,
    PenEntry,
    PenFrame,
    decode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.keys import key_hash, keyed_body, payload_digest
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.pool_keys import keyed_body as pool_keyed_body
from aegisipc.eventstore.streams import LogOptions, create_log
from aegisipc.eventstore.subjects import CALL, subjects_of
from aegisipc.sdk import Client, connect
from aegisipc.sdk.wire import decode_ask, encode_outcomes
from tests.sdk.kit import CONTRACT, SERVICE, registered
from tests.support.waiting import eventually

GROUP, HOLDER, SESSION = "acc", "h1", 5
_names = (f"hand{number}" for number in itertools.count(1))

type Fact = tuple[Mark, CallId, bytes | None]


def error_body(code: str, message: str = "no", /, **details: Any) -> bytes:
    return encode({"code": code, "message": message, "details": details})


class Hand:
    """One namespace with a service, of which the test is the only instance."""

    def __init__(
        self, url: str, connection: Connection, log: JetStreamLog, stack: AsyncExitStack, namespace: str
    ) -> None:
        self.url, self.connection, self.log, self.namespace = url, connection, log, namespace
        self.subjects = subjects_of(namespace)
        self.calls: dict[CallId, tuple[str, CallEntry, bytes]] = {}
        """The accepted ones: client, entry, arguments."""
        self.order: list[CallId] = []
        self.cancels: list[ev.CancelRequested] = []
        self.asked: list[CallId] = []
        self.told: dict[CallId, tuple[int, bytes | None]] = {}
        """What this holder answers to those who ask."""
        self.is_deaf = False
        self.epoch, self.number = 1, 0
        self.group = GROUP
        self._stack = stack

    # -- joining ----------------------------------------------------------------------------------------

    async def join(self, *resources: str) -> None:
        """The service is there, and its group's pen is ours."""
        subjects, group = self.subjects, self.group
        registration = registered("1", group=group).model_copy(update={"resources": resources or ("x",)})
        own = subjects.instance(SERVICE, group, HOLDER)
        await self.say(own, registration)
        admitted = ev.InstanceAdmitted(instance=HOLDER, incarnation="1", decided_by="r")
        await self.say(subjects.watch(SERVICE, group), admitted)
        await self.say(own, ev.InstanceReady(incarnation="1"))
        if group != POOL_GROUP:
            await self.promote()
        kinds = [subjects.of_kind(SERVICE, group, kind) for kind in (CALL, "cancel")]
        following = await self.log.follow(kinds, self._on_record)
        self._stack.push_async_callback(following.stop)
        subscription = await self.connection.subscribe(subjects.ask(SERVICE, group), self._on_ask)
        self._stack.push_async_callback(subscription.unsubscribe)

    async def promote(self, holder: str = HOLDER) -> None:
        event = ev.GroupPromoted(
            epoch=self.epoch, holder=holder, incarnation="1", cause="test", decided_by="r"
        )
        await self.say(self.subjects.fence(SERVICE, self.group), event)

    async def say(self, subject: str, event: ev.Event) -> int:
        return (await self.log.append(subject, ev.encode_event(event))).seq

    async def client(self, **options: Any) -> Client:
        options.setdefault("url", self.url)
        return await self._stack.enter_async_context(connect(namespace=self.namespace, **options))

    # -- what comes in ----------------------------------------------------------------------------------

    def _on_record(self, record: Record) -> None:
        place = self.subjects.parse(record.subject)
        if place.kind == CALL:
            frame = decode_calls(record.payload)
            for entry, body in zip(frame.entries, frame.bodies, strict=True):
                self.calls[entry.call_id] = (place.who, entry, body)
                self.order.append(entry.call_id)
        else:
            event = ev.decode_event(record.payload)
            assert isinstance(event, ev.CancelRequested)
            self.cancels.append(event)

    def _on_ask(self, message: Message) -> None:
        asked = decode_ask(message.payload)
        self.asked += asked
        if not self.is_deaf:
            outcomes = [(call_id, *self.told[call_id]) for call_id in asked if call_id in self.told]
            self.connection.publish_nowait(message.reply, encode_outcomes(outcomes, 1 << 20))

    async def answer_find_key(self, answer: Any) -> list[Any]:
        """Answer questions for keys in the holder's place from here on; returns them, as they come."""
        questions: list[Any] = []

        def on_question(message: Message) -> None:
            questions.append(json.loads(message.payload))
            self.connection.publish_nowait(message.reply, json.dumps(answer).encode())

        subject = self.subjects.find_key(SERVICE, self.group)
        subscription = await self.connection.subscribe(subject, on_question)
        self._stack.push_async_callback(subscription.unsubscribe)
        return questions

    async def accepted(self, count: int = 1) -> list[CallId]:
        """Wait until so many calls are there; returns the ids of all."""
        await eventually(lambda: len(self.order) >= count, within_s=10, what=f"{count} calls")
        return self.order

    # -- what goes out ----------------------------------------------------------------------------------

    async def write(self, *facts: Fact, epoch: int | None = None) -> int:
        """Write a pen frame."""
        self.number += 1
        entries = [PenEntry(mark, call_id) for mark, call_id, _ in facts]
        number, epoch = self.number, self.epoch if epoch is None else epoch
        frame = PenFrame(SESSION, number, epoch, entries, [body for *_, body in facts])
        is_dead = any(mark in DEAD_MARKS for mark, *_ in facts)
        at = self.subjects.dead if is_dead else self.subjects.pen
        return (await self.log.append(at(SERVICE, self.group, HOLDER), encode_pen(frame))).seq

    async def conclude(self, call_id: CallId, mark: Mark, body: bytes | None = None) -> None:
        """Write an outcome and tell it."""
        await self.write((mark, call_id, body))
        self.tell((call_id, int(mark), body))

    def tell(self, *outcomes: tuple[CallId, int, bytes | None], client: str | None = None) -> None:
        """Tell the client of the first of these calls, in one message."""
        who = client or self.calls[outcomes[0][0]][0]
        self.connection.publish_nowait(self.subjects.reply(who), encode_outcomes(outcomes, 1 << 20))

    def keyed(self, call_id: CallId) -> Fact:
        """The fact that a call has its key."""
        _, entry, body = self.calls[call_id]
        assert entry.options is not None
        assert entry.options.key is not None
        digest = payload_digest(entry.method, entry.resource, body)
        key = key_hash(entry.options.key)
        if self.group == POOL_GROUP:  # its words say how far their writer had read
            return Mark.KEYED, call_id, pool_keyed_body(key, digest, checked_to=1 << 40)
        return Mark.KEYED, call_id, keyed_body(key, digest)


@asynccontextmanager
async def a_hand(url: str, *resources: str, group: str = GROUP, **log: Any) -> AsyncIterator[Hand]:
    """A namespace of its own."""
    async with AsyncExitStack() as stack:
        connection = await Connection.open(ConnectOptions(url))
        stack.push_async_callback(connection.close)
        namespace = next(_names)
        made = await create_log(connection, subjects_of(namespace), LogOptions(**log))
        hand = Hand(url, connection, made, stack, namespace)
        hand.group = group
        await hand.join(*resources)
        yield hand


async def failing(awaitable: Any, within_s: float = 10.0) -> BaseException:
    """Return what it raises."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait({task}, timeout=within_s)
    assert task.done(), "it still waits"
    error: BaseException | None = task.exception()
    assert error is not None, f"it returned {task.result()!r}"
    return error


__all__ = ["CONTRACT", "GROUP", "HOLDER", "SERVICE", "Hand", "a_hand", "error_body", "failing"]
