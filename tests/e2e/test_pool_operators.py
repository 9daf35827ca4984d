"""What operators want of a pool's calls: there is an end to how much is read for it at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aegisipc.eventstore.errors import UnknownCall
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.sdk import Service
from aegisipc.sdk.hosts.pool_operators import MAX_READING
from tests.e2e.kit import Place
from tests.e2e.kit_operator import ask
from tests.support.waiting import eventually


async def test_the_log_is_read_for_a_few_commands_at_once_and_the_others_wait(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, reading, most, gate = Service("desk"), 0, 0, asyncio.Event()
    service.method(effect="pure", name="peek")(_peek)

    async def read_history(*_: Any) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await gate.wait()
        reading -= 1
        raise UnknownCall("there is none")

    await place.serve(service)
    monkeypatch.setattr("aegisipc.sdk.hosts.pool_operators.read_history", read_history)
    subject, ids = subjects_of(place.namespace).tell("desk", POOL_GROUP), CallIds(3)
    asking = [
        asyncio.create_task(
            ask(
                place,
                subject,
                command="requeue" if n % 2 else "discard",
                call_id=format_call_id(ids.next(1_700_000_000_000)),
                author="ann",
                reason="",
            )
        )
        for n in range(2 * MAX_READING)
    ]
    await eventually(lambda: reading == MAX_READING, within_s=30, what=f"{MAX_READING} are read for")
    gate.set()
    answers = await asyncio.wait_for(asyncio.gather(*asking), 30)
    assert {answer["error"]["code"] for answer in answers} == {"unknown_call"}
    assert most == MAX_READING


async def _peek() -> int:
    return 1
