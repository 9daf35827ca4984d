"""Groups, pools and what becomes of calls when those who run them go away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.lifecycles import InstanceState, RouterState
from aegisipc.sdk import Context, Service
from aegisipc.sdk.errors import AegisError, CallInDoubt, ContractConflict, InstanceReplaced, ResourceConflict
from tests.e2e.kit import Place
from tests.support.waiting import eventually


class Gate:
    """A service whose methods wait for a gate; ``started`` holds (instance, value) of every start."""

    def __init__(self, name: str = "gated", **options: int) -> None:
        self.service = Service(name, **options)
        self.open = asyncio.Event()
        self.started: list[tuple[str, int]] = []

        async def run(value: int, ctx: Context) -> str:
            self.started.append((ctx.instance, value))
            await self.open.wait()
            return ctx.instance

        self.service.method(effect="idempotent", name="put")(run)
        self.service.method(effect="once", name="pay")(run)

    async def has_started(self, count: int) -> None:
        await eventually(
            lambda: len(self.started) >= count, within_s=5, what=f"{count} starts, not {self.started}"
        )


# -- joining -------------------------------------------------------------------------------------------


async def test_a_service_of_the_same_name_with_other_methods_is_refused(place: Place) -> None:
    one, other = Service("orders"), Service("orders")

    @one.method(effect="pure", name="get")
    async def get_int(key: int) -> int:
        return key

    @other.method(effect="pure", name="get")
    async def get_text(key: str) -> int:
        return 1

    await place.serve(one, "x", instance="first")
    with pytest.raises(ContractConflict) as caught:
        await place.serve(other, "y", instance="second")
    assert caught.value.message.startswith(
        "cannot admit 'second': whoever calls service 'orders' as first offers it would break"
    )
    assert "(orders.get argument key: integer became string)" in caught.value.message
    assert "stop those instances first" in caught.value.message


async def test_a_resource_that_another_group_holds_is_refused(place: Place) -> None:
    gate = Gate()
    await place.serve(gate.service, "x", "y", instance="first", group="g1")
    with pytest.raises(ResourceConflict) as caught:
        await place.serve(gate.service, "y", instance="second", group="g2")
    assert (caught.value.resource, caught.value.group, caught.value.requested_by) == ("y", "g1", "g2")
    assert "(its instances are first)" in caught.value.message


# -- takeover ------------------------------------------------------------------------------------------


async def test_a_standby_takes_over_idempotent_calls_of_an_active_that_died(place: Place) -> None:
    gate = Gate()
    active = await place.serve(gate.service, "x", instance="a")
    await place.serve(gate.service, "x", instance="b")
    client = await place.client()
    calls = [await client.submit("gated.put", n, resource_id="x") for n in range(3)]
    await gate.has_started(1)
    await active.kill()
    gate.open.set()
    assert [await call.result() for call in calls] == ["b"] * 3
    assert gate.started == [("a", 0), ("b", 0), ("b", 1), ("b", 2)]
    counted = await place.recount()
    assert (counted.without, counted.several, counted.marks()) == ([], [], {Mark.SUCCEEDED: 3})


async def test_a_once_call_that_had_started_is_in_doubt_and_is_never_run_again(place: Place) -> None:
    gate = Gate()
    active = await place.serve(gate.service, "x", instance="a")
    await place.serve(gate.service, "x", instance="b")
    client = await place.client()
    started = await client.submit("gated.pay", 0, resource_id="x")
    waiting = await client.submit("gated.pay", 1, resource_id="x")
    await gate.has_started(1)
    await active.kill()
    gate.open.set()
    with pytest.raises(CallInDoubt, match="was started by an instance that is gone") as caught:
        await started.result()
    assert caught.value.call_id == started.call_id
    assert await waiting.result() == "b"
    assert gate.started == [("a", 0), ("b", 1)]
    counted = await place.recount()
    assert (counted.without, counted.several) == ([], [])
    mark, why = counted.first(parse_call_id(started.call_id))
    assert mark is Mark.IN_DOUBT
    assert decode(why or b"")["details"] == {"claimed_by": "a", "claimed_epoch": 1, "found_by": "b"}


async def test_an_instance_that_is_restarted_finds_the_open_calls_and_doubts_the_claimed_one(
    place: Place,
) -> None:
    gate = Gate()
    former = await place.serve(gate.service, "x", "y", instance="a")
    client = await place.client()
    claimed = await client.submit("gated.pay", 0, resource_id="x")
    plain = await client.submit("gated.put", 1, resource_id="y")
    await gate.has_started(2)
    await former.kill()
    unclaimed = await client.submit("gated.pay", 2, resource_id="x")
    gate.open.set()
    await place.serve(gate.service, "x", "y", instance="a")
    with pytest.raises(CallInDoubt):
        await claimed.result()
    assert [await plain.result(), await unclaimed.result()] == ["a", "a"]
    assert Counter(value for _, value in gate.started) == {0: 1, 1: 2, 2: 1}
    assert (await place.recount()).without == []


async def test_an_instance_that_was_taken_for_lost_rejoins_by_itself(place: Place) -> None:
    gate = Gate()
    gate.open.set()
    running = await place.serve(gate.service, "x", instance="a")
    client = await place.client()
    assert await client.call("gated.put", 1, resource_id="x") == "a"
    former = running.incarnation
    await running.fall_silent()
    await eventually(lambda: running.incarnation not in ("", former), within_s=5, what="a new incarnation")
    assert await client.call("gated.put", 2, resource_id="x") == "a"


@pytest.mark.parametrize("resources", [("x",), ()], ids=["group", "pool"])
async def test_of_two_processes_with_one_instance_id_the_later_one_serves_and_the_former_ends(
    place: Place, resources: tuple[str, ...]
) -> None:
    former, later = Gate(), Gate()
    first = await place.serve(former.service, *resources, instance="a")
    await place.serve(later.service, *resources, instance="a")
    with pytest.raises(InstanceReplaced, match="another process registered under that id"):
        await asyncio.wait_for(asyncio.shield(first.task), 3)
    await first.instance.stop()
    later.open.set()
    client = await place.client()
    assert await client.call("gated.put", 1, timeout=5) == "a"
    assert (former.started, later.started) == ([], [("a", 1)])


async def test_calls_go_on_while_every_router_is_down(place: Place) -> None:
    gate = Gate()
    gate.open.set()
    await place.serve(gate.service, "x", instance="a")
    client = await place.client()
    for router in place.routers:
        await router.stop()
    answers = await asyncio.gather(*[client.call("gated.put", n, resource_id="x") for n in range(50)])
    assert answers == ["a"] * 50


@pytest.mark.parametrize("resigns", [True, False])
async def test_another_router_takes_the_lead_when_the_leader_goes(place: Place, resigns: bool) -> None:
    gate = Gate()
    gate.open.set()
    (first,) = place.routers
    second = await place.router(id="second")
    await eventually(lambda: first.phase is RouterState.LEADING, within_s=2)
    assert str(second.phase) == str(RouterState.FOLLOWING)
    if resigns:
        await first.stop()
    else:
        for task in first._tasks:  # it neither pulses nor decides any more
            task.cancel()
    await place.serve(gate.service, "x", instance="a")
    assert await (await place.client()).call("gated.put", 1, resource_id="x") == "a"
    lead = second.state.topology.leadership
    assert (lead.router, lead.term, str(second.phase)) == ("second", 2, str(RouterState.LEADING))


async def test_a_leaving_holder_hands_over_without_a_lost_or_doubted_call(place: Place) -> None:
    gate = Gate()
    gate.open.set()
    active = await place.serve(gate.service, "x", instance="a")
    await place.serve(gate.service, "x", instance="b")
    client = await place.client()
    calls = [asyncio.create_task(client.call("gated.pay", n, resource_id="x")) for n in range(100)]
    await gate.has_started(10)
    await active.leave()
    answers = await asyncio.gather(*calls)
    assert set(answers) == {"a", "b"}
    assert [value for _, value in gate.started] == list(range(100))
    counted = await place.recount()
    assert (counted.without, counted.several, counted.marks()) == ([], [], {Mark.SUCCEEDED: 100})


async def test_sigterm_finishes_what_runs_and_leaves(place: Place) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.drained",
        place.url,
        place.namespace,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert process.stdout is not None
    try:

        async def line(text: bytes) -> None:
            assert process.stdout is not None
            async with asyncio.timeout(10):
                while text not in await process.stdout.readline():
                    assert not process.stdout.at_eof()

        await line(b"ready")
        client = await place.client()
        runs = await client.submit("slow.work", 300, resource_id="x")
        waits = await client.submit("slow.work", 1, resource_id="x", timeout=60)
        await line(b"running")
        process.send_signal(signal.SIGTERM)
        assert await runs.result() == 300
        assert await asyncio.wait_for(process.wait(), 5) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    await eventually(lambda: _state(client, "slow", "x") is InstanceState.LEFT, within_s=2, what="left")
    counted = await place.recount()
    assert counted.without == [waits.call_id]  # it waits, durably, for the next instance
    assert counted.claims[parse_call_id(waits.call_id)] == 0


def _state(client: object, service: str, group: str) -> InstanceState | None:
    view = client.topology.group(service, group)  # type: ignore[attr-defined]
    return next((i.state for i in view.instances.values()), None) if view else None


# -- pools ---------------------------------------------------------------------------------------------


async def test_a_burst_is_spread_over_the_workers_of_a_pool(place: Place) -> None:
    gate = Gate(max_running=128)
    for name in ("w1", "w2", "w3"):
        await place.serve(gate.service, instance=name)
    client = await place.client()
    calls = [asyncio.create_task(client.call("gated.put", n)) for n in range(300)]
    await eventually(
        lambda: len({name for name, _ in gate.started}) == 3, within_s=5, what="three workers at work"
    )
    gate.open.set()
    share = Counter(await asyncio.gather(*calls))
    assert sum(share.values()) == 300
    assert max(share.values()) < 200
    counted = await place.recount()
    assert (len(counted.accepted), counted.without, counted.several) == (300, [], [])


async def test_the_calls_of_a_worker_that_died_are_finished_by_another(place: Place) -> None:
    gate = Gate()
    first = await place.serve(gate.service, instance="w1")
    client = await place.client()
    calls = [await client.submit("gated.put", n) for n in range(5)]
    await gate.has_started(5)
    await place.serve(gate.service, instance="w2")
    await first.kill()
    gate.open.set()
    assert [await call.result() for call in calls] == ["w2"] * 5
    counted = await place.recount()
    assert (len(counted.accepted), counted.without, counted.several) == (5, [], [])


async def test_the_calls_of_a_worker_that_vanished_are_handed_out_again_after_a_while(place: Place) -> None:
    gate = Gate()
    first = await place.serve(gate.service, instance="w1")
    client = await place.client()
    plain = await client.submit("gated.put", 1)
    claimed = await client.submit("gated.pay", 2)
    await gate.has_started(2)
    await first.vanish()
    await place.serve(gate.service, instance="w2")
    gate.open.set()
    assert await plain.result() == "w2"
    with pytest.raises(CallInDoubt):
        await claimed.result()
    assert gate.started == [("w1", 1), ("w1", 2), ("w2", 1)]
    counted = await place.recount()
    assert (counted.without, counted.several) == ([], [])


async def test_a_once_call_in_a_pool_never_starts_twice(place: Place) -> None:
    gate = Gate()
    workers = [await place.serve(gate.service, instance=name) for name in ("w1", "w2")]
    client = await place.client()
    calls = [await client.submit("gated.pay", n) for n in range(10)]
    await gate.has_started(10)
    busiest = Counter(name for name, _ in gate.started).most_common(1)[0][0]
    mine = {value for name, value in gate.started if name == busiest}
    other = next(worker.id for worker in workers if worker.id != busiest)
    await next(worker for worker in workers if worker.id == busiest).kill()
    gate.open.set()
    outcomes = {}
    for n, call in enumerate(calls):
        try:
            outcomes[n] = await call.result()
        except CallInDoubt:
            outcomes[n] = "doubt"
    assert outcomes == {n: "doubt" if n in mine else other for n in range(10)}
    assert len(gate.started) == 10
    counted = await place.recount()
    assert (counted.without, counted.several) == ([], [])


async def test_a_draining_worker_finishes_its_calls_and_leaves_the_rest_to_others(place: Place) -> None:
    gate = Gate(max_running=2)
    first = await place.serve(gate.service, instance="w1", drain_timeout_s=5.0)
    client = await place.client()
    calls = [await client.submit("gated.pay", n) for n in range(6)]
    await gate.has_started(2)
    leaving = asyncio.create_task(first.leave())
    await eventually(lambda: _state(client, "gated", "_pool") is InstanceState.DRAINING, within_s=2)
    gate.open.set()
    await leaving
    await place.serve(gate.service, instance="w2")
    answers = [await call.result() for call in calls]
    assert Counter(answers) == {"w1": 2, "w2": 4}
    assert len(gate.started) == 6


# -- the server goes away ------------------------------------------------------------------------------


async def test_replies_that_were_missed_are_asked_for(own_place: Place) -> None:
    gate = Gate()
    await own_place.serve(gate.service, "x", instance="a")
    client = await own_place.client()
    subscription = client._dispatcher._subscriptions[0]
    call = asyncio.create_task(client.call("gated.put", 1, resource_id="x"))
    await gate.has_started(1)
    await subscription.unsubscribe()  # the reply goes nowhere
    gate.open.set()
    assert await asyncio.wait_for(call, 3) == "a"


@pytest.mark.parametrize("is_pool", [False, True], ids=["group", "pool"])
async def test_a_server_that_is_killed_and_restarted_under_load_loses_no_accepted_call(
    own_place: Place, is_pool: bool
) -> None:
    ledger: Counter[int] = Counter()
    service = Service("ledger")

    @service.method(effect="once")
    async def pay(number: int) -> int:
        ledger[number] += 1
        await asyncio.sleep(0.001)
        return number

    @service.method(effect="idempotent")
    async def put(number: int) -> int:
        return number

    if is_pool:
        for name in ("a", "b"):
            await own_place.serve(service, instance=name)
    else:
        await own_place.serve(service, "x", "y", instance="a")
    client = await own_place.client()
    submitted: dict[str, int] = {}
    stop = asyncio.Event()

    async def load(method: str, resource: str, first: int) -> None:
        number, about = first, None if is_pool else resource
        while not stop.is_set():
            number += 1
            try:
                pending = await client.submit(f"ledger.{method}", number, resource_id=about, timeout=30)
            except AegisError:  # it was not accepted, as far as this client can tell
                await asyncio.sleep(0.01)
                continue
            submitted[pending.call_id] = number

    loads = [
        asyncio.create_task(load(method, resource, first))
        for method, resource, first in [
            ("pay", "x", 0),
            ("put", "y", 10_000),
            ("pay", "y", 20_000),
            ("put", "x", 30_000),
        ]
    ]
    await eventually(lambda: len(submitted) > 100, within_s=5, what="load")
    for _ in range(2):
        await own_place.server.kill()
        await own_place.server.start()
        before = len(submitted)
        await eventually(lambda: len(submitted) > before + 100, within_s=10, what="calls after the restart")  # noqa: B023
    stop.set()
    await asyncio.gather(*loads)
    values = {}
    for call_id, number in submitted.items():
        values[call_id] = await (await client.attach(call_id)).result(timeout=10)
        assert values[call_id] == number
    counted = await own_place.recount()
    assert set(map(parse_call_id, submitted)) <= set(counted.accepted)
    assert (counted.without, counted.several) == ([], [])
    assert max(ledger.values()) == 1
