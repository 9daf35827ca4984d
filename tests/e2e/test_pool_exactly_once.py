"""Pools on a real server: keys, retries, dead letters that come back, requests to cancel; and workers that
are killed in each of these.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from aegisipc.eventstore.events import CancelRequested, encode_event
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.keys import decode_segment
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import CONCLUSIONS, KEYS, subjects_of
from aegisipc.sdk.client import Client
from aegisipc.sdk.errors import CallCancelled, CallInDoubt, CallUnknown, DeadLettered, IdempotencyConflict
from aegisipc.sdk.hosts.pool import PoolHost
from tests.e2e.kit import Place, Running
from tests.e2e.kit_log import records
from tests.e2e.kit_operator import ask, command
from tests.e2e.pool_worker import pool
from tests.e2e.test_pool_failures import MUCH_S, child
from tests.support.waiting import eventually


def host_of(running: Running) -> PoolHost:
    host = running.host
    assert isinstance(host, PoolHost)
    return host


async def marks_of(place: Place) -> Counter[Mark]:
    """How often the log says what."""
    subjects = subjects_of(place.namespace)
    found: Counter[Mark] = Counter()
    for record in await records(place):
        if subjects.parse(record.subject).kind in CONCLUSIONS:
            found.update(mark for mark, _ in decode_pen(record.payload).entries)
    return found


async def until_said(place: Place, mark: Mark, times: int = 1) -> None:
    async with asyncio.timeout(MUCH_S):
        while True:
            if (await marks_of(place))[mark] >= times:
                return
            await asyncio.sleep(0.02)


async def tell(place: Place, what: str, **said: Any) -> dict[str, Any]:
    said = {"author": "ann", "reason": "mended", **said} if what != "find_key" else said
    return await ask(place, subjects_of(place.namespace).tell("pool", "_pool"), command=what, **said)


async def want_cancelled(place: Place, *call_ids: str) -> None:
    subjects = subjects_of(place.namespace)
    event = CancelRequested(call_ids=call_ids, author="c9", reason="too late")
    async with await Connection.open(ConnectOptions(place.url, name="c9")) as connection:
        log = await open_log(connection, subjects)
        await log.append(subjects.cancel("pool", "_pool", "c9"), encode_event(event))


# -- keys ------------------------------------------------------------------------------------------------


async def test_calls_with_one_key_run_once_whichever_worker_gets_them(place: Place) -> None:
    runs: Counter[int] = Counter()

    def run(_: str, number: int) -> None:
        runs[number] += 1

    for name in ("w1", "w2", "w3"):
        await place.serve(pool(run), instance=name)
    client = await place.client()
    calls = [
        asyncio.create_task(client.call("pool.pay", n % 20, idempotency_key=f"k{n % 20}", timeout=60))
        for n in range(100)
    ]
    assert await asyncio.gather(*calls) == [n % 20 for n in range(100)]
    assert runs == Counter(range(20))
    with pytest.raises(IdempotencyConflict):
        await client.call("pool.pay", 99, idempotency_key="k1", timeout=60)
    found = await tell(place, "find_key", key="k1")
    assert found["state"] == "succeeded"
    nobody = await tell(place, "find_key", key="never")
    assert (nobody["ok"], nobody["call_id"]) == (True, None)


async def test_keys_outlive_all_workers_and_old_ones_are_read_from_segments(place: Place) -> None:
    runs: Counter[int] = Counter()

    def run(_: str, number: int) -> None:
        runs[number] += 1

    client = await place.client()
    first = await _pay_with_keys_in_segments(place, client, run, 20)
    await first.leave()
    second = await place.serve(pool(run), instance="w2")
    for n in range(20):
        assert await client.call("pool.pay", n, idempotency_key=f"k{n}", timeout=60) == n
    assert runs == Counter(range(20))
    assert host_of(second)._worker.keys.covered > 0


async def _pay_with_keys_in_segments(
    place: Place, client: Client, run: Callable[[str, int], Any], most: int
) -> Running:
    """Make so many calls with keys, most of which come to stand in small segments."""
    running = await place.serve(pool(run), instance="w1")
    host_of(running)._worker.keys.most = 4
    for n in range(most):
        assert await client.call("pool.pay", n, idempotency_key=f"k{n}", timeout=60) == n
    subjects = subjects_of(place.namespace)
    found = [r for r in await records(place) if subjects.parse(r.subject).kind == KEYS]
    segments = [decode_segment(record.payload) for record in found]
    assert sum(len(segment.entries) for segment in segments) >= most - 4
    return running


@pytest.mark.parametrize("is_in_segments", [False, True])
async def test_a_call_is_found_by_its_key_while_no_worker_is_there(
    place: Place, is_in_segments: bool
) -> None:
    client = await place.client()
    if is_in_segments:
        running = await _pay_with_keys_in_segments(place, client, lambda *_: None, 20)
    else:
        running = await place.serve(pool(), instance="w1")
        for n in range(3):
            assert await client.call("pool.pay", n, idempotency_key=f"k{n}", timeout=60) == n
    await running.leave()
    waits = await client.submit("pool.pay", 99, idempotency_key="w", timeout=60)
    for n in (0, 2):
        attached = await client.attach(idempotency_key=f"k{n}", service="pool", returns=int)
        assert await attached.settled(MUCH_S) == n
    attached = await client.attach(idempotency_key="w", service="pool", returns=int)
    assert attached.call_id == waits.call_id
    with pytest.raises(CallUnknown):
        await client.attach(idempotency_key="never", service="pool")
    await place.serve(pool(), instance="w2")
    assert await attached.settled(MUCH_S) == 99


async def test_a_worker_without_keys_writes_and_reads_nothing_of_them(place: Place) -> None:
    running = await place.serve(pool(), instance="w1")
    client = await place.client()
    assert await client.call("pool.echo", 1) == 1
    assert not host_of(running)._worker.keys.is_open
    subjects = subjects_of(place.namespace)
    assert not [r for r in await records(place) if subjects.parse(r.subject).kind == KEYS]


async def test_a_call_with_a_key_whose_worker_is_killed_keeps_its_key(place: Place) -> None:
    runs: list[int] = []
    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.echo", 7, idempotency_key="k", timeout=60)
        await dying.line(b"running echo 7")
        await place.serve(pool(lambda _, number: runs.append(number)), instance="w2")
        await dying.kill()
    assert await client.call("pool.echo", 7, idempotency_key="k", timeout=60) == 7
    assert await call.result() == 7
    assert runs == [7]


async def test_a_once_call_with_a_key_whose_worker_is_killed_is_never_repeated_under_it(place: Place) -> None:
    runs: list[int] = []
    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.pay", 7, idempotency_key="k", timeout=60)
        await dying.line(b"running pay 7")
        await place.serve(pool(lambda _, number: runs.append(number)), instance="w2")
        await dying.kill()
    with pytest.raises(CallInDoubt):
        await call.result()
    with pytest.raises(CallInDoubt):
        await client.call("pool.pay", 7, idempotency_key="k", timeout=60)
    assert runs == []
    assert (await marks_of(place))[Mark.DUPLICATE] == 1


# -- retries, dead letters ---------------------------------------------------------------------------------


async def test_a_call_is_tried_again_until_it_succeeds(place: Place) -> None:
    runs: list[int] = []

    def run(_: str, number: int) -> None:
        runs.append(number)
        if len(runs) < 3:
            raise ConnectionError("busy")

    await place.serve(pool(run), instance="w1")
    client = await place.client()
    assert await client.call("pool.shaky", 7, timeout=60) == 7
    assert runs == [7, 7, 7]
    counts = await marks_of(place)
    assert (counts[Mark.CLAIMED], counts[Mark.RETRY_SCHEDULED]) == (3, 2)


async def test_attempts_are_counted_on_when_the_worker_is_killed_that_waits_for_the_next(
    place: Place,
) -> None:
    runs: list[int] = []
    client = await place.client()
    async with child(place, "w1", "failing") as dying:
        call = await client.submit("pool.shaky", 7, timeout=60)
        await dying.line(b"running shaky 7")
        await until_said(place, Mark.RETRY_SCHEDULED)
        await dying.kill()
    await place.serve(pool(lambda _, number: runs.append(number)), instance="w2")
    assert await call.result() == 7
    assert runs == [7]


async def test_a_dead_letter_runs_again_when_an_operator_wants_it_even_if_its_worker_is_killed(
    place: Place,
) -> None:
    broken = True

    def run(_: str, number: int) -> Any:
        if broken:
            raise ConnectionError("busy")
        return asyncio.sleep(0)

    first = await place.serve(pool(run), instance="w1")
    client = await place.client()
    call = await client.submit("pool.shaky", 7, timeout=60)
    with pytest.raises(DeadLettered):
        await call.result()
    refused = await tell(place, "requeue", call_id="019a9e6e-8d5b-7000-8000-3b9aca000001")
    assert refused["error"]["code"] == "unknown_call"
    await first.leave()
    async with child(place, "w2", "stuck") as dying:
        told = await tell(place, "requeue", call_id=call.call_id)
        assert told["ok"] is True
        await dying.line(b"running shaky 7")
        await dying.kill()
    broken = False
    await place.serve(pool(run), instance="w3")
    attached = await client.attach(call.call_id, returns=int)
    await until_said(place, Mark.IN_DOUBT)
    assert (await tell(place, "resolve", call_id=call.call_id, executed=False))["ok"] is True
    assert await attached.settled(MUCH_S) == 7
    late = await tell(place, "requeue", call_id=call.call_id)
    assert late["error"]["code"] == "not_dead_lettered"
    assert late["error"]["details"]["state"] == "succeeded"


async def test_a_requeued_call_whose_worker_is_killed_before_it_begins_runs_once_at_another_one(
    place: Place,
) -> None:
    runs: list[int] = []
    client = await place.client()
    first = await place.serve(pool(lambda *_: _fail()), instance="w1")
    call = await client.submit("pool.shaky", 7, timeout=60)
    with pytest.raises(DeadLettered):
        await call.result()
    await command(place, "pause", service="pool", group="_pool")
    worker = host_of(first)._worker
    await eventually(lambda: not worker.standing.may_start, within_s=MUCH_S, what="the pause")
    told = await tell(place, "requeue", call_id=call.call_id, timeout_s=60)
    twice = await tell(place, "requeue", call_id=call.call_id, timeout_s=60)
    assert told["ok"] is True
    assert twice == told or twice["error"]["details"]["state"] == "accepted"
    await first.kill()
    await place.serve(pool(lambda _, number: runs.append(number)), instance="w2")
    attached = await client.attach(call.call_id, returns=int)
    await command(place, "resume", service="pool", group="_pool")
    await until_said(place, Mark.SUCCEEDED)
    assert await attached.settled(MUCH_S) == 7
    assert runs == [7]


def _fail() -> None:
    raise ConnectionError("busy")


async def test_a_discarded_dead_letter_stays_one(place: Place) -> None:
    await place.serve(pool(lambda *_: _fail()), instance="w1")
    client = await place.client()
    call = await client.submit("pool.shaky", 7, timeout=60)
    with pytest.raises(DeadLettered):
        await call.result()
    assert (await tell(place, "discard", call_id=call.call_id))["ok"] is True
    for what in ("discard", "requeue"):
        refused = await tell(place, what, call_id=call.call_id)
        assert refused["error"]["details"]["state"] == "discarded"


# -- cancelling --------------------------------------------------------------------------------------------


async def test_a_call_that_is_cancelled_while_no_worker_is_there_never_runs(place: Place) -> None:
    runs: list[int] = []
    first = await place.serve(pool(lambda _, number: runs.append(number)), instance="w1")
    client = await place.client()
    assert await client.call("pool.pay", 1) == 1
    await first.leave()
    call = await client.submit("pool.pay", 7, timeout=60)
    other = await client.submit("pool.pay", 8, timeout=60)
    await want_cancelled(place, call.call_id)
    await place.serve(pool(lambda _, number: runs.append(number)), instance="w2")
    with pytest.raises(CallCancelled) as caught:
        await call.result()
    assert caught.value.details["started"] is False
    assert await other.result() == 8
    assert runs == [1, 8]


async def test_a_handler_that_runs_is_cancelled(place: Place) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def run(_: str, number: int) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await place.serve(pool(run), instance="w1")
    client = await place.client()
    call = await client.submit("pool.pay", 7, timeout=60)
    await started.wait()
    await want_cancelled(place, call.call_id)
    with pytest.raises(CallCancelled) as caught:
        await call.result()
    assert caught.value.details["started"] is True
    assert ended.is_set()


async def test_a_call_whose_worker_is_killed_while_it_is_asked_to_stop_is_cancelled_by_the_next(
    place: Place,
) -> None:
    client = await place.client()
    async with child(place, "w1", "stuck") as dying:
        call = await client.submit("pool.echo", 7, timeout=60)
        await dying.line(b"running echo 7")
        dying.process.send_signal(19)  # it stands still, and does not hear of it
        await want_cancelled(place, call.call_id)
        await dying.kill()
    running = await place.serve(pool(), instance="w2")
    with pytest.raises(CallCancelled):
        await call.result()
    await eventually(lambda: host_of(running).is_quiet, within_s=MUCH_S, what="quiet")
