"""Retries in owned groups: in the log, in order, and going on under another holder."""

from __future__ import annotations

import time

import pytest

from aegisipc.sdk import Context, Service, ServiceError
from aegisipc.sdk.errors import DeadLettered, RemoteError
from aegisipc.sdk.retry import Retry
from tests.e2e.kit import Place
from tests.support.waiting import eventually


class Flaky:
    """A service whose handlers fail as often as they are told to."""

    def __init__(self, retry: Retry, fails: int, ran: list[tuple[str, int]] | None = None) -> None:
        self.service = Service("flaky")
        self.ran: list[tuple[str, int]] = [] if ran is None else ran
        self.times: list[float] = []

        async def run(number: int, ctx: Context) -> str:
            self.ran.append((ctx.instance, number))
            self.times.append(time.monotonic())
            if number == 0:
                return ctx.instance
            if number < 0:
                raise ServiceError("no_such_order", "it is not there")
            if len([n for _, n in self.ran if n == number]) <= fails:
                raise ConnectionError("the venue does not answer")
            return ctx.instance

        self.service.method(effect="idempotent", name="put", retry=retry)(run)
        self.service.method(effect="once", name="pay", retry=retry)(run)


@pytest.mark.parametrize("method", ["put", "pay"])
async def test_a_call_that_fails_is_run_again_until_it_succeeds_and_the_next_of_its_resource_waits(
    place: Place, method: str
) -> None:
    flaky = Flaky(Retry(attempts=4, base_s=0.02, factor=2.0, jitter=0.0), fails=3)
    await place.serve(flaky.service, "x", instance="a")
    client = await place.client()
    first = await client.submit(f"flaky.{method}", 1, resource_id="x")
    second = await client.submit(f"flaky.{method}", 0, resource_id="x")
    assert [await first.result(), await second.result()] == ["a", "a"]
    assert [number for _, number in flaky.ran] == [1, 1, 1, 1, 0]
    waits = [later - earlier for earlier, later in zip(flaky.times[:3], flaky.times[1:4], strict=True)]
    assert all(wait >= least for wait, least in zip(waits, (0.018, 0.038, 0.078), strict=True)), waits


async def test_after_the_last_attempt_its_caller_is_told_all_about_it(place: Place) -> None:
    flaky = Flaky(Retry(attempts=2, base_s=0.001), fails=9)
    await place.serve(flaky.service, "x")
    client = await place.client()
    with pytest.raises(DeadLettered) as caught:
        await client.call("flaky.put", 1, resource_id="x")
    error = caught.value
    assert (error.attempts, error.reason) == (2, "attempts")
    assert "the venue does not answer" in error.error["message"]
    assert any("ConnectionError" in line for line in error.stack)
    assert len(flaky.ran) == 2


async def test_an_answer_of_the_service_is_no_failure(place: Place) -> None:
    flaky = Flaky(Retry(attempts=5), fails=9)
    await place.serve(flaky.service, "x")
    client = await place.client()
    with pytest.raises(RemoteError, match="it is not there"):
        await client.call("flaky.put", -1, resource_id="x")
    assert len(flaky.ran) == 1


async def test_what_would_come_too_late_is_not_tried(place: Place) -> None:
    flaky = Flaky(Retry(attempts=5, base_s=10.0), fails=9)
    await place.serve(flaky.service, "x")
    client = await place.client()
    with pytest.raises(DeadLettered) as caught:
        await client.call("flaky.put", 1, resource_id="x", timeout=5)
    assert caught.value.reason == "deadline"


@pytest.mark.parametrize("method", ["put", "pay"])
async def test_an_heir_goes_on_with_the_attempts_and_nothing_overtakes_them(
    place: Place, method: str
) -> None:
    ran: list[tuple[str, int]] = []
    retry = Retry(attempts=3, base_s=2.0, factor=1.0, jitter=0.0)
    active = await place.serve(Flaky(retry, 2, ran).service, "x", instance="a")
    await place.serve(Flaky(retry, 2, ran).service, "x", instance="b")
    client = await place.client()
    first = await client.submit(f"flaky.{method}", 1, resource_id="x", timeout=30)
    second = await client.submit(f"flaky.{method}", 0, resource_id="x", timeout=30)
    await eventually(lambda: ran, within_s=5, what="a start")
    await eventually(lambda: active.host.is_quiet, within_s=5, what="quiet")
    await active.kill()
    assert [await first.result(), await second.result()] == ["b", "b"]
    assert ran == [("a", 1), ("b", 1), ("b", 1), ("b", 0)]
