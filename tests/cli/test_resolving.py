"""Telling the holder of a pen that a doubt is over, where answers are lost and the pen changes hands."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallIds
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.asking import Refused
from aegisipc.router.cli.resolving import NotInDoubt, Resolving
from aegisipc.router.cli.telling import NoHolder
from aegisipc.router.infrastructure.embedded import EmbeddedServer

_namespaces = (f"resolving{number}" for number in itertools.count(1))
COMMAND = {"command": "resolve", "executed": True, "result": 7, "author": "ann", "reason": "seen"}

type Reply = dict[str, Any] | bytes | None


class Room:
    """A group whose former holder ``a`` claimed a call; ``b`` found it in doubt. The test plays ``b``."""

    def __init__(self, connection: Connection, log: Any, namespace: str) -> None:
        self.connection, self.log = connection, log
        self.subjects = subjects_of(namespace)
        self.call_id = CallIds(1).next(time.time_ns() // 1_000_000)
        self.asked = 0
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def furnish(self) -> None:
        frame = CallFrame(7, 1, 1, [CallEntry(self.call_id, "place", 600_000, None)], [encode([[], {}])])
        await self.promote("a", 1)
        await self.log.append(self.subjects.call("orders", "g1", "c1"), encode_calls(frame))
        await self.write("a", 1, (Mark.CLAIMED, None))
        await self.promote("b", 2)
        await self.write("b", 2, (Mark.IN_DOUBT, None))

    async def promote(self, holder: str, epoch: int) -> None:
        event = ev.GroupPromoted(epoch=epoch, holder=holder, incarnation=holder, cause="t", decided_by="r")
        await self.log.append(self.subjects.fence("orders", "g1"), ev.encode_event(event))

    async def write(self, writer: str, epoch: int, *facts: tuple[Mark, bytes | None]) -> int:
        frame = PenFrame(
            1,
            next(self._numbers),
            epoch,
            [PenEntry(mark, self.call_id) for mark, _ in facts],
            [body for _, body in facts],
        )
        appended = await self.log.append(self.subjects.pen("orders", "g1", writer), encode_pen(frame))
        return int(appended.seq)

    async def record(self, author: str) -> int:
        said = ev.Resolution(source="operator", author=author, reason="seen")
        return await self.write("b", 2, (Mark.EXECUTED, encode(said)), (Mark.SUCCEEDED, encode(7)))

    async def holder(self, *answers: Callable[[], Any]) -> None:
        """Answer with what these give, one after the other; the last one again and again."""
        left = list(answers)

        async def answer(message: Message) -> None:
            self.asked += 1
            give = left.pop(0) if len(left) > 1 else left[0]
            reply: Reply = await give()
            if reply is not None:
                payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                await self.connection.publish(message.reply, payload)

        def take(message: Message) -> None:
            task = asyncio.create_task(answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        await self.connection.subscribe(self.subjects.tell("orders", "g1"), take)
        await self.connection.flush(timeout_s=5.0)

    async def tell(self, timeout_s: float) -> int:
        resolving = Resolving(self.connection, self.log, self.subjects, self.call_id)
        return await resolving.resolve(COMMAND, timeout_s)


@pytest.fixture
async def room(shared_server: EmbeddedServer) -> AsyncIterator[Room]:
    namespace = next(_namespaces)
    async with await Connection.open(ConnectOptions(shared_server.url)) as connection:
        room = Room(connection, await create_log(connection, subjects_of(namespace)), namespace)
        await room.furnish()
        yield room


def refusal(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": f"cannot: {code}", "details": {"state": "x"}}}


def saying(reply: Reply) -> Callable[[], Any]:
    async def give() -> Reply:
        return reply

    return give


async def test_what_was_recorded_though_its_answer_was_lost_is_found_in_the_log(room: Room) -> None:
    recorded: list[int] = []

    async def record_and_keep_silent() -> None:
        recorded.append(await room.record("ann"))

    await room.holder(record_and_keep_silent)
    assert await room.tell(0.5) == recorded[0]
    assert room.asked == 1


async def test_a_resolution_that_waits_for_the_log_is_waited_for(room: Room) -> None:
    """An earlier attempt was taken and is being written: the holder says that the doubt is being resolved."""
    recorded: list[int] = []

    async def record_now() -> Reply:
        recorded.append(await room.record("ann"))
        return refusal("not_in_doubt")

    await room.holder(saying(refusal("not_in_doubt")), record_now)
    assert await room.tell(20.0) == recorded[0]
    assert room.asked == 2


async def test_after_the_pen_went_elsewhere_its_next_holder_is_told(room: Room) -> None:
    await room.holder(saying(refusal("pen_lost")), saying({"ok": True, "seq": 99}))
    assert await room.tell(20.0) == 99


async def test_a_doubt_that_another_operator_ended_meanwhile_is_told_with_his_name(room: Room) -> None:
    async def bob_was_faster() -> Reply:
        await room.record("bob")
        return refusal("not_in_doubt")

    await room.holder(bob_was_faster)
    with pytest.raises(NotInDoubt, match=r"says bob \(operator\): seen") as raised:
        await room.tell(20.0)
    assert raised.value.state == "succeeded"
    assert room.asked == 1


async def test_a_holder_that_never_answers_may_have_recorded_it_all_the_same(room: Room) -> None:
    await room.holder(saying(None))
    with pytest.raises(NoHolder, match="b, which holds the pen in epoch 2, does not answer; it may be"):
        await room.tell(0.3)


async def test_a_holder_that_is_not_there_is_waited_for(room: Room) -> None:
    telling = asyncio.create_task(room.tell(20.0))
    await asyncio.sleep(0)
    await room.holder(saying({"ok": True, "seq": 99}))
    assert await telling == 99


async def test_without_any_holder_nobody_is_waited_for(room: Room) -> None:
    vacated = ev.GroupVacated(epoch=2, cause="b left", decided_by="r")
    await room.log.append(room.subjects.fence("orders", "g1"), ev.encode_event(vacated))
    async with asyncio.timeout(20.0):
        with pytest.raises(NoHolder, match="nobody holds the pen for orders/g1; start an instance") as raised:
            await room.tell(1e6)
    assert (raised.value.service, raised.value.group, raised.value.holder) == ("orders", "g1", None)


async def test_a_refusal_is_final(room: Room) -> None:
    await room.holder(saying(refusal("invalid_result")))
    with pytest.raises(Refused, match="cannot: invalid_result") as raised:
        await room.tell(20.0)
    assert raised.value.to_plain() == refusal("invalid_result")["error"]
    assert room.asked == 1


async def test_an_answer_that_is_none_is_an_error(room: Room) -> None:
    await room.holder(saying(b"\xff"))
    with pytest.raises(AegisError, match="cannot"):
        await room.tell(20.0)
