"""Attaching to calls: by their ids and their keys, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import pytest

from aegisipc.eventstore import seeking
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.eventstore.keys import KeyIndex, KeyOwner, Segment, encode_segment, key_hash
from aegisipc.eventstore.log import BEGINNING, Record, Start
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk.attached import Seeker
from aegisipc.sdk.errors import (
    CallExpired,
    CallTimeout,
    CallUnknown,
    DeadLettered,
    InvalidName,
    NoRoute,
    ServiceDefinitionError,
)
from tests.sdk.hand import HOLDER, SERVICE, SESSION, Hand, a_hand, error_body, failing
from tests.sdk.test_pending import NS, a_frame, promote, write


@pytest.fixture
async def hand(shared_server: EmbeddedServer) -> AsyncIterator[Hand]:
    async with a_hand(shared_server.url) as found:
        yield found


DEAD = error_body("dead_lettered", "it failed", attempts=3, reason="attempts")
CALL = {
    "client": "c",
    "method": "put",
    "resource": "x",
    "key": None,
    "priority": 1,
    "body": encode([[1], {}]),
}
REQUEUED = encode({"author": "ann", "reason": "", "dead_seq": 0, "timeout_ms": 60_000, "call": CALL})


# -- what it costs -------------------------------------------------------------------------------------


class CountingLog(MemoryLog):
    """A log that counts which records are read."""

    def __init__(self) -> None:
        self.now_ns = 1_800_000_000_000_000_000
        super().__init__(lambda: self.now_ns)
        self.seen: list[int] = []

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        async for record in super().read(subjects, start=start):
            self.seen.append(record.seq)
            yield record


async def test_an_old_call_is_read_from_its_time_to_its_outcome_and_no_further() -> None:
    log, ids = CountingLog(), CallIds(7)
    await promote(log, "i", 1)
    number = 0

    async def one_call() -> bytes:
        nonlocal number
        number += 1
        call_id = ids.next(log.now_ns // 1_000_000)
        await log.append(NS.call("orders", "g", "c"), a_frame(number, call_id))
        await write(log, number, (Mark.SUCCEEDED, call_id, b"\x2a"))
        log.now_ns += 1_000_000_000
        return call_id

    for _ in range(200):
        await one_call()
    wanted = await one_call()
    for _ in range(200):
        await one_call()
    found = await Seeker(log, NS).find(wanted, None, 1.0)
    assert await found.result() == 42
    assert await found.settled() == 42
    accepted_seq = 2 + 200 * 2
    margin = 2 * seeking.NEAR_S
    assert all(seq == 1 or accepted_seq - margin <= seq <= accepted_seq + 1 for seq in log.seen)
    assert len(log.seen) == seeking.NEAR_S + 1 + 1 + 1  # calls before, itself, the promotion, the outcome


@pytest.mark.parametrize("off_s", [-9, 500])
async def test_a_call_whose_client_was_wrong_about_the_time_is_found_all_the_same(off_s: int) -> None:
    log, ids = CountingLog(), CallIds(7)
    await promote(log, "i", 1)
    for number in range(1, 30):
        await log.append(NS.call("orders", "g", "c"), a_frame(number, ids.next(log.now_ns // 1_000_000)))
        log.now_ns += 1_000_000_000
    wanted = CallIds(8).next(log.now_ns // 1_000_000 - off_s * 1000)
    await log.append(NS.call("orders", "g", "other"), a_frame(1, wanted))
    found = await Seeker(log, NS).find(wanted, None, 1.0)
    assert found.call_id == format_call_id(wanted)


async def test_on_a_real_log_the_end_is_not_waited_for(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await hand.client()
    pending = await client.submit("orders.put", 1, resource_id="x")
    (call_id,) = await hand.accepted(1)
    await hand.write((Mark.SUCCEEDED, call_id, encode(1)))
    ids = CallIds(8)
    for _ in range(300):
        await hand.write(*((Mark.SUCCEEDED, ids.next(1), bytes(2000)) for _ in range(20)))
    reader = await hand.client()
    read = 0
    log = reader._seeker.log
    original = log.read

    def counting(subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncIterator[Record]:
        async def each() -> AsyncIterator[Record]:
            nonlocal read
            async for record in original(subjects, start=start):
                read += 1
                yield record

        return each()

    monkeypatch.setattr(log, "read", counting)
    assert await reader.attach(pending.call_id).result() == 1
    assert read == 3  # the call's frame, the promotion, the outcome


# -- by id ---------------------------------------------------------------------------------------------


async def test_a_call_that_nobody_made_is_unknown(hand: Hand) -> None:
    client = await hand.client()
    nobodys = format_call_id(CallIds(3).next((await hand.log.bounds()).now_ns // 1_000_000))
    with pytest.raises(CallUnknown, match="it was never accepted") as caught:
        await client.attach(nobodys)
    assert caught.value.call_id == nobodys


async def test_a_call_older_than_the_log_is_told_where_that_begins(hand: Hand) -> None:
    client = await hand.client()
    old = format_call_id(CallIds(3).next(1_600_000_000_000))
    with pytest.raises(CallUnknown) as caught:
        await client.attach(old)
    assert "it was made at 2020-09-13T12:26:40Z, and the log begins at 20" in caught.value.message
    assert "older than the log" in caught.value.message


async def test_in_an_empty_log_no_call_is_known() -> None:
    log = MemoryLog(lambda: 0)
    with pytest.raises(CallUnknown, match="this log is empty"):
        await Seeker(log, subjects_of("t")).find(CallIds(3).next(1_600_000_000_000), None, 1.0)


@pytest.mark.parametrize("call_id", ["", "x", "01a3185c-5000-4000-8000-040000000007", 5, b"x"], ids=repr)
async def test_what_is_no_call_id_is_refused(hand: Hand, call_id: Any) -> None:
    client = await hand.client()
    with pytest.raises(MalformedPayload, match="as a call id"):
        client.attach(call_id)


async def test_a_search_that_takes_too_long_is_given_up(hand: Hand) -> None:
    client = await hand.client()
    with pytest.raises(CallTimeout, match=r"cannot find call .* within 1e-06 s"):
        await client.attach(format_call_id(CallIds(3).next(1)), timeout=1e-6)


async def test_a_dead_letter_is_told_and_goes_on_if_it_is_requeued(hand: Hand) -> None:
    client = await hand.client()
    pending = await client.submit("orders.put", 1, resource_id="x", timeout=0.5)
    (call_id,) = await hand.accepted(1)
    await hand.write((Mark.DEAD_LETTERED, call_id, DEAD))
    attached = await (await hand.client()).attach(pending.call_id)
    for wait in (attached.result, attached.settled):
        error = await failing(wait())
        assert isinstance(error, DeadLettered)
        assert (error.attempts, error.reason) == (3, "attempts")
    await failing(pending.result(20))  # long after its own deadline …
    await hand.write((Mark.REQUEUED, call_id, REQUEUED))
    waiting = [asyncio.create_task(attached.result()), asyncio.create_task(attached.settled())]
    await asyncio.wait(waiting, timeout=0.2)
    assert not any(task.done() for task in waiting)  # … it has a new one
    await hand.write((Mark.SUCCEEDED, call_id, encode("at last")))
    assert await asyncio.gather(*waiting) == ["at last", "at last"]
    assert await pending.settled() == "at last"


async def test_a_dead_letter_that_was_requeued_and_died_again_is_one_once_more(hand: Hand) -> None:
    client = await hand.client()
    pending = await client.submit("orders.put", 1, resource_id="x")
    (call_id,) = await hand.accepted(1)
    await hand.conclude(call_id, Mark.DEAD_LETTERED, DEAD)
    again = error_body("dead_lettered", "again", attempts=1, reason="deadline")
    await hand.write((Mark.REQUEUED, call_id, REQUEUED), (Mark.DEAD_LETTERED, call_id, again))
    assert (await failing(pending.settled())).reason == "deadline"  # type: ignore[attr-defined]


# -- by key --------------------------------------------------------------------------------------------


async def a_keyed_call(hand: Hand, key: str = "k") -> bytes:
    """A call whose client is gone."""
    client = await hand.client()
    count = len(hand.order)
    await client.submit("orders.put", 1, resource_id="x", idempotency_key=key)
    await hand.accepted(count + 1)
    await client.close()
    return hand.order[-1]


async def test_the_holder_is_asked_who_has_the_key(hand: Hand) -> None:
    call_id = await a_keyed_call(hand)
    questions = await hand.answer_find_key({"ok": True, "call_id": format_call_id(call_id)})
    await hand.write((Mark.SUCCEEDED, call_id, encode(4)))
    client = await hand.client()
    attaching = client.attach(idempotency_key="k", service=SERVICE, resource_id="x", returns=int)
    assert await attaching.result() == 4
    assert questions == [{"command": "find_key", "key": "k"}]


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": True, "call_id": None},
        {"ok": True},
        {"error": {"code": "x", "message": "m"}},
        [],
        5,
        {"ok": True, "call_id": "nonsense"},
        {"ok": True, "call_id": 5},
    ],
    ids=repr,
)
async def test_when_the_holder_does_not_know_the_log_tells(hand: Hand, answer: Any) -> None:
    call_id = await a_keyed_call(hand)
    await hand.answer_find_key(answer)
    await hand.write(hand.keyed(call_id), (Mark.SUCCEEDED, call_id, encode(4)))
    client = await hand.client()
    assert await client.attach(idempotency_key="k", service=SERVICE, resource_id="x").result() == 4


async def test_without_any_holder_a_call_that_waits_with_the_key_is_found(hand: Hand) -> None:
    call_id = await a_keyed_call(hand)
    client = await hand.client()
    found = await client.attach(idempotency_key="k", service=SERVICE, resource_id="x")
    assert found.call_id == format_call_id(call_id)


async def test_who_has_the_key_is_who_had_it_first(hand: Hand) -> None:
    first, second = await a_keyed_call(hand), await a_keyed_call(hand)
    client = await hand.client()
    await hand.write(hand.keyed(second))
    await hand.write(hand.keyed(first))  # no holder writes that; it counts for nothing
    found = await client.attach(idempotency_key="k", service=SERVICE, resource_id="x")
    assert found.call_id == format_call_id(second)


async def test_what_somebody_wrote_who_does_not_hold_the_pen_counts_for_nothing(hand: Hand) -> None:
    first, second = await a_keyed_call(hand), await a_keyed_call(hand)
    client = await hand.client()
    await hand.write(hand.keyed(second), epoch=7)
    await hand.write(hand.keyed(first))
    found = await client.attach(idempotency_key="k", service=SERVICE, resource_id="x")
    assert found.call_id == format_call_id(first)


async def test_a_key_that_is_free_again_is_nobodys(hand: Hand) -> None:
    call_id = await a_keyed_call(hand)
    client = await hand.client()
    await hand.write(hand.keyed(call_id))
    attach = client.attach(idempotency_key="k", service=SERVICE, resource_id="x")
    assert (await attach).call_id == format_call_id(call_id)
    await hand.write((Mark.RELEASED, call_id, key_hash("k")), (Mark.EXPIRED, call_id, None))
    with pytest.raises(CallUnknown, match="no call of orders, group 'acc', has it") as caught:
        await client.attach(idempotency_key="k", service=SERVICE, resource_id="x")
    assert caught.value.key == "k"
    again = await a_keyed_call(hand)
    await hand.write(hand.keyed(again))
    assert (await attach).call_id == format_call_id(again)


async def test_a_call_that_expired_before_it_had_its_key_does_not_have_it(hand: Hand) -> None:
    call_id = await a_keyed_call(hand)
    await hand.write((Mark.EXPIRED, call_id, None))
    client = await hand.client()
    with pytest.raises(CallUnknown):
        await client.attach(idempotency_key="k", service=SERVICE, resource_id="x")
    with pytest.raises(CallExpired):
        await client.attach(format_call_id(call_id)).result()


async def test_old_keys_are_found_in_segments_without_reading_the_calls(hand: Hand) -> None:
    call_id = await a_keyed_call(hand)
    await hand.write(hand.keyed(call_id), (Mark.SUCCEEDED, call_id, encode(6)))
    index, ids = KeyIndex(), CallIds(11)
    index.own(key_hash("k"), KeyOwner(call_id, bytes(16)))
    for number in range(50):
        index.own(key_hash(f"other {number}"), KeyOwner(ids.next(5), bytes(16)))
    covered = (await hand.log.bounds()).last_seq
    segment = encode_segment(index.next_segment(SESSION, hand.epoch, covered))
    forged = KeyIndex()
    forged.own(key_hash("k"), KeyOwner(ids.next(5), bytes(16)))
    await hand.log.append(hand.subjects.keys(SERVICE, hand.group, HOLDER), segment)
    false = encode_segment(forged.next_segment(SESSION, 9, covered + 1000))
    await hand.log.append(hand.subjects.keys(SERVICE, hand.group, "someone"), false)
    await hand.log.append(hand.subjects.keys(SERVICE, hand.group, HOLDER), b"\xc1")
    late = await a_keyed_call(hand, "late")
    await hand.write(hand.keyed(late))
    client = await hand.client()
    read: list[str] = []
    original = client._seeker.log.read

    async def noting(subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        async for record in original(subjects, start=start):
            read.append(f"{hand.subjects.parse(record.subject).kind}@{record.seq > covered}")
            yield record

    client._seeker.log.read = noting  # type: ignore[method-assign]
    attached = await client.attach(idempotency_key="k", service=SERVICE, resource_id="x")
    assert attached.call_id == format_call_id(call_id)
    assert "pen@False" not in read
    del client._seeker.log.read
    assert await attached.result() == 6
    found = await client.attach(idempotency_key="late", service=SERVICE, resource_id="x")
    assert found.call_id == format_call_id(late)


async def test_a_key_that_nobody_has_is_unknown_and_says_what_to_do(hand: Hand) -> None:
    client = await hand.client()
    with pytest.raises(CallUnknown, match="Calling with the key is safe"):
        await client.attach(idempotency_key="nobody's", service=SERVICE, resource_id="x")


async def test_a_pools_keys_are_found_too(shared_server: EmbeddedServer) -> None:
    async with a_hand(shared_server.url, group="_pool") as hand:
        one, other = await hand.client(), await hand.client()
        await one.submit("orders.put", 1, idempotency_key="k")
        await one.submit("orders.put", 1, idempotency_key="k")
        first, second = await hand.accepted(2)
        covers = (await hand.log.bounds()).last_seq
        opening = encode_segment(Segment(1, 0, 0, covers, []))
        await hand.log.append(hand.subjects.keys(SERVICE, "_pool", "i"), opening)
        await hand.write(hand.keyed(second))
        await hand.write(hand.keyed(first))
        found = await other.attach(idempotency_key="k", service=SERVICE)
        assert found.call_id == format_call_id(second)


WRONG: list[tuple[dict[str, Any], type[Exception]]] = [
    ({}, ServiceDefinitionError),
    ({"idempotency_key": "k"}, ServiceDefinitionError),
    ({"service": "orders"}, ServiceDefinitionError),
    ({"call_id": "01a3185c-5000-7000-8000-040000000007", "service": "orders"}, ServiceDefinitionError),
    ({"call_id": "01a3185c-5000-7000-8000-040000000007", "idempotency_key": "k"}, ServiceDefinitionError),
    ({"idempotency_key": "", "service": "orders"}, InvalidName),
    ({"idempotency_key": "k", "service": "no name"}, InvalidName),
    ({"idempotency_key": "k", "service": "orders", "resource_id": 5}, InvalidName),
]


@pytest.mark.parametrize(("given", "error"), WRONG, ids=str)
async def test_what_names_no_call_is_refused_at_once(
    hand: Hand, given: dict[str, Any], error: type[Exception]
) -> None:
    client = await hand.client()
    with pytest.raises(error):
        client.attach(**given)


@pytest.mark.parametrize(
    ("service", "resource"), [("nobody", None), ("orders", "elsewhere")], ids=["service", "resource"]
)
async def test_a_key_without_a_group_to_look_in_has_no_route(
    hand: Hand, service: str, resource: str | None
) -> None:
    client = await hand.client()
    with pytest.raises(NoRoute, match="cannot look for an idempotency key"):
        await client.attach(idempotency_key="k", service=service, resource_id=resource)
