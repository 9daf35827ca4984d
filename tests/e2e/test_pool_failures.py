"""Pools on a real server, under failure: workers that die in mid-run, calls that kill them, doubts."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import CONCLUSIONS, subjects_of
from aegisipc.sdk import Executed, NotExecuted
from aegisipc.sdk.errors import CallInDoubt, DeadLettered
from aegisipc.sdk.hosts.pool import PoolHost
from aegisipc.sdk.hosts.pool_consumer import ACK_WAIT_S
from tests.e2e.kit import Place, Running
from tests.e2e.kit_log import records
from tests.e2e.kit_operator import ask, command
from tests.e2e.pool_worker import POISON, pool
from tests.support.waiting import eventually

MUCH_S = 30.0
"""Far more than anything here takes."""


class Child:
    """A worker in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self, *texts: bytes) -> None:
        """Wait until it has printed lines with all of these."""
        assert self.process.stdout is not None
        missing = set(texts)
        async with asyncio.timeout(MUCH_S):
            while missing:
                line = await self.process.stdout.readline()
                assert line, "it ended"
                missing = {text for text in missing if text not in line}

    async def kill(self) -> None:
        """Send SIGKILL and wait for its end."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def child(place: Place, name: str, how: str, *, is_awaited: bool = True) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.pool_worker", place.url, place.namespace, name, how),
        stdout=asyncio.subprocess.PIPE,
    )
    found = Child(process)
    try:
        if is_awaited:
            await found.line(b"ready")
        yield found
    finally:
        await found.kill()


def host_of(running: Running) -> PoolHost:
    host = running.host
    assert isinstance(host, PoolHost)
    return host


async def resolve(place: Place, call_id: str, **said: Any) -> dict[str, Any]:
    """What an operator tells the pool."""
    said = {"command": "resolve", "call_id": call_id, "author": "ann", "reason": "asked the venue", **said}
    return await ask(place, subjects_of(place.namespace).tell("pool", "_pool"), **said)


# -- a worker is killed --------------------------------------------------------------------------------


async def test_an_idempotent_call_of_a_worker_that_is_killed_is_run_by_another_one_within_seconds(
    place: Place,
) -> None:
    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.echo", 7, timeout=60)
        await dying.line(b"running echo 7")
        await place.serve(pool(), instance="w2")
        await dying.kill()
        began = time.monotonic()
        assert await call.result() == 7
        assert time.monotonic() - began < MUCH_S
    counts = await place.recount()
    assert (counts.without, counts.several) == ([], [])


async def test_a_once_call_of_a_worker_that_is_killed_is_in_doubt_until_an_operator_tells_its_result(
    place: Place,
) -> None:
    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.pay", 7, timeout=60)
        await dying.line(b"running pay 7")
        await place.serve(pool(), instance="w2")
        await dying.kill()
    with pytest.raises(CallInDoubt):
        await call.result()
    attached = await client.attach(call.call_id, returns=int)
    settled = asyncio.create_task(attached.settled())
    refused = await resolve(place, call.call_id, executed=True, result="seven")
    assert refused["error"]["code"] == "invalid_result"
    assert (await resolve(place, call.call_id, executed=True, result=70))["ok"] is True
    assert await settled == 70
    again = await resolve(place, call.call_id, executed=False)
    assert (again["error"]["code"], again["error"]["details"]["state"]) == ("not_in_doubt", "succeeded")


async def test_a_call_that_was_found_not_to_have_run_is_run_by_whoever_has_its_frame(place: Place) -> None:
    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.pay", 7, timeout=60)
        await dying.line(b"running pay 7")
        holder = await place.serve(pool(), instance="w2")
        await dying.kill()
    with pytest.raises(CallInDoubt):
        await call.result()
    await place.serve(pool(), instance="w3")
    assert holder.host.pulse()["doubts"] == 1
    await holder.leave()  # its frame goes to w3, which resolves as the eldest then
    assert (await resolve(place, call.call_id, executed=False))["ok"] is True
    assert await call.settled(MUCH_S) == 7
    counts = await place.recount()
    assert counts.claims[parse_call_id(call.call_id)] == 2


async def test_the_eldest_worker_resolves_a_doubt_whose_frame_another_one_has(place: Place) -> None:
    eldest = await place.serve(pool(), instance="w0")
    eldest.host.hold("it shall not have the frame")
    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.pay", 7, timeout=60)
        await dying.line(b"running pay 7")
        holder = await place.serve(pool(), instance="w2")
        await dying.kill()
    with pytest.raises(CallInDoubt):
        await call.result()
    call_id = parse_call_id(call.call_id)
    assert list(host_of(holder)._worker.doubts) == [call_id]
    assert host_of(eldest)._worker.is_eldest
    told = await resolve(place, call.call_id, executed=False)
    assert told["ok"] is True
    assert await call.settled(MUCH_S) == 7
    counts = await place.recount()
    assert (counts.claims[call_id], counts.writers[call_id]) == (2, "w2")
    unknown = await resolve(place, "019a9e6e-8d5b-7000-8000-3b9aca000001", executed=False)
    assert unknown["error"]["code"] == "unknown_call"
    nonsense = await resolve(place, "x", executed=False)
    assert nonsense["error"]["code"] == "invalid_request"


async def test_the_late_outcome_of_a_worker_that_was_taken_for_lost_ends_the_doubt(place: Place) -> None:
    ended, started = asyncio.Event(), asyncio.Event()

    def wait(*_: object) -> Any:
        started.set()
        return ended.wait()

    first = await place.serve(pool(wait), instance="w1")
    client = await place.client()
    call = await client.submit("pool.pay", 7, timeout=60)
    await started.wait()
    former = first.incarnation
    await place.serve(pool(), instance="w2")
    await first.fall_silent()
    await eventually(lambda: first.incarnation not in ("", former), within_s=MUCH_S, what="its next run")
    with pytest.raises(CallInDoubt):
        await call.result()
    ended.set()
    assert await call.settled(MUCH_S) == 7
    assert Mark.EXECUTED in await marks_in(place)
    counts = await place.recount()
    assert [mark for mark, _ in counts.outcomes[parse_call_id(call.call_id)]] == [
        Mark.IN_DOUBT,
        Mark.SUCCEEDED,
    ]


@pytest.mark.parametrize("is_executed", [True, False])
async def test_the_services_own_hook_ends_a_doubt(place: Place, is_executed: bool) -> None:
    service = pool()
    asked: list[tuple[str, dict[str, Any]]] = []

    @service.reconcile
    async def look(doubt: Any) -> Any:
        asked.append((doubt.claimed_by, dict(doubt.arguments)))
        if len(asked) == 1:
            return None
        return Executed(70) if is_executed else NotExecuted("no such payment")

    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.pay", 7, timeout=60)
        await dying.line(b"running pay 7")
        await place.serve(service, instance="w2")
        await dying.kill()
    assert await call.settled(MUCH_S) == (70 if is_executed else 7)
    assert asked == [("w1", {"number": 7})] * 2


async def test_a_call_that_kills_its_workers_is_a_dead_letter_and_all_others_succeed(place: Place) -> None:
    client = await place.client()
    deaths: Counter[str] = Counter()

    async def keep_alive(name: str) -> None:
        while True:  # it may die before it says that it is ready
            async with child(place, name, "deadly", is_awaited=False) as worker:
                await worker.process.wait()
                deaths[name] += 1

    async with child(place, "w1", "deadly") as first, asyncio.TaskGroup() as group:
        calls = [await client.submit("pool.echo", n, timeout=120) for n in range(50)]
        keepers = [group.create_task(keep_alive(name)) for name in ("w2", "w3")]
        outcomes = await asyncio.gather(*(call.settled(100) for call in calls), return_exceptions=True)
        deaths["w1"] += first.process.returncode is not None
        for keeper in keepers:
            keeper.cancel()
    dead = outcomes.pop(POISON)
    assert isinstance(dead, DeadLettered)
    assert outcomes == [n for n in range(50) if n != POISON]
    assert sum(deaths.values()) == 4  # the one that nobody suspected yet, and three attempts
    counts = await place.recount()
    assert counts.without == []


# -- a worker is slow, or stands still ------------------------------------------------------------------


async def test_a_handler_that_runs_for_long_keeps_its_call(place: Place) -> None:
    runs: Counter[int] = Counter()
    ended = asyncio.Event()

    def slow(_: str, number: int) -> Any:
        runs[number] += 1
        return ended.wait()

    for name in ("w1", "w2"):
        await place.serve(pool(slow), instance=name)
    client = await place.client()
    call = await client.submit("pool.echo", 7, timeout=60)
    async with await Connection.open(ConnectOptions(place.url)) as connection:
        await eventually(lambda: runs[7], within_s=MUCH_S, what="the start")
        until = asyncio.get_running_loop().time() + 3 * ACK_WAIT_S
        while asyncio.get_running_loop().time() < until:
            info = await consumer_info(place, connection)
            assert (info["num_ack_pending"], info["num_redelivered"]) == (1, 0)
    ended.set()
    assert await call.result() == 7
    assert runs[7] == 1


async def test_a_worker_whose_event_loop_stands_still_is_doubled_only_if_that_does_no_harm(
    place: Place,
) -> None:
    client = await place.client()
    async with child(place, "w1", "stuck") as frozen:
        calls = [await client.submit(f"pool.{method}", 7, timeout=8) for method in ("pay", "echo")]
        await frozen.line(b"running pay 7", b"running echo 7")
        runs: Counter[str] = Counter()

        def count(method: str, _: int) -> None:
            runs[method] += 1

        await place.serve(pool(count), instance="w2")
        frozen.process.send_signal(19)  # SIGSTOP
        try:
            assert await calls[1].result() == 7
            with pytest.raises(CallInDoubt):  # taken for lost after a while, as it is silent for too long
                await calls[0].result()
        finally:
            frozen.process.send_signal(18)  # SIGCONT
        assert runs == {"echo": 1}


async def marks_in(place: Place) -> set[Mark]:
    """What is said of calls in the log."""
    subjects = subjects_of(place.namespace)
    pens = [r for r in await records(place) if subjects.parse(r.subject).kind in CONCLUSIONS]
    return {entry.mark for record in pens for entry in decode_pen(record.payload).entries}


async def consumer_info(place: Place, connection: Connection) -> dict[str, Any]:
    stream = subjects_of(place.namespace).stream
    answer = await connection.request(f"$JS.API.CONSUMER.INFO.{stream}.pool-pool", b"", timeout_s=5)
    info: dict[str, Any] = json.loads(answer.payload)
    return info


async def test_a_consumer_of_an_earlier_release_is_brought_up_to_date_and_keeps_its_place(
    place: Place,
) -> None:
    first = await place.serve(pool(), instance="w1")
    client = await place.client()
    assert await client.call("pool.echo", 1) == 1
    await first.leave()
    stream = subjects_of(place.namespace).stream
    async with await Connection.open(ConnectOptions(place.url)) as connection:
        info = await consumer_info(place, connection)
        old = {**info["config"], "ack_wait": 30_000_000_000}
        request = json.dumps({"stream_name": stream, "config": old, "action": "update"}).encode()
        subject = f"$JS.API.CONSUMER.CREATE.{stream}.pool-pool.{old['filter_subject']}"
        await connection.request(subject, request, timeout_s=5)
        call = await client.submit("pool.echo", 2, timeout=60)
        taken = asyncio.Event()  # by a worker of that release, which dies
        await connection.subscribe("_INBOX.former", lambda _: taken.set())
        pull = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.pool-pool"
        await connection.publish(pull, b'{"batch":1}', reply="_INBOX.former")
        async with asyncio.timeout(MUCH_S):
            await taken.wait()
        await place.serve(pool(), instance="w2")
        now = await consumer_info(place, connection)
    assert now["config"]["ack_wait"] == ACK_WAIT_S * 1e9
    assert now["delivered"]["stream_seq"] >= info["delivered"]["stream_seq"]
    assert await call.result(20) == 2  # long before those 30 s


# -- an operator holds the pool --------------------------------------------------------------------------


async def test_a_paused_pool_accepts_and_queues_and_goes_on_when_it_is_resumed(place: Place) -> None:
    runs: list[int] = []
    running = await place.serve(pool(lambda _, number: runs.append(number)), instance="w1")
    client = await place.client()
    assert await client.call("pool.echo", 1) == 1
    await command(place, "pause", service="pool", group="_pool")
    worker = host_of(running)._worker
    await eventually(lambda: not worker.standing.may_start, within_s=MUCH_S, what="the pause")
    calls = [await client.submit("pool.echo", n, timeout=60) for n in (2, 3)]
    assert runs == [1]
    await command(place, "resume", service="pool", group="_pool")
    assert [await call.result() for call in calls] == [2, 3]


async def test_a_worker_that_is_held_hands_its_calls_to_another_one_and_goes_on_when_released(
    place: Place,
) -> None:
    ended = asyncio.Event()
    runs: list[str] = []

    def wait(*_: object) -> Any:
        runs.append("w1")
        return ended.wait()

    first = await place.serve(pool(wait, max_running=2), instance="w1")
    second = await place.serve(pool(), instance="w2")
    second.host.hold("it is not its turn yet")
    client = await place.client()
    worker = host_of(first)._worker
    bursts = [[client.submit("pool.echo", n, timeout=60) for n in ns] for ns in ((0, 1, 2), (3, 4, 5))]
    calls = [call for burst in bursts for call in await asyncio.gather(*burst)]
    await eventually(lambda: len(runs) == 2 and worker.waiting, within_s=MUCH_S, what="a full worker")
    first.host.hold("not well")
    second.host.release()
    ended.set()
    assert [await call.result() for call in calls] == list(range(6))
    assert len(runs) == 2
    assert Mark.ATTEMPTED not in await marks_in(place)  # what is given back is under no suspicion
    first.host.release()
    await eventually(lambda: host_of(first).consumer._pulls, within_s=MUCH_S, what="its next pull")
