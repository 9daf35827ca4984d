"""Why an instance or a call is as it is, and questions that have no answer."""

from __future__ import annotations

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import AegisError, UnknownCall
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.replay import (
    AmbiguousCall,
    AmbiguousInstance,
    BadCallId,
    BadQuestion,
    CallAfterPoint,
    UnknownGroup,
    UnknownInstance,
)
from tests.eventstore.replay.telling import OURS, causes, explain, link, whats
from tests.eventstore.replay.told_history import Tale, frozen, tale_of
from tests.router.domain.world import pause
from tests.sdk.kit import GROUP, POOL, SERVICE

ERROR = encode(ev.ErrorInfo(code="refused", message="no such account"))


# -- instances ---------------------------------------------------------------------------------------------


async def test_an_instance_is_told_from_its_registration_on() -> None:
    tale, _, _ = frozen()
    reason = await explain(tale, "instance", "i1")
    assert reason.answer.startswith(f"i1 ({OURS}) is standby since")
    assert "i2 is active at epoch 2. It lost the pen at" in reason.answer
    order = ["registered", "admitted", "ready", "promoted", "demoted", "suspected", "recovered"]
    assert [what for what in whats(reason) if what in order] == order
    assert causes(reason, "demoted") == {"promoted", "silence"}
    assert causes(reason, "recovered") == {"suspected"}
    assert causes(reason, "suspected") == {"silence"}
    active = await explain(tale, "instance", "i2")
    assert active.answer.startswith(
        f"i2 ({OURS}) is active at epoch 2 since 2027-01-15T08:00:01.500Z, because"
    )


async def test_an_instance_that_is_lost_refused_or_another_run() -> None:
    tale = tale_of("i1", "i2")
    for _ in range(14):
        tale.pulse("i2", after_ms=250)
        tale.settle()
    lost = await explain(tale, "instance", f"{OURS}/i1")
    assert f"i1 ({OURS}) is lost since" in lost.answer
    assert causes(lost, "lost") == {"suspected"}
    tale.register("i1", "2")
    tale.settle()
    again = await explain(tale, "instance", "i1")
    assert "is standby since" in again.answer
    assert causes(again, "registered") == {"lost"}
    assert any("run 2 of it" in note for note in again.notes)
    tale.register("odd", resources=())
    tale.settle()
    refused = await explain(tale, "instance", "odd")
    assert "is refused since" in refused.answer
    assert "owned groups have some" in link(refused, "refused").said


async def test_a_new_run_tells_how_the_one_before_lost_the_pen() -> None:
    """Who was frozen finds the pen gone, and comes back as a new run within milliseconds."""
    tale, _, _ = frozen()
    tale.register("i1", "2")
    tale.settle()
    reason = await explain(tale, "instance", "i1")
    assert reason.answer.startswith(f"i1 ({OURS}) is standby since")
    assert "Its run before lost the pen at 2027-01-15T08:00:01.500Z" in reason.answer
    assert "silent for 1500 ms" in reason.answer
    assert whats(reason)[:3] == ["demoted", "recovered", "registered"]
    assert causes(reason, "recovered") == {"demoted"}
    assert causes(reason, "registered") == {"recovered"}


async def test_an_instance_that_is_asked_to_leave() -> None:
    tale = tale_of("i1", "i2")
    tale.asked_to_drain("i2")
    tale.drain("i2")
    tale.leave("i2")
    reason = await explain(tale, "instance", "i2")
    assert "is left since" in reason.answer
    assert causes(reason, "draining") == {"drain_requested"}
    assert causes(reason, "left") == {"draining"}


# -- calls -------------------------------------------------------------------------------------------------


async def test_a_call_that_was_in_doubt_is_told_with_its_resolution() -> None:
    tale, begun, _ = frozen()
    reason = await explain(tale, "call", format_call_id(begun))
    assert "it succeeded, says i2 (epoch 2)" in reason.answer
    assert "it had run, says operator ann@box: the venue has it" in reason.answer
    assert whats(reason) == [
        "pen",
        "accepted",
        "claimed",
        "promoted",
        "succeeded",
        "in_doubt",
        "executed",
        "succeeded",
    ]
    assert causes(reason, "in_doubt") == {"claimed", "promoted"}
    assert causes(reason, "executed") == {"in_doubt"}
    late = reason.links[4]
    assert late.data["counts"] is False
    assert "too late" in late.said


async def test_a_call_at_each_point_says_where_it_is() -> None:
    tale, begun, _ = frozen()
    shown = format_call_id(begun)

    async def answer(until: str) -> str:
        return (await explain(tale, "call", shown, until)).answer

    assert "waits at i1 (active at epoch 1)" in await answer("accepted")
    assert "runs at i1 since" in await answer("claimed")
    lost = await answer("last:group.promoted")
    assert "was begun by i1" in lost
    assert "i2 holds it" in lost
    doubt = await answer("in_doubt")
    assert "i1 had begun it at sequence" in doubt
    assert f"aegis doubt resolve {shown}" in doubt
    assert "silent for 1500 ms" in doubt


