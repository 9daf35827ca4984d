"""Idempotency keys: who has one, what becomes of those that come with it again, and where that is kept."""

from __future__ import annotations

import pytest

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.keys import KeyOwner, key_hash, keyed_body, payload_digest
from aegisipc.eventstore.references import Reference, encode_reference
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE
from tests.sdk.kit import FakeClient, ListLog, a_call, marks
from tests.sdk.member_key_kit import owner_of, told
from tests.sdk.member_kit import (
    MemberRig,
    active_member,
    said_by,
    send_keyed,
    standby_member,
)


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


# -- granting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["put", "get"])
def test_a_call_starts_only_when_it_is_in_the_log_that_it_has_its_key(
    log: ListLog, client: FakeClient, method: str
) -> None:
    member = active_member(log)
    (call,) = send_keyed(client, (a_call(method), "k"))
    member.read()
    assert member.started() == []
    written = member.next_frame()
    assert [(f.mark, f.call.call_id) for f in written.facts] == [(Mark.KEYED, call)]
    member.store(written)
    assert member.started() == []
    member.ack(written)
    assert member.started() == [call]
    member.read()
    assert member.started() == [call]
    digest = payload_digest(method, None, a_call()[3])
    assert owner_of(member.core, "k") == KeyOwner(call, digest)
    assert written.facts[0].body == keyed_body(key_hash("k"), digest)


def test_a_once_call_gets_its_key_and_is_claimed_in_one_frame(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_frame_bytes=65)
    one, two = send_keyed(client, (a_call("pay"), "k"), (a_call("pay"), "l"))
    member.read()
    assert marks(member.write()) == [(Mark.KEYED, one), (Mark.CLAIMED, one)]
    assert member.started() == [one]
    assert marks(member.write()) == [(Mark.KEYED, two), (Mark.CLAIMED, two)]
    assert member.started() == [one, two]


def test_keys_of_other_calls_do_not_have_to_travel_together(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_frame_bytes=130)
    calls = send_keyed(client, *[(a_call("put"), f"k{number}") for number in range(4)])
    member.read()
    assert marks(member.write()) == [(Mark.KEYED, call) for call in calls[:2]]
    assert marks(member.write()) == [(Mark.KEYED, call) for call in calls[2:]]


@pytest.mark.parametrize("is_folded", [True, False])
@pytest.mark.parametrize("method", ["pay", "put"])
def test_the_same_call_again_is_a_duplicate_of_the_first_one(
    log: ListLog, client: FakeClient, method: str, is_folded: bool
) -> None:
    member = active_member(log)
    (first,) = send_keyed(client, (a_call(method), "k"))
    member.read()
    if is_folded:
        member.write_all()
    (second,) = send_keyed(FakeClient(log, "c2"), (a_call(method), "k"))
    member.read()
    member.write_all()
    assert member.started() == [first]
    assert told(member, second) == (Mark.DUPLICATE, first)
    assert member.core.running == 1
    assert second not in member.core.calls.open


@pytest.mark.parametrize(
    "other",
    [a_call("put", body=b"\x92\x91\x01\x80"), a_call("get"), a_call("put", "x"), a_call("pay")],
)
def test_another_request_with_the_same_key_is_refused(
    log: ListLog, client: FakeClient, other: tuple[str, str | None, int, bytes]
) -> None:
    member = active_member(log)
    first, second = send_keyed(client, (a_call("put"), "k"), (other, "k"))
    member.read()
    member.write_all()
    assert member.started() == [first]
    mark, body = told(member, second)
    error = decode(body or b"")
    assert (mark, error["code"]) == (Mark.FAILED, "idempotency_conflict")
    assert error["details"] == {"first": format_call_id(first), "key": "k"}


def test_arguments_in_the_object_store_are_the_same_if_their_content_is(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)

    def stored(name: str, digest: bytes) -> tuple[str, str | None, int, bytes]:
        return a_call("put", body=encode_reference(Reference(name, 7, digest)))

    first, same, other = send_keyed(
        client,
        (stored("a.1", b"d" * 32), "k"),
        (stored("a.2", b"d" * 32), "k"),
        (stored("a.1", b"e" * 32), "k"),
    )
    member.read()
    member.write_all()
    assert told(member, same) == (Mark.DUPLICATE, first)
    assert told(member, other)[0] == Mark.FAILED


