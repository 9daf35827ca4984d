"""The recount, on logs made by hand: it must find what is wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import (
    DEAD_MARKS,
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.subjects import subjects_of
from examples.demo.play import RESULTS
from examples.demo.recount import Recount, differences, recount
from examples.demo.summary import Summary, summarize
from examples.demo.tally import Ending, Seen, Tally
from examples.quotes import Quote

SUBJECTS = subjects_of("demo")
QUOTE = Quote(symbol="ACME", bid=Decimal("1.10"), ask=Decimal("1.12"), at=datetime(2026, 1, 2, tzinfo=UTC))
NO_MONEY = encode({"code": "insufficient_funds", "message": "no", "details": {}})


class Story:
    """A log, told call by call and outcome by outcome."""

    def __init__(self) -> None:
        self.log = MemoryLog(lambda: 0)
        self._ids = CallIds(7)
        self._numbers = {"call": 0, "pen": 0}

    async def call(
        self,
        *,
        number: int | None = None,
        call_id: CallId | None = None,
        options: CallOptions | None = None,
    ) -> CallId:
        call_id = call_id or self._ids.next(1_000)
        entries = [CallEntry(call_id, "quote", 1_000, None, options)]
        frame = CallFrame(1, self._number("call", number), 0, entries, [encode([[], {}])])
        await self.log.append(SUBJECTS.call("quotes", "_pool", "me"), encode_calls(frame))
        return call_id

    async def say(
        self,
        mark: Mark,
        call_id: CallId,
        body: bytes | None = None,
        *,
        who: str = "q-1",
        number: int | None = None,
    ) -> None:
        frame = PenFrame(2, self._number("pen", number), 0, [PenEntry(mark, call_id)], [body])
        subject = (SUBJECTS.dead if mark in DEAD_MARKS else SUBJECTS.pen)("quotes", "_pool", who)
        await self.log.append(subject, encode_pen(frame))

    async def succeed(self, call_id: CallId, quote: Quote = QUOTE) -> None:
        await self.say(Mark.SUCCEEDED, call_id, encode(quote))

    def _number(self, kind: str, number: int | None) -> int:
        self._numbers[kind] += number is None
        return self._numbers[kind] if number is None else number

    async def counted(self) -> Recount:
        return await recount(self.log, SUBJECTS)


def saw(call_id: CallId, ending: Ending = Ending.SUCCEEDED, code: str = "") -> Seen:
    return Seen(call_id, "quotes.quote", ending, QUOTE if ending is Ending.SUCCEEDED else None, code)


async def test_a_log_where_all_is_well_has_no_faults() -> None:
    story = Story()
    good, bad = await story.call(), await story.call()
    await story.say(Mark.CLAIMED, good)
    await story.succeed(good)
    await story.say(Mark.FAILED, bad, NO_MONEY)
    summary = summary_of(await story.counted(), [saw(good), saw(bad, Ending.FAILED, "insufficient_funds")])
    assert summary.is_good
    assert summary.to_json() | {"frames": 5, "mismatches": 0} == summary.to_json()
    assert (summary.succeeded, summary.business_errors, summary.other_errors) == (1, 1, 0)
    assert summary.counted.calls[good].target == "quotes.quote"


async def test_a_call_without_outcome_is_lost_even_if_it_was_started() -> None:
    story = Story()
    silent, started = await story.call(), await story.call()
    await story.say(Mark.CLAIMED, started)
    counted = await story.counted()
    assert counted.lost == [silent, started]
    assert not summary_of(counted, [saw(silent, Ending.UNANSWERED), saw(started, Ending.UNANSWERED)]).is_good


async def test_a_second_conclusion_is_a_duplicate_and_the_first_one_counts() -> None:
    story = Story()
    call_id = await story.call()
    await story.succeed(call_id)
    await story.say(Mark.FAILED, call_id, NO_MONEY, who="q-2")
    counted = await story.counted()
    assert counted.duplicates == [call_id]
    assert counted.endings == {Ending.SUCCEEDED: 1}
    assert not summary_of(counted, [saw(call_id)]).is_good


async def test_a_call_claimed_twice_was_started_twice() -> None:
    story = Story()
    call_id = await story.call()
    for who in ("q-1", "q-2"):
        await story.say(Mark.CLAIMED, call_id, who=who)
    await story.succeed(call_id)
    counted = await story.counted()
    assert (counted.started_twice, counted.duplicates) == ([call_id], [])
    assert not summary_of(counted, [saw(call_id)]).is_good


async def test_a_frame_that_was_stored_twice_counts_once() -> None:
    story = Story()
    call_id = await story.call(number=1)
    await story.call(number=1, call_id=call_id)
    await story.say(Mark.CLAIMED, call_id, number=1)
    await story.say(Mark.CLAIMED, call_id, number=1)
    await story.say(Mark.SUCCEEDED, call_id, encode(QUOTE), number=2)
    await story.say(Mark.SUCCEEDED, call_id, encode(QUOTE), number=2)
    counted = await story.counted()
    assert counted.frames_stored_twice == 3
    assert summary_of(counted, [saw(call_id)]).is_good


async def test_a_call_accepted_by_two_frames_is_a_fault() -> None:
    story = Story()
    call_id = await story.call()
    await story.call(call_id=call_id)
    await story.succeed(call_id)
    assert summary_of(await story.counted(), [saw(call_id)]).faults["accepted_twice"] == 1


async def test_a_resolved_doubt_is_one_conclusion_and_either_answer_was_right() -> None:
    story = Story()
    call_id = await story.call()
    await story.say(Mark.IN_DOUBT, call_id)
    assert (await story.counted()).endings == {Ending.IN_DOUBT: 1}
    await story.succeed(call_id)
    counted = await story.counted()
    assert (counted.endings, counted.duplicates) == ({Ending.SUCCEEDED: 1}, [])
    assert differences(counted, [saw(call_id, Ending.IN_DOUBT)], RESULTS) == (0, [])
    assert differences(counted, [saw(call_id)], RESULTS) == (0, [])


async def test_a_call_that_was_found_not_executed_may_be_claimed_again_and_ends_as_it_does_then() -> None:
    story = Story()
    call_id = await story.call()
    await story.say(Mark.CLAIMED, call_id)
    await story.say(Mark.IN_DOUBT, call_id)
    await story.say(Mark.NOT_EXECUTED, call_id)
    assert (await story.counted()).lost == [call_id]
    await story.say(Mark.CLAIMED, call_id, who="q-2")
    await story.succeed(call_id)
    counted = await story.counted()
    assert (counted.started_twice, counted.duplicates, counted.lost) == ([], [], [])
    assert list(counted.doubted) == [call_id]
    assert differences(counted, [saw(call_id)], RESULTS) == (0, [])


async def test_a_dead_letter_is_an_outcome_and_a_check_of_the_state_is_about_no_call() -> None:
    story = Story()
    call_id = await story.call()
    await story.say(Mark.CHECKED, bytes(16))
    await story.say(Mark.ATTEMPTED, call_id)
    await story.say(Mark.DEAD_LETTERED, call_id, NO_MONEY)
    counted = await story.counted()
    assert (counted.endings, counted.strays, counted.lost) == ({Ending.DEAD_LETTERED: 1}, 0, [])
    assert differences(counted, [saw(call_id, Ending.DEAD_LETTERED, "insufficient_funds")], RESULTS) == (
        0,
        [],
    )


async def test_a_dead_letter_that_is_requeued_is_open_again_and_ends_as_it_does_then() -> None:
    story = Story()
    call_id = await story.call()
    await story.say(Mark.CLAIMED, call_id)
    given_up = encode({"code": "dead_lettered", "message": "broke", "details": {"claimed_seq": 2}})
    await story.say(Mark.DEAD_LETTERED, call_id, NO_MONEY)  # names no claim: about something else
    assert (await story.counted()).lost == [call_id]
    await story.say(Mark.DEAD_LETTERED, call_id, given_up)
    await story.call(call_id=call_id, options=CallOptions(requeue=(4, "me")))
    await story.say(Mark.REQUEUED, call_id)
    assert (await story.counted()).lost == [call_id]
    await story.say(Mark.CLAIMED, call_id, who="q-2")
    await story.succeed(call_id)
    counted = await story.counted()
    assert (counted.started_twice, counted.duplicates, counted.accepted_twice) == ([], [], 0)
    assert counted.endings == {Ending.SUCCEEDED: 1}


async def test_a_dead_letter_with_another_conclusion_has_two_even_if_it_was_put_away() -> None:
    story = Story()
    call_id = await story.call()
    await story.say(Mark.DEAD_LETTERED, call_id, NO_MONEY)
    await story.say(Mark.DISCARDED, call_id)
    assert (await story.counted()).duplicates == []
    await story.succeed(call_id)
    assert (await story.counted()).duplicates == [call_id]


async def test_an_attempt_that_failed_may_be_followed_by_another_claim_and_no_more_than_one() -> None:
    story = Story()
    call_id = await story.call()
    await story.say(Mark.CLAIMED, call_id)
    await story.say(Mark.RETRY_SCHEDULED, call_id, encode({"attempt": 1, "claimed_seq": 2}))
    await story.say(Mark.CLAIMED, call_id)
    assert (await story.counted()).started_twice == []
    await story.say(Mark.RETRY_SCHEDULED, call_id, encode({"attempt": 1, "claimed_seq": 2}))  # too late
    await story.say(Mark.CLAIMED, call_id, who="q-2")
    assert (await story.counted()).started_twice == [call_id]


async def test_a_call_with_the_key_of_another_ends_like_that_one() -> None:
    story = Story()
    first, second = await story.call(), await story.call()
    await story.say(Mark.KEYED, first, bytes(32))
    await story.say(Mark.DUPLICATE, second, first)
    assert (await story.counted()).lost == [first, second]
    await story.succeed(first)
    counted = await story.counted()
    assert (counted.endings, counted.lost) == ({Ending.SUCCEEDED: 2}, [])
    assert differences(counted, [saw(first), saw(second)], RESULTS) == (0, [])
    assert differences(counted, [saw(first), saw(second, Ending.CANCELLED)], RESULTS)[0] == 1


async def test_outcomes_of_unknown_calls_and_unreadable_frames_are_faults() -> None:
    story = Story()
    await story.succeed(CallIds(9).next(1_000))
    await story.log.append(SUBJECTS.pen("quotes", "_pool", "q-1"), b"\xc1")
    await story.log.append(SUBJECTS.call("quotes", "_pool", "me"), b"")
    faults = summary_of(await story.counted(), []).faults
    assert (faults["strays"], faults["unreadable"]) == (1, 2)


async def test_records_that_are_no_frames_are_passed_over() -> None:
    story = Story()
    await story.log.append(SUBJECTS.watch("quotes", "_pool"), b"whatever")
    assert await story.counted() == Recount()


# -- beside what the clients saw -----------------------------------------------------------------------------


async def reason(seen: Seen, *, mark: Mark | None = Mark.SUCCEEDED, body: bytes | None = None) -> str:
    """Compare `seen` (of the first call of a story) with a log that says `mark`."""
    story = Story()
    call_id = await story.call()
    if mark is not None:
        await story.say(mark, call_id, encode(QUOTE) if body is None else body)
    count, first = differences(await story.counted(), [replace(seen, call_id=call_id)], RESULTS)
    assert count == len(first) <= 1
    return first[0] if first else ""


async def test_what_a_client_saw_is_compared_with_the_log() -> None:
    nobody = b"\0" * 16
    assert await reason(saw(nobody)) == ""
    assert "another result" in await reason(
        saw(nobody), body=encode(QUOTE.model_copy(update={"bid": Decimal(1)}))
    )
    assert "cannot be read" in await reason(saw(nobody), body=encode({"symbol": "ACME"}))
    assert "saw failed, the log says succeeded" in await reason(saw(nobody, Ending.FAILED, "unknown_symbol"))
    assert "unknown_symbol, the log says insufficient_funds" in await reason(
        saw(nobody, Ending.FAILED, "unknown_symbol"), mark=Mark.FAILED, body=NO_MONEY
    )
    assert "saw unanswered, the log says succeeded" in await reason(saw(nobody, Ending.UNANSWERED))
    assert "the log has no outcome" in await reason(saw(nobody), mark=None)
    assert await reason(saw(nobody, Ending.UNANSWERED), mark=None) == ""  # that one is lost: counted there


async def test_a_result_that_the_log_does_not_hold_and_a_call_that_nobody_made_are_differences() -> None:
    story = Story()
    await story.succeed(await story.call())
    count, first = differences(await story.counted(), [saw(CallIds(9).next(1_000))], RESULTS)
    assert count == 2
    assert "the log does not hold it" in first[0]
    assert "no client made it" in first[1]


async def test_calls_that_were_refused_before_they_were_accepted_are_faults_of_their_own() -> None:
    summary = summary_of(Recount(), [Seen(b"", "quotes.quote", Ending.NOT_ACCEPTED, code="no_route")])
    assert (summary.mismatches, summary.faults["not_accepted"], summary.is_good) == (0, 1, False)


async def test_a_flow_that_was_not_played_to_its_end_is_not_good() -> None:
    assert not summarize(Tally(1), Recount()).is_good


def summary_of(counted: Recount, seen: list[Seen]) -> Summary:
    tally = Tally(len(seen))
    tally.begin(0.0)
    for one in seen:
        tally.sent()
        tally.add(one, 0.001, 1.0)
    return summarize(tally, counted)
