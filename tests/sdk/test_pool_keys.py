"""Idempotency keys in a pool: one call has a key, whichever worker writes, and whenever another one joins."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import CallFrame, CallOptions, Mark
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import SEGMENT_KEYS, KeyOwner, Segment, key_hash
from aegisipc.eventstore.pool_keys import (
    SEGMENT_AGE_NS,
    SEGMENT_SAID,
    PoolKeys,
    keyed_body,
    keyed_in,
    released_body,
    released_in,
)
from tests.sdk.kit import FakeClient, ListLog, a_call, ids, marks, ms
from tests.sdk.pool_kit import WorkerRig, cancel, pool_client, pool_log, stored_with, worker

A, B = b"a" * 16, b"b" * 16
KEY, OTHER = key_hash("k"), key_hash("o")
DIGEST = b"d" * 16
WITH_KEY = CallOptions("k")


@pytest.fixture
def log() -> ListLog:
    return pool_log("w1", "w2", "w3")


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return pool_client(log)


def opened(log: ListLog, name: str = "w1", max_running: int = 100) -> WorkerRig:
    """A worker of a pool that has keys."""
    rig = worker(log, name, max_running)
    rig.write_segment()
    return rig


def hand(
    rig: WorkerRig, client: FakeClient, method: str = "put", body: bytes = b"\x90", timeout_ms: int = 10_000
) -> tuple[CallId, int, CallFrame]:
    """A call with the key comes in."""
    seq, frame = stored_with(rig.log, client, a_call(method, None, timeout_ms, body), WITH_KEY)
    rig.hand(seq, frame, f"t{seq}")
    return ids(frame)[0], seq, frame


# -- the index -------------------------------------------------------------------------------------------


def index(covered: int = 0, most: int = SEGMENT_KEYS) -> PoolKeys:
    keys = PoolKeys(most=most)
    assert keys.on_segment(max(covered, 1), 0, Segment(1, 0, 0, covered, ()))
    return keys


def keyed(keys: PoolKeys, call: CallId, seq: int, checked_to: int, key: bytes = KEY) -> bool:
    return keys.on_keyed(call, keyed_body(key, DIGEST, checked_to), seq, "w1", 1) is not None


def test_the_first_word_in_log_order_has_the_key() -> None:
    keys = index()
    assert keyed(keys, A, 5, 4)
    assert not keyed(keys, B, 6, 4)
    assert keyed(keys, A, 7, 4)
    assert keys.find(KEY) == KeyOwner(A, DIGEST)


def test_before_the_first_segment_no_word_counts() -> None:
    keys = PoolKeys()
    assert not keyed(keys, A, 5, 4)
    assert keys.find(KEY) is None


def test_only_the_owner_gives_a_key_back() -> None:
    keys = index()
    keyed(keys, A, 5, 4)
    assert keys.on_released(B, released_body(KEY, 5), 6) is None
    assert keys.on_released(A, released_body(KEY, 5), 7) == KEY
    assert keys.find(KEY) is None
    assert keyed(keys, B, 8, 4)


def test_a_word_of_who_had_not_read_up_to_what_segments_cover_does_not_count() -> None:
    keys = index()
    keyed(keys, A, 5, 4)
    keys.position = 8
    keys.on_segment(9, 0, keys.next_segment(1))
    assert keys.covered == 8
    assert not keyed(keys, B, 10, 7)
    assert not keyed(keys, B, 11, 7, OTHER)
    assert keyed(keys, B, 12, 8, OTHER)
    assert keys.on_released(A, released_body(KEY, 7), 13) is None
    assert keys.on_released(A, released_body(KEY, 8), 14) == KEY


def test_of_segments_that_begin_at_the_same_place_the_first_counts() -> None:
    keys = index()
    keyed(keys, A, 5, 4)
    keys.position = 6
    segment = keys.next_segment(1)
    keys.position = 7
    late = keys.next_segment(2)
    assert keys.on_segment(8, 0, segment)
    assert not keys.on_segment(9, 0, late)
    assert not keys.on_segment(10, 0, segment._replace(since=6, covers=6))
    assert keys.covered == 6


def test_what_was_said_after_a_segments_cover_stays_in_memory() -> None:
    keys = index()
    keyed(keys, A, 5, 4)
    keyed(keys, B, 6, 4, OTHER)
    keys.position = 6
    segment = keys.next_segment(1)
    keys.on_released(A, released_body(KEY, 6), 7)
    keys.on_segment(8, 0, segment)
    assert keys.find(KEY) is None
    assert keys.recent(OTHER) is None
    assert not keyed(keys, B, 9, 5)
    assert keyed(keys, B, 10, 8)


def test_a_segment_has_whole_records_of_the_oldest_words() -> None:
    keys = index(most=2)
    for number, seq in enumerate((5, 6, 6, 7)):
        keyed(keys, A, seq, 4, key_hash(str(number)))
    keys.position = 9
    first = keys.next_segment(1)
    assert (first.covers, len(first.entries)) == (5, 1)
    keys.on_segment(10, 0, first)
    second = keys.next_segment(1)
    assert (second.since, second.covers, len(second.entries)) == (5, 6, 2)
    keys.on_segment(11, 0, second)
    keys.position = 12
    third = keys.next_segment(1)
    assert (third.since, third.covers, len(third.entries)) == (6, 12, 1)


def test_a_segment_is_due_when_enough_was_said_of_keys_or_calls_or_the_last_one_is_old() -> None:
    keys = index(most=2)
    keys.position = 5
    assert not keys.is_due(0)
    assert keys.is_due(SEGMENT_AGE_NS)
    keys.on_frame(SEGMENT_SAID)
    assert keys.is_due(0)
    few = index(most=2)
    keyed(few, A, 5, 4)
    few.position = 6
    assert not few.is_due(0)
    keyed(few, A, 6, 4, OTHER)
    assert few.is_due(0)


@pytest.mark.parametrize("body", [None, b"", b"x" * 39, b"x" * 41])
def test_nonsense_is_no_word_about_a_key(body: bytes | None) -> None:
    assert keyed_in(body) is None
    assert index().on_keyed(A, body, 5, "w1", 1) is None
    assert released_in(body) is None
    assert index().on_released(A, body, 5) is None


def test_a_worker_that_joins_reads_from_where_segments_end_and_knows_the_same() -> None:
    keys = index(3)
    keyed(keys, A, 5, 4)
    keys.position = 6
    segment = keys.next_segment(1)
    joined = PoolKeys()
    opening = (3, 0, Segment(1, 0, 0, 3, ()))
    assert joined.join([opening, (8, 0, segment)]) == 4
    assert joined.find(KEY) == KeyOwner(A, DIGEST)
    assert not keyed(joined, B, 6, 4, OTHER)  # that is in the segment, if it counts
    assert not keyed(joined, B, 7, 4)
    joined.on_segment(8, 0, segment)
    assert joined.recent(KEY) is None
    assert joined.find(KEY) is not None


def test_a_worker_that_joins_a_pool_without_keys_reads_nothing() -> None:
    assert PoolKeys().join([]) is None


def test_a_pool_that_was_just_opened_is_read_from_there() -> None:
    joined = PoolKeys()
    opening = Segment(1, 0, 0, 100, ())
    assert joined.join([(103, 0, opening)]) == 101
    assert not keyed(joined, A, 102, 101)
    joined.on_segment(103, 0, opening)
    assert keyed(joined, A, 104, 101)


def test_a_segment_that_did_not_count_is_not_taken_for_the_first_when_older_ones_are_forgotten() -> None:
    stale = Segment(1, 0, 10, 19, ((KEY, KeyOwner(B, DIGEST)),))
    real = [Segment(1, 0, 20, 30, ((KEY, KeyOwner(A, DIGEST)),)), Segment(1, 0, 30, 40, ())]
    joined = PoolKeys()
    assert joined.join([(21, 0, stale), (31, 0, real[0]), (41, 0, real[1])]) == 31
    assert joined.covered == 30


# -- workers ---------------------------------------------------------------------------------------------


def test_a_call_with_a_key_begins_when_its_own_word_about_the_key_came_back(
    log: ListLog, client: FakeClient
) -> None:
    rig = opened(log)
    call, _, _ = hand(rig, client)
    assert rig.started() == []
    frame = rig.store()
    assert marks(frame) == [(Mark.KEYED, call)]
    assert rig.started() == []
    rig.read()
    assert rig.started() == [call]
    rig.finish(call)
    rig.write()
    assert rig.core.is_quiet


def test_the_first_call_with_a_key_waits_until_the_pool_has_a_segment(
    log: ListLog, client: FakeClient
) -> None:
    rig = worker(log)
    call, _, _ = hand(rig, client)
    assert rig.store() is None
    needed = [rig.core.keying.needs_opening]
    rig.write_segment()
    needed.append(rig.core.keying.needs_opening)
    assert needed == [True, False]
    assert marks(rig.write()) == [(Mark.KEYED, call)]
    assert rig.started() == [call]


def test_the_same_request_again_is_sent_to_the_first_and_another_one_is_refused(
    log: ListLog, client: FakeClient
) -> None:
    one, two = opened(log), worker(log, "w2")
    first, _, _ = hand(one, client)
    one.write()
    two.read()
    same, _, _ = hand(two, client)
    other, _, _ = hand(two, client, body=b"\x91\x01")
    written = two.write()
    assert marks(written) == [(Mark.DUPLICATE, same), (Mark.FAILED, other)]
    assert written is not None
    assert written.bodies[0] == first
    error = decode(written.bodies[1] or b"")
    assert (error["code"], error["details"]) == (
        "idempotency_conflict",
        {"first": format_call_id(first), "key": "k"},
    )
    assert two.started() == []
    assert len(two.acks) == 2


def test_of_two_workers_at_once_the_first_in_log_order_gets_the_key(log: ListLog, client: FakeClient) -> None:
    one, two = opened(log), worker(log, "w2")
    loser, _, _ = hand(one, client)
    winner, _, _ = hand(two, client)
    two.store()
    one.store()
    one.read()
    two.read()
    assert (one.started(), two.started()) == ([], [winner])
    assert marks(one.write()) == [(Mark.DUPLICATE, loser)]
    assert one.core.is_quiet


def test_a_call_that_expires_before_it_started_gives_its_key_back(log: ListLog, client: FakeClient) -> None:
    rig = opened(log, max_running=1)
    busy, _, _ = hand(rig, client, "get", timeout_ms=60_000)
    rig.write()
    other = CallOptions("o")
    seq, frame = stored_with(log, client, a_call("pay", timeout_ms=10), other)
    rig.hand(seq, frame, "t9")
    (call,) = ids(frame)
    rig.write()
    log.now_ns += ms(20)
    rig.core.on_tick(log.now_ns)
    assert marks(rig.write()) == [(Mark.EXPIRED, call)]
    assert marks(rig.write()) == [(Mark.RELEASED, call)]
    assert rig.owner("o") is None
    assert rig.started() == [busy]


def test_a_key_is_not_given_back_if_another_worker_may_have_begun_the_call(
    log: ListLog, client: FakeClient
) -> None:
    one, two = opened(log, max_running=1), worker(log, "w2")
    hand(one, client, "get", timeout_ms=60_000)
    one.write()
    seq, frame = stored_with(log, client, a_call("put", timeout_ms=10), CallOptions("o"))
    one.hand(seq, frame, "t9")
    one.write()
    two.read()
    two.hand(seq, frame, "t9")
    two.write()
    assert two.started() == ids(frame)
    one.read()
    log.now_ns += ms(20)
    one.core.on_tick(log.now_ns)
    one.write()
    assert one.store() is None
    assert one.owner("o") is not None


def test_a_key_that_its_worker_did_not_come_to_give_back_is_given_back_by_who_needs_it(
    log: ListLog, client: FakeClient
) -> None:
    one, two = opened(log, max_running=1), worker(log, "w2")
    hand(one, client, "get", timeout_ms=60_000, body=b"\x91\x05")
    one.write()
    seq, frame = stored_with(log, client, a_call("pay", timeout_ms=10), CallOptions("o"))
    one.hand(seq, frame, "t9")
    one.write()
    log.now_ns += ms(20)
    one.core.on_tick(log.now_ns)
    one.store()  # and goes down
    two.read()
    seq, again = stored_with(log, client, a_call("pay"), CallOptions("o"))
    two.hand(seq, again, "t10")
    assert marks(two.write()) == [(Mark.RELEASED, ids(frame)[0])]
    assert marks(two.write()) == [(Mark.KEYED, ids(again)[0])]
    assert marks(two.write()) == [(Mark.CLAIMED, ids(again)[0])]
    assert two.started() == ids(again)


def test_an_old_key_is_looked_up_in_its_segment(log: ListLog, client: FakeClient) -> None:
    rig = opened(log)
    first, _, _ = hand(rig, client)
    rig.write()
    rig.finish(first)
    rig.write()
    rig.write_segment()
    again, _, _ = hand(rig, client)
    assert rig.store() is None
    assert len(rig.lookups) == 1
    rig.look_up_keys()
    assert marks(rig.write()) == [(Mark.DUPLICATE, again)]
    once_more, _, _ = hand(rig, client)  # what was read is remembered
    assert marks(rig.write()) == [(Mark.DUPLICATE, once_more)]


def test_a_word_that_is_overtaken_by_a_segment_is_said_again(log: ListLog, client: FakeClient) -> None:
    one, two = opened(log), worker(log, "w2")
    call, _, _ = hand(one, client)
    late = one.next_frame()
    assert late is not None
    cancel(log, b"\x00" * 6 + b"\x70" + b"\x00" + b"\x80" + b"\x00" * 7)  # two has read more
    two.read()
    two.write_segment()
    one.land(late)
    one.read()
    assert one.started() == []
    assert marks(one.write()) == [(Mark.KEYED, call)]
    assert one.started() == [call]


def test_a_late_word_about_the_key_of_a_call_that_is_over_is_taken_back(
    log: ListLog, client: FakeClient
) -> None:
    one, two = opened(log, max_running=1), worker(log, "w2")
    call, seq, frame = hand(one, client, "pay", timeout_ms=10)
    two.hand(seq, frame, "t2")
    late = two.next_frame()
    assert late is not None
    log.now_ns += ms(20)
    one.core.on_tick(log.now_ns)
    while one.write() is not None:
        pass
    assert one.owner("k") is None
    two.read()
    two.land(late)
    two.read()
    assert two.owner("k") is not None
    assert marks(two.write()) == [(Mark.RELEASED, call)]
    assert two.owner("k") is None


def test_a_late_word_about_a_key_that_is_in_a_segment_already_does_not_give_it_back(
    log: ListLog, client: FakeClient
) -> None:
    one, two = opened(log), worker(log, "w2")
    call, seq, frame = hand(one, client)
    one.write()
    one.write_segment()
    two.read()
    two.hand(seq, frame, "t2")
    two.look_up_keys()
    late = two.next_frame()
    assert late is not None
    one.finish(call)
    one.write()
    two.read()
    assert marks(two.land(late)) == [(Mark.KEYED, call)]
    two.read()
    assert two.store() is None  # the call ran: whoever comes with its key later must not run
    owner = two.owner("k")
    assert owner is not None
    assert owner.call_id == call


def test_a_worker_that_joins_late_knows_who_has_a_key(log: ListLog, client: FakeClient) -> None:
    one = opened(log)
    first, _, _ = hand(one, client)
    one.write()
    two = WorkerRig(log, "w2")
    two.join()
    assert two.owner("k") == one.owner("k")
    again, _, _ = hand(two, client)
    assert marks(two.write()) == [(Mark.DUPLICATE, again)]
    assert one.started() == [first]
