"""Defects that were found in what makes calls run once, and stay mended."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import CancelRequested
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import key_hash
from aegisipc.sdk.attached import Seeker
from aegisipc.sdk.core.lanes import Lane, PendingCall
from aegisipc.sdk.core.links import Links
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE
from aegisipc.sdk.firsts import Firsts
from aegisipc.sdk.wire import WireOutcome
from tests.sdk.kit import GROUP, NS, SERVICE, FakeClient, ListLog, a_call, marks
from tests.sdk.member_kit import MemberRig, active_member, ask_to_cancel, send_keyed, standby_member
from tests.support.waiting import eventually


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def client(log: ListLog) -> FakeClient:
    return FakeClient(log)


# -- cancelling -----------------------------------------------------------------------------------------


def test_a_request_to_cancel_that_cannot_be_read_to_its_end_leaves_no_call_half_cancelled(
    log: ListLog, client: FakeClient
) -> None:
    """The calls in front were marked, and nobody acted on that: not even on the next request."""
    member = active_member(log)
    (call,) = client.send(a_call("put"))
    member.read()
    broken = CancelRequested(call_ids=(format_call_id(call), "no id"), author="c1")
    log.say(NS.cancel(SERVICE, GROUP, "c1"), broken)
    member.read()
    assert member.core.calls.anomalies["malformed"] == 1
    assert member.cancels == []
    ask_to_cancel(log, call)
    member.read()
    assert member.cancels == [call]


def test_all_readers_agree_on_which_requests_to_cancel_name_a_call(log: ListLog, client: FakeClient) -> None:
    (call,) = client.send(a_call("put"))
    shown = format_call_id(call)
    for call_ids in ((shown, "no id"), (shown.upper(),)):
        log.say(NS.cancel(SERVICE, GROUP, "c1"), CancelRequested(call_ids=call_ids, author="c1"))
    calls = GroupCalls(keep_bodies=True, is_fenced=True)
    accepted = AcceptedCall(call, SERVICE, GROUP, client.name, "put", None, 1, 1, 1 << 62, 1, b"")
    history = CallHistory(NS, accepted)
    told = []
    for record in log.records:
        told.append(bool(calls.apply(record, NS.parse(record.subject)).cancels))
        history.apply(record)
    assert told == [False, False, True]
    assert [step.seq for step in history.steps if step.what == "cancel_requested"] == [3]


# -- keys -----------------------------------------------------------------------------------------------


def begun_and_in_a_segment(log: ListLog, client: FakeClient, method: str) -> tuple[MemberRig, CallId]:
    """A call that was given to its host, and whose key has become part of a segment since."""
    member = active_member(log, segment_keys=1)
    (call,) = send_keyed(client, (a_call(method), "k"))
    member.read()
    member.write_all()
    member.read()
    assert member.started() == [call]
    assert member.core.calls.keys is not None
    assert member.core.calls.keys.recent == {}
    return member, call


def is_quiet(member: MemberRig) -> bool:
    return member.core.is_quiet


@pytest.mark.parametrize(
    ("method", "mark", "body"), [("put", Mark.EXPIRED, None), ("pay", Mark.FAILED, CLAIMED_TOO_LATE)]
)
def test_a_call_that_waited_too_long_for_its_arguments_frees_its_key_even_if_a_segment_has_it(
    log: ListLog, client: FakeClient, method: str, mark: Mark, body: bytes | None
) -> None:
    member, call = begun_and_in_a_segment(log, client, method)
    member.finish(call, cast("bytes", body), mark)
    assert not is_quiet(member)  # to yield now would leave a claim behind that nobody can judge
    member.look_up()
    assert marks(member.write()) == [(Mark.RELEASED, call), (mark, call)]
    member.read()
    assert is_quiet(member)
    (again,) = send_keyed(client, (a_call(method), "k"))
    member.read()
    member.look_up()
    member.write_all()
    assert member.started() == [again]


def test_a_call_cancelled_before_its_host_took_it_frees_its_key_even_if_a_segment_has_it(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, segment_keys=1)
    (call,) = send_keyed(client, (a_call("put"), "k"))
    log_end = len(log.records)
    member.core.on_record(log.records[-1], log.now_ns)  # by hand: its host takes no start
    for _ in range(2):  # the key, and the segment that it is in
        written = member.next_frame()
        member.store(written)
        member.core.on_acked(written, log.now_ns)
        member.core.on_record(log.records[-1], log.now_ns)
    assert log_end + 2 == len(log.records)
    ask_to_cancel(log, call)
    member.position = len(log.records) - 1
    member.read()
    member.look_up()
    assert marks(member.write()) == [(Mark.RELEASED, call), (Mark.CANCELLED, call)]
    assert member.started() == []


def test_a_call_that_waits_for_a_thread_does_not_hold_up_others_that_know_who_has_their_key(
    log: ListLog, client: FakeClient
) -> None:
    member = active_member(log, segment_keys=2, threaded=["put"])
    send_keyed(client, (a_call("get"), "k0"), (a_call("get"), "k1"))
    member.run_everything()
    member.write_all()
    threaded, plain = send_keyed(client, (a_call("put"), "k0"), (a_call("get"), "k1"))
    member.read()
    (stuck,) = client.send(a_call("put"))
    member.read()
    assert member.started() == [stuck]
    for lookup in sorted(member.lookups, key=lambda lookup: lookup.key != key_hash("k0")):
        member.core.on_key_found(lookup, None, log.now_ns)  # other keys, that look the same
    member.write_all()
    assert member.started() == [stuck, plain]
    member.finish(stuck)
    member.write_all()
    assert member.started() == [plain, threaded]


# -- evidence -------------------------------------------------------------------------------------------


def test_an_unwritten_refusal_is_no_evidence_of_a_run(log: ListLog, client: FakeClient) -> None:
    """Told late, it would end the doubt about a later run: "turned away, not started" of a call that ran."""
    member = active_member(log, max_backlog=1)
    heir = standby_member(log)
    calls = client.send(*[a_call("pay")] * 3)
    member.read()
    refused = [fact.call.call_id for fact in member.core._pen._facts if fact.mark is Mark.FAILED]
    assert refused == [calls[2]]
    log.promote("b", 2)
    member.read()
    assert member.core.take_unwritten() == []
    heir.read()
    heir.write_all()
    assert set(refused) <= set(heir.started())


def test_an_unwritten_conflict_of_keys_is_no_evidence_of_a_run(log: ListLog, client: FakeClient) -> None:
    member = active_member(log)
    first, other = send_keyed(client, (a_call("pay", "x"), "k"), (a_call("pay", "y"), "k"))
    member.read()
    assert (Mark.FAILED, other) in [(fact.mark, fact.call.call_id) for fact in member.core._pen._facts]
    log.promote("b", 2)
    member.read()
    assert member.core.take_unwritten() == []
    assert first not in member.started()


# -- the client -----------------------------------------------------------------------------------------


class SlowToStop:
    """As much of a seeker as a search needs. It never finds anything, and takes its time to be given up."""

    def __init__(self) -> None:
        self.searches = 0
        self.may_stop = asyncio.Event()

    async def find(self, call_id: CallId, codec: object, timeout_s: float) -> Any:
        self.searches += 1
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_stop.wait()


def follower(number: int) -> PendingCall:
    lane = Lane(SERVICE, GROUP, NS.call(SERVICE, GROUP, "c1"))
    deadline_ns = time.monotonic_ns() + 60_000_000_000
    return PendingCall(bytes(15) + bytes([number]), lane, "put", b"", 60_000, None, deadline_ns)


async def test_who_begins_to_wait_for_a_call_while_the_search_for_it_is_given_up_is_looked_after() -> None:
    links, seeker, first = Links(), SlowToStop(), bytes(15) + b"\x09"

    def tell(_: list[WireOutcome]) -> None:
        raise AssertionError("there is nothing to tell")

    def lost(_: CallId, __: AegisError) -> None:
        raise AssertionError("nothing is lost")

    firsts = Firsts(links, cast("Seeker", seeker), tell=tell, lost=lost)
    one, two = follower(1), follower(2)
    links.follow(one, first, {}, ())
    firsts.look_for(links.take_fresh())
    await eventually(lambda: seeker.searches == 1, within_s=10, what="no search began")
    links.on_end(one)
    firsts.tidy()
    await asyncio.sleep(0)
    links.follow(two, first, {}, ())
    firsts.look_for(links.take_fresh())
    seeker.may_stop.set()
    await eventually(lambda: seeker.searches == 2, within_s=10, what="nobody looks for it any more")
    await firsts.close()
    assert not firsts.is_busy
    assert seeker.searches == 2