async def test_what_a_waiting_call_waits_for() -> None:
    tale = tale_of("i1", "i2")
    first, second = tale.call("put"), tale.call("put")
    behind = await explain(tale, "call", format_call_id(second))
    assert f"the first is {format_call_id(first)} (put, accepted)" in behind.answer
    may_run = await explain(tale, "call", format_call_id(first))
    assert "waits or runs at i1" in may_run.answer
    tale.command(pause(GROUP))
    paused = await explain(tale, "call", format_call_id(first))
    assert "is paused by alice" in paused.answer
    tale.leave("i1")
    tale.leave("i2")
    tale.settle()
    vacant = await explain(tale, "call", format_call_id(first))
    assert f"nobody is active in {OURS}" in vacant.answer
    tale.later(70_000)
    tale.joined("i3")
    late = await explain(tale, "call", format_call_id(first))
    assert "Its deadline has passed" in late.answer


async def test_a_call_that_is_tried_again_and_given_up() -> None:
    tale = tale_of("i1")
    call = tale.call()
    due = tale.log.now_ns + 5_000_000_000
    error = ev.ErrorInfo(code="refused", message="no such account")
    body = encode(ev.RetryScheduled(attempt=1, due_ns=due, error=error))
    tale.pen("i1", (Mark.CLAIMED, call, None))
    tale.pen("i1", (Mark.RETRY_SCHEDULED, call, body))
    waits = await explain(tale, "call", format_call_id(call))
    assert "due at 2027-01-15T08:00:05.000Z: attempt 1 failed (refused: no such account)" in waits.answer
    tale.pen("i1", (Mark.DEAD_LETTERED, call, ERROR), kind="dead")
    given_up = await explain(tale, "call", format_call_id(call))
    assert "became a dead letter, says i1: refused: no such account" in given_up.answer


async def test_a_call_of_a_pool_waits_for_a_worker() -> None:
    tale = Tale()
    tale.joined("w1", group=POOL)
    call = tale.call("get", None, POOL)
    reason = await explain(tale, "call", format_call_id(call))
    assert "waits in pool orders/_pool, of which 1 worker can take calls" in reason.answer
    assert whats(reason) == ["accepted"]


# -- questions that have no answer -------------------------------------------------------------------------


async def refusal[E: AegisError](tale: Tale, cls: type[E], kind: str, text: str, until: str = "end") -> E:
    with pytest.raises(cls) as caught:
        await explain(tale, kind, text, until)
    assert caught.value.message.startswith("cannot ")
    return caught.value


async def test_unknown_names_are_refused_with_those_that_there_are() -> None:
    tale, _, _ = frozen()
    assert OURS in (await refusal(tale, UnknownGroup, "group", "nope/acc")).message
    assert OURS in (await refusal(tale, UnknownGroup, "group", f"{SERVICE}/nope")).message
    assert (await refusal(tale, UnknownGroup, "group", "nope")).groups == [OURS]
    await refusal(tale, UnknownGroup, "group", OURS, "1")  # nobody had joined by then
    unknown = await refusal(tale, UnknownInstance, "instance", "nobody")
    assert f"{OURS}/i1" in unknown.instances
    await refusal(tale, UnknownInstance, "instance", "x/y/i1")
    await refusal(tale, UnknownInstance, "instance", "i1", "1")
    assert "group, instance, call" in (await refusal(tale, BadQuestion, "router", "r1")).message


async def test_ambiguous_names_are_refused_with_the_choice() -> None:
    tale = tale_of("i1")
    tale.joined("i1", group="other", resources=["acc_9"])
    found = await refusal(tale, AmbiguousInstance, "instance", "i1")
    assert found.instances == [f"{OURS}/i1", f"{SERVICE}/other/i1"]
    assert (await explain(tale, "instance", f"{SERVICE}/other/i1")).about["group"] == "other"
    assert "several" in (await refusal(tale, UnknownGroup, "group", SERVICE)).message


async def test_calls_that_cannot_be_explained() -> None:
    tale, begun, waiting = frozen()
    shown = format_call_id(begun)
    for text in ("", "xyz", "0123", f"{shown}0", "g" * 32):
        await refusal(tale, BadCallId, "call", text)
    ambiguous = await refusal(tale, AmbiguousCall, "call", shown[:13])
    assert {format_call_id(waiting), shown} <= set(ambiguous.candidates)
    await refusal(tale, UnknownCall, "call", "01a3185c-5000-7000-8000-ffffffffffff")
    early = await refusal(tale, CallAfterPoint, "call", shown, "2")
    assert (early.call_id, early.until_seq) == (shown, 2)
    alone = tale.call()
    short = format_call_id(alone)[:28]
    assert (await explain(tale, "call", short)).about["call_id"] == format_call_id(alone)