def test_a_duplicate_frees_its_slot_and_its_resource(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=3)
    first, second, third, free = send_keyed(
        client,
        (a_call("put"), "k"),
        (a_call("put", "x"), "k"),
        (a_call("put", "x"), None),
        (a_call("put"), None),
    )
    member.read()
    member.write()
    assert set(member.started()) == {first, third, free}
    assert member.core.running == 3
    assert told(member, second)[0] == Mark.FAILED  # its resource is another one


def test_the_outcome_of_the_first_call_travels_in_front_of_the_word_that_another_repeats_it(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (first,) = send_keyed(client, (a_call("put"), "k"))
    member.read()
    member.write()
    member.finish(first, b"result")
    member.write_all()
    (second,) = send_keyed(FakeClient(log, "c2"), (a_call("put"), "k"))
    member.read()
    member.write_all()
    both = [(first, int(Mark.SUCCEEDED), b"result"), (second, int(Mark.DUPLICATE), first)]
    assert [reply for name, reply in member.replies if name == "c2"] == both
    assert member.core.answer([second]) == both


def test_a_key_belongs_to_its_call_whatever_became_of_it(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    (first,) = send_keyed(client, (a_call("put"), "k"))
    member.read()
    member.write()
    member.finish(first, b"\xa0", Mark.FAILED)
    member.write_all()
    (second,) = send_keyed(client, (a_call("put"), "k"))
    member.read()
    member.write_all()
    assert told(member, second) == (Mark.DUPLICATE, first)


def test_a_suspect_gets_its_key_before_it_is_begun_alone(log: ListLog, client: FakeClient) -> None:
    log.join("a")
    log.promote("a", 1)
    one, two = send_keyed(client, (a_call("put"), "k"), (a_call("put"), "l"))
    log.promote("a", 2)
    log.promote("a", 3)
    member = MemberRig(log)
    member.read()
    assert marks(member.write()) == [(Mark.KEYED, one), (Mark.ATTEMPTED, one), (Mark.KEYED, two)]
    assert member.started() == [one]
    member.finish(one)
    member.write()
    assert member.started() == [two]


def test_a_paused_group_grants_no_key(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    log.pause()
    (call,) = send_keyed(client, (a_call("put"), "k"))
    member.read()
    assert member.core.next_frame() is None
    log.resume()
    member.read()
    assert marks(member.write()) == [(Mark.KEYED, call)]


# -- releasing -----------------------------------------------------------------------------------------


def test_a_claim_that_came_too_late_gives_the_key_back_and_the_next_call_gets_it(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (late,) = send_keyed(client, (a_call("pay", timeout_ms=10), "k"))
    member.read()
    written = member.next_frame()
    member.store(written)
    log.now_ns += 10_000_000
    member.ack(written)
    (again,) = send_keyed(client, (a_call("pay"), "k"))
    member.read()
    assert marks(member.write()) == [
        (Mark.RELEASED, late),
        (Mark.FAILED, late),
        (Mark.KEYED, again),
        (Mark.CLAIMED, again),
    ]
    assert told(member, late) == (Mark.FAILED, CLAIMED_TOO_LATE)
    assert member.started() == [again]
    member.read()
    assert owner_of(member.core, "k") == KeyOwner(again, payload_digest("pay", None, a_call()[3]))


def test_a_call_whose_deadline_passed_while_its_key_was_written_gives_it_back(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log)
    (late,) = send_keyed(client, (a_call("put", timeout_ms=10), "k"))
    member.read()
    written = member.next_frame()
    member.store(written)
    log.now_ns += 10_000_000
    member.ack(written)
    member.read()
    assert marks(member.write()) == [(Mark.RELEASED, late), (Mark.EXPIRED, late)]
    member.read()
    assert owner_of(member.core, "k") is None
    assert told(member, late) == (Mark.EXPIRED, None)


def test_one_that_expired_while_it_waited_has_no_key_to_give_back(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, max_running=1)
    runs, waits = send_keyed(client, (a_call("put"), "k"), (a_call("put", timeout_ms=10), "k"))
    member.read()
    member.write_all()
    member.pass_time(10)
    assert marks(member.write()) == [(Mark.EXPIRED, waits)]
    member.read()
    assert owner_of(member.core, "k") == KeyOwner(runs, payload_digest("put", None, a_call()[3]))


@pytest.mark.parametrize("method", ["put", "pay"])
def test_a_call_that_a_former_holder_may_have_begun_keeps_its_key_and_one_that_it_did_not_gives_it_back(
    log: ListLog, client: FakeClient, method: str
) -> None:
    former = active_member(log, "a")
    (call,) = send_keyed(client, (a_call(method, timeout_ms=50), "k"))
    former.read()
    former.write()
    heir = standby_member(log, "b")
    log.promote("b", 2)
    heir.read()
    if method == "pay":
        assert heir.core.doubts.not_executed(call, said_by())
        heir.write_all()  # it is claimed again, too
        log.promote("a", 3)
        former.read()
        assert former.core.doubts.not_executed(call, said_by())
        log.now_ns += 50_000_000
        former.write_all()
        assert owner_of(former.core, "k") is None
    else:
        log.now_ns += 50_000_000
        log.promote("b", 3)
        heir.read()
        heir.pass_time(0)
        heir.write_all()
        assert owner_of(heir.core, "k") == KeyOwner(call, payload_digest(method, None, a_call()[3]))


def test_the_word_that_a_key_is_free_is_in_one_frame_with_the_outcome(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, max_frame_bytes=70)
    one, two = send_keyed(client, (a_call("put", timeout_ms=10), "k"), (a_call("put", timeout_ms=10), "l"))
    member.read()
    for _ in range(2):
        written = member.next_frame()
        member.store(written)
        log.now_ns += 5_000_000
        member.ack(written)
    assert member.running
    frames = [marks(member.write()), marks(member.write())]
    assert frames[0] == [(Mark.RELEASED, two), (Mark.EXPIRED, two)]
    assert one in member.started()


# -- handover ------------------------------------------------------------------------------------------


def test_a_key_that_was_granted_and_not_stored_is_the_heirs_to_grant(
    log: ListLog, client: FakeClient
) -> None:
    former = active_member(log, "a")
    (first,) = send_keyed(client, (a_call("put"), "k"))
    former.read()
    written = former.next_frame()
    heir = standby_member(log, "b")
    log.promote("b", 2)
    assert former.refuse(written) is None
    (second,) = send_keyed(client, (a_call("put"), "k"))
    heir.read()
    assert marks(heir.write()) == [(Mark.KEYED, first), (Mark.DUPLICATE, second)]


def test_an_heir_starts_a_call_that_has_its_key_without_granting_it_again(
    log: ListLog, client: FakeClient
) -> None:
    former = active_member(log, "a")
    (call,) = send_keyed(client, (a_call("put"), "k"))
    former.read()
    former.write()
    heir = standby_member(log, "b")
    log.promote("b", 2)
    heir.read()
    assert heir.started() == [call]
    assert heir.core.next_frame() is None


def test_who_loses_the_pen_forgets_what_it_granted(log: ListLog, client: FakeClient) -> None:
    member = active_member(log, "a")
    (call,) = send_keyed(client, (a_call("put"), "k"))
    member.read()
    written = member.next_frame()
    log.promote("a", 2, kind="planned")
    assert member.refuse(written) is None
    member.read()
    log.promote("a", 3, kind="planned")
    member.read()
    assert marks(member.write()) == [(Mark.KEYED, call)]
    assert member.started() == [call]
    assert [start.epoch for start in member.running] == [3]


# -- too much ------------------------------------------------------------------------------------------


def test_calls_over_twice_the_backlog_are_turned_away_the_newest_first(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, max_running=1, max_backlog=2)
    calls = client.send(*[a_call("put")] * 6)
    member.read()
    assert member.started() == calls[:1]
    assert marks(member.write()) == [(Mark.FAILED, call) for call in calls[4:]]
    _, body = told(member, calls[5])
    error = decode(body or b"")
    assert error["code"] == "overloaded"
    assert error["details"]["retry_after_ms"] > 0
    member.run_everything()
    assert len(member.core.calls.open) == 0
    (later,) = client.send(a_call("put"))
    member.read()
    assert member.started() == [later]
