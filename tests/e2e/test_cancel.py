"""Cancelling calls of owned groups, wherever they are."""

from __future__ import annotations

import asyncio

import pytest

from aegisipc.sdk import Context, Service
from aegisipc.sdk.errors import CallCancelled, CallFinished
from aegisipc.sdk.retry import Retry
from tests.e2e.kit import Place
from tests.support.waiting import eventually


class Slow:
    """A service whose handlers wait for a gate."""

    def __init__(self) -> None:
        self.service = Service("slow", max_running=4)
        self.ran: list[int] = []
        self.stopped: list[int] = []
        self.gate = asyncio.Event()

        async def run(number: int, ctx: Context) -> int:
            self.ran.append(number)
            if number < 0:
                raise ConnectionError("it never works")
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.stopped.append(number)
                if number > 100:
                    return number
                raise
            return number

        retry = Retry(attempts=3, base_s=5.0)
        self.service.method(effect="idempotent", name="put", retry=retry)(run)
        self.service.method(effect="once", name="pay", retry=retry)(run)

    async def has_run(self, count: int) -> None:
        await eventually(lambda: len(self.ran) >= count, within_s=5, what=f"{count} starts, not {self.ran}")


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("method", ["put", "pay"])
async def test_a_call_that_waits_never_runs_and_its_key_is_free_again(
    place: Place, method: str, key: str | None
) -> None:
    slow = Slow()
    await place.serve(slow.service, "x")
    client = await place.client()
    runs = await client.submit(f"slow.{method}", 1, resource_id="x")
    waits = await client.submit(f"slow.{method}", 2, resource_id="x", idempotency_key=key)
    await slow.has_run(1)
    await waits.cancel("not needed")
    with pytest.raises(CallCancelled) as caught:
        await waits.result()
    assert (caught.value.started, caught.value.reason) == (False, "not needed")
    slow.gate.set()
    assert await runs.result() == 1
    assert await client.call(f"slow.{method}", 2, resource_id="x", idempotency_key=key) == 2
    assert slow.ran == [1, 2]


@pytest.mark.parametrize("method", ["put", "pay"])
async def test_the_handler_of_a_running_call_is_cancelled_and_the_next_of_its_resource_runs(
    place: Place, method: str
) -> None:
    slow = Slow()
    await place.serve(slow.service, "x")
    client = await place.client()
    runs = await client.submit(f"slow.{method}", 1, resource_id="x")
    after = await client.submit(f"slow.{method}", 2, resource_id="x")
    await slow.has_run(1)
    await runs.cancel()
    with pytest.raises(CallCancelled) as caught:
        await runs.result()
    assert caught.value.started is True
    await slow.has_run(2)
    slow.gate.set()
    assert await after.result() == 2
    assert slow.stopped == [1]


async def test_a_handler_that_returns_all_the_same_has_the_last_word(place: Place) -> None:
    slow = Slow()
    await place.serve(slow.service, "x")
    client = await place.client()
    runs = await client.submit("slow.put", 101, resource_id="x")
    await slow.has_run(1)
    with pytest.raises(CallFinished) as caught:
        await runs.cancel()
    assert caught.value.state == "succeeded"
    assert await runs.result() == 101


async def test_a_call_that_waits_for_its_next_attempt_is_not_run_again(place: Place) -> None:
    slow = Slow()
    running = await place.serve(slow.service, "x")
    client = await place.client()
    fails = await client.submit("slow.put", -1, resource_id="x", timeout=60)
    after = await client.submit("slow.put", 2, resource_id="x")
    await slow.has_run(1)
    await eventually(lambda: running.host.is_quiet, within_s=5, what="quiet")
    await fails.cancel()
    with pytest.raises(CallCancelled) as caught:
        await fails.result()
    assert caught.value.started is True
    slow.gate.set()
    assert await after.result() == 2
    assert slow.ran == [-1, 2]


async def test_a_call_that_has_ended_cannot_be_cancelled(place: Place) -> None:
    slow = Slow()
    slow.gate.set()
    await place.serve(slow.service, "x")
    client = await place.client()
    done = await client.submit("slow.put", 1, resource_id="x")
    assert await done.result() == 1
    with pytest.raises(CallFinished):
        await done.cancel()


async def test_an_heir_cancels_what_was_to_be_cancelled_while_nobody_was_there(place: Place) -> None:
    slow = Slow()
    active = await place.serve(slow.service, "x", instance="a")
    client = await place.client()
    await client.submit("slow.put", 1, resource_id="x", timeout=60)
    waits = await client.submit("slow.pay", 2, resource_id="x", timeout=60)
    await slow.has_run(1)
    await active.kill()
    cancelling = asyncio.create_task(waits.cancel(timeout=20))
    heir = Slow()
    heir.gate.set()
    await place.serve(heir.service, "x", instance="b")
    await cancelling
    with pytest.raises(CallCancelled) as caught:
        await waits.result()
    assert caught.value.started is False
    assert 2 not in slow.ran + heir.ran
