"""Dead letters of owned groups: listed apart, requeued, discarded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.ids import CallIds, format_call_id, parse_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk import Client, Context, Service
from aegisipc.sdk.errors import DeadLettered
from aegisipc.sdk.retry import Retry
from tests.e2e.kit import Place
from tests.e2e.kit_log import records


class Broken:
    """A service that works only once it is mended."""

    def __init__(self) -> None:
        self.service = Service("broken")
        self.ran: list[tuple[str, int]] = []
        self.is_mended = False

        async def run(number: int, ctx: Context) -> int:
            self.ran.append((ctx.instance, number))
            if not self.is_mended:
                raise ConnectionError("the venue does not answer")
            return number * 10

        retry = Retry(attempts=2, base_s=0.001)
        self.service.method(effect="idempotent", name="put", retry=retry)(run)
        self.service.method(effect="once", name="pay", retry=retry)(run)


async def tell(place: Place, command: str, call_id: str, **more: Any) -> dict[str, Any]:
    """What an operator tells the holder, and its answer."""
    subject = subjects_of(place.namespace).tell("broken", "x")
    request = {"command": command, "call_id": call_id, "author": "ann", "reason": "mended", **more}
    async with await Connection.open(ConnectOptions(place.url, name="operator")) as connection:
        answer = await connection.request(subject, json.dumps(request).encode(), timeout_s=10.0)
    found: dict[str, Any] = json.loads(answer.payload)
    return found


async def said_of(place: Place, call_id: str) -> list[tuple[str, Mark]]:
    """What the log says of a call, and on which kind of subject."""
    raw = parse_call_id(call_id)
    return [
        (record.subject.split(".")[5], mark)
        for record in await records(place)
        if record.subject.split(".")[5] in ("pen", "dead")
        for mark, of in decode_pen(record.payload).entries
        if of == raw
    ]


async def a_letter(client: Client, method: str = "put", **options: Any) -> str:
    """The id of a call that is given up."""
    call = await client.submit(f"broken.{method}", 7, resource_id="x", **options)
    with pytest.raises(DeadLettered):
        await call.result()
    return call.call_id


@pytest.mark.parametrize("method", ["put", "pay"])
async def test_a_requeued_dead_letter_runs_again_and_whoever_attaches_gets_its_result(
    place: Place, method: str
) -> None:
    broken = Broken()
    await place.serve(broken.service, "x", instance="a")
    client = await place.client()
    call_id = await a_letter(client, method, idempotency_key="k")
    assert (await said_of(place, call_id))[-1] == ("dead", Mark.DEAD_LETTERED)
    broken.is_mended = True
    told = await tell(place, "requeue", call_id)
    assert told["ok"] is True
    attached = await client.attach(call_id)
    assert await attached.settled(20) == 70
    assert len(broken.ran) == 3
    assert await client.call(f"broken.{method}", 7, resource_id="x", idempotency_key="k") == 70
    assert len(broken.ran) == 3
    marks = [mark for _, mark in await said_of(place, call_id)]
    assert marks[marks.index(Mark.DEAD_LETTERED) + 1] is Mark.REQUEUED
    assert (await said_of(place, call_id))[marks.index(Mark.REQUEUED)][0] == "dead"


async def test_a_requeued_letter_has_the_time_it_had_at_first_or_what_the_operator_says(place: Place) -> None:
    broken = Broken()
    await place.serve(broken.service, "x", instance="a")
    client = await place.client()
    call_id = await a_letter(client, timeout=33)
    found = []
    for more in ({"timeout_s": 12.5}, {}):
        assert (await tell(place, "requeue", call_id, **more))["ok"] is True
        async with asyncio.timeout(10):
            while (await said_of(place, call_id))[-1][1] is not Mark.DEAD_LETTERED:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    for record in await records(place):
        if ".dead." in record.subject:
            frame = decode_pen(record.payload)
            found += [
                decode(body or b"")["timeout_ms"]
                for (mark, _), body in zip(frame.entries, frame.bodies, strict=True)
                if mark is Mark.REQUEUED
            ]
    assert found == [12_500, 33_000]


async def test_a_discarded_letter_is_final(place: Place) -> None:
    broken = Broken()
    await place.serve(broken.service, "x", instance="a")
    client = await place.client()
    call_id = await a_letter(client)
    assert (await tell(place, "discard", call_id))["ok"] is True
    assert (await said_of(place, call_id))[-1] == ("dead", Mark.DISCARDED)
    for command in ("requeue", "discard"):
        error = (await tell(place, command, call_id))["error"]
        assert (error["code"], error["details"]["state"]) == ("not_dead_lettered", "discarded")
    assert len(broken.ran) == 2


async def test_what_is_no_dead_letter_of_the_group_is_refused(place: Place) -> None:
    broken = Broken()
    broken.is_mended = True
    await place.serve(broken.service, "x", instance="a")
    await place.serve(broken.service, "y", instance="c")
    client = await place.client()
    done = await client.submit("broken.put", 1, resource_id="x")
    await done.result()
    error = (await tell(place, "requeue", done.call_id))["error"]
    assert (error["code"], error["details"]["state"]) == ("not_dead_lettered", "succeeded")
    unknown = format_call_id(CallIds(7).next(1_700_000_000_000))
    assert (await tell(place, "discard", unknown))["error"]["code"] == "unknown_call"
    elsewhere = await client.submit("broken.put", 1, resource_id="y")
    await elsewhere.result()
    assert (await tell(place, "requeue", elsewhere.call_id))["error"]["code"] == "unknown_call"
    for bad in ({"timeout_s": 0}, {"timeout_s": "soon"}, {"author": ""}, {"call_id": "no"}, {"more": 1}):
        request: dict[str, Any] = {"call_id": done.call_id, **bad}
        assert (await tell(place, "requeue", **request))["error"]["code"] == "invalid_request"


async def test_two_commands_about_one_letter_are_obeyed_one_after_the_other(place: Place) -> None:
    broken = Broken()
    await place.serve(broken.service, "x", instance="a")
    client = await place.client()
    call_id = await a_letter(client)
    answers = await asyncio.gather(*(tell(place, "requeue", call_id) for _ in range(3)))
    codes = sorted(answer["error"]["code"] if "error" in answer else "ok" for answer in answers)
    assert codes[-1] in ("ok", "overloaded")
    assert set(codes) <= {"ok", "overloaded", "not_dead_lettered"}
    marks = [mark for _, mark in await said_of(place, call_id)]
    assert marks.count(Mark.REQUEUED) == codes.count("ok")


async def test_an_heir_knows_dead_letters_too(place: Place) -> None:
    broken = Broken()
    active = await place.serve(broken.service, "x", instance="a")
    client = await place.client()
    call_id = await a_letter(client)
    mended = Broken()
    mended.is_mended = True
    await place.serve(mended.service, "x", instance="b")
    await active.leave()
    attached = await client.attach(call_id)
    assert (await tell(place, "requeue", call_id))["ok"] is True
    assert await attached.settled(20) == 70
    assert mended.ran == [("b", 7)]
