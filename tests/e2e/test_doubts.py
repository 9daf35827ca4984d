"""How doubts of an owned group end: by the service's own hook, by late evidence, by an operator."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.ids import format_call_id, parse_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import EVIDENCE, PEN, subjects_of
from aegisipc.sdk import Client, Context, Executed, NotExecuted, Service
from aegisipc.sdk.errors import CallInDoubt, CallTimeout
from aegisipc.sdk.reconciling import Doubt
from tests.e2e.kit import Place, Running
from tests.support.waiting import eventually


class Venue:
    """A service that sends orders to a venue; each instance has one of its own, to be held up."""

    def __init__(self, sent: list[tuple[str, int]], *, answers: list[object] | None = None) -> None:
        self.service = Service("venue")
        self.sent = sent
        self.asked: list[Doubt] = []
        self.gate = asyncio.Event()

        @self.service.method(effect="once")
        async def order(number: int, ctx: Context) -> int:
            sent.append((ctx.instance, number))
            await self.gate.wait()
            return number * 10

        if answers is not None:

            @self.service.reconcile
            async def ask(doubt: Doubt) -> Executed | NotExecuted | None:
                self.asked.append(doubt)
                return answers.pop(0) if answers else None  # type: ignore[return-value]


async def told(place: Place, command: dict[str, Any], group: str) -> dict[str, Any]:
    """Tell the holder of the pen something, and return its answer."""
    subject = subjects_of(place.namespace).tell("venue", group)
    async with await Connection.open(ConnectOptions(place.url, name="operator")) as connection:
        answer = await connection.request(subject, json.dumps(command).encode(), timeout_s=5.0)
    found: dict[str, Any] = json.loads(answer.payload)
    return found


async def in_doubt(place: Place, heir: Venue) -> tuple[Client, Running, str, Running]:
    """``a`` claims a call and dies; ``b`` takes over and finds it in doubt."""
    first = Venue(heir.sent)
    active = await place.serve(first.service, "x", instance="a")
    standby = await place.serve(heir.service, "x", instance="b")
    client = await place.client()
    call = await client.submit("venue.order", 7, resource_id="x", timeout=30.0)
    await eventually(lambda: heir.sent == [("a", 7)], within_s=5, what="a has sent the order")
    await active.kill()
    with pytest.raises(CallInDoubt):
        await call.result()
    return client, standby, call.call_id, active


async def said_of(place: Place, call_id: str, kind: str = PEN) -> list[tuple[Mark, Any]]:
    """What the log says of a call, decoded."""
    async with await Connection.open(ConnectOptions(place.url, name="reader")) as connection:
        subjects = subjects_of(place.namespace)
        log = await open_log(connection, subjects)
        found = []
        async for record in log.read([subjects.of_kind("*", "*", kind)]):
            frame = decode_pen(record.payload)
            for (mark, raw), body in zip(frame.entries, frame.bodies, strict=True):
                if format_call_id(raw) == call_id:
                    found.append((mark, decode(body) if body is not None else None))
        return found


async def settled(client: Client, call_id: str, timeout_s: float) -> Any:
    return await client.attach(call_id).settled(timeout_s)


def group_of(running: Running) -> str:
    return running.instance.group


async def test_the_hook_that_finds_an_execution_gives_the_call_its_result(place: Place) -> None:
    heir = Venue([], answers=[None, Executed(70)])
    client, _, call_id, _ = await in_doubt(place, heir)
    assert await settled(client, call_id, 20.0) == 70
    assert heir.sent == [("a", 7)]
    doubt = heir.asked[0]
    assert (doubt.call_id, doubt.method, doubt.arguments, doubt.claimed_by) == (
        call_id,
        "order",
        {"number": 7},
        "a",
    )
    marks = await said_of(place, call_id)
    assert [mark for mark, _ in marks] == [Mark.CLAIMED, Mark.IN_DOUBT, Mark.EXECUTED, Mark.SUCCEEDED]
    assert (marks[2][1]["source"], marks[2][1]["author"]) == ("reconcile", "venue/b")


async def test_a_call_that_the_hook_finds_not_executed_runs_on_the_standby(place: Place) -> None:
    heir = Venue([], answers=[NotExecuted("the venue has no such order")])
    heir.gate.set()
    client, _, call_id, _ = await in_doubt(place, heir)
    assert await settled(client, call_id, 20.0) == 70
    assert heir.sent == [("a", 7), ("b", 7)]
    marks = await said_of(place, call_id)
    assert [mark for mark, _ in marks] == [
        Mark.CLAIMED,
        Mark.IN_DOUBT,
        Mark.NOT_EXECUTED,
        Mark.CLAIMED,
        Mark.SUCCEEDED,
    ]
    assert marks[2][1]["reason"] == "the venue has no such order"


async def test_late_evidence_of_the_former_holder_ends_the_doubt(place: Place) -> None:
    sent: list[tuple[str, int]] = []
    first, second = Venue(sent), Venue(sent)
    active = await place.serve(first.service, "x", instance="a")
    await place.serve(second.service, "x", instance="b")
    client = await place.client()
    call = await client.submit("venue.order", 7, resource_id="x", timeout=30.0)
    await eventually(lambda: sent == [("a", 7)], within_s=5, what="a has sent the order")
    await active.fall_silent()  # it lives and works on, and is replaced
    with pytest.raises(CallInDoubt):
        await call.result()
    first.gate.set()
    assert await settled(client, call.call_id, 20.0) == 70
    assert sent == [("a", 7)]
    assert await said_of(place, call.call_id, EVIDENCE) == [(Mark.SUCCEEDED, 70)]
    marks = await said_of(place, call.call_id)
    assert [mark for mark, _ in marks] == [Mark.CLAIMED, Mark.IN_DOUBT, Mark.EXECUTED, Mark.SUCCEEDED]
    assert (marks[2][1]["source"], marks[2][1]["author"]) == ("evidence", "a")


async def test_an_operator_says_that_it_was_executed_and_the_attached_caller_has_the_answer(
    place: Place,
) -> None:
    client, standby, call_id, _ = await in_doubt(place, Venue([]))
    waiting = asyncio.ensure_future(settled(client, call_id, 20.0))
    by = {
        "command": "resolve",
        "call_id": call_id,
        "author": "ann@box",
        "reason": "the venue's blotter has it",
    }
    answer = await told(place, by | {"executed": True, "result": 42}, group_of(standby))
    assert answer["ok"] is True
    assert answer["seq"] > 0
    assert await waiting == 42
    marks = await said_of(place, call_id)
    mark, said = marks[2]
    assert mark is Mark.EXECUTED
    assert (said["source"], said["author"], said["reason"]) == ("operator", "ann@box", by["reason"])


async def test_an_operator_says_that_it_was_not_executed_and_it_runs(place: Place) -> None:
    heir = Venue([])
    heir.gate.set()
    client, standby, call_id, _ = await in_doubt(place, heir)
    by = {"command": "resolve", "call_id": call_id, "author": "ann@box"}
    assert (await told(place, by | {"executed": False}, group_of(standby)))["ok"] is True
    assert await settled(client, call_id, 20.0) == 70
    assert heir.sent == [("a", 7), ("b", 7)]


async def test_a_doubt_is_resolved_once(place: Place) -> None:
    client, standby, call_id, _ = await in_doubt(place, Venue([]))
    by = {"command": "resolve", "call_id": call_id, "author": "ann@box", "executed": True, "result": 1}
    assert (await told(place, by, group_of(standby)))["ok"] is True
    again = await told(place, by | {"result": 2}, group_of(standby))
    assert again["error"]["code"] == "not_in_doubt"
    assert "succeeded" in again["error"]["message"]
    assert await settled(client, call_id, 20.0) == 1


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"result": "forty-two"}, "invalid_result", "int"),
        ({"call_id": "no-id"}, "invalid_request", "call id"),
        ({"author": ""}, "invalid_request", "author"),
        ({"executed": False, "result": 1}, "invalid_request", "no result"),
        ({"call_id": "01960000-0000-7000-8000-000000000000"}, "unknown_call", "no such open call"),
        ({"command": "forget"}, "invalid_request", "no command"),
    ],
)
async def test_a_resolution_that_does_not_fit_changes_nothing(
    place: Place, change: dict[str, Any], code: str, text: str
) -> None:
    client, standby, call_id, _ = await in_doubt(place, Venue([]))
    by = {"command": "resolve", "call_id": call_id, "author": "ann@box", "executed": True, "result": 1}
    answer = await told(place, by | change, group_of(standby))
    assert answer["error"]["code"] == code
    assert text in answer["error"]["message"]
    with pytest.raises((CallInDoubt, CallTimeout)):
        await settled(client, call_id, 0.2)
    assert (await told(place, by, group_of(standby)))["ok"] is True


async def test_a_call_that_runs_or_has_ended_is_not_in_doubt(place: Place) -> None:
    venue = Venue([])
    running = await place.serve(venue.service, "x", instance="a")
    client = await place.client()
    call = await client.submit("venue.order", 1, resource_id="x", timeout=30.0)
    await eventually(lambda: venue.sent, within_s=5, what="it runs")
    by = {"command": "resolve", "call_id": call.call_id, "author": "ann", "executed": True, "result": 1}
    answer = await told(place, by, group_of(running))
    assert (answer["error"]["code"], answer["error"]["details"]["state"]) == ("not_in_doubt", "started")
    venue.gate.set()
    assert await call.result() == 10
    answer = await told(place, by, group_of(running))
    assert (answer["error"]["code"], answer["error"]["details"]["state"]) == ("not_in_doubt", "succeeded")
    counted = await place.recount()
    assert counted.first(parse_call_id(call.call_id))[0] is Mark.SUCCEEDED
