"""What the history of a call says about why the router gave the pen to whom."""

from __future__ import annotations

import io
from typing import Any

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import Paint
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.stories import as_plain, as_text
from aegisipc.router.cli.story_reasons import reasons

S = subjects_of("test")
CALL_ID = parse_call_id("019a9e6e-8d5b-7000-8000-3b9aca000001")
NOW_NS = 1_763_000_000_000_000_000
WHEN = "2025-11-13T02:13:20.000Z"
ACCEPTED_SEQ = 50

SEEN = {
    "former_holder": "i1",
    "former_epoch": 1,
    "former_state": "suspected_active",
    "ready": ["i2", "i3"],
    "open": 2,
    "source": "silence",
    "last_pulse_ns": NOW_NS - 1_012_000_000,
    "silence_ms": 1012,
    "now_ns": NOW_NS,
    "disconnected_ns": NOW_NS,
}


class Story(CallHistory):
    """A history to which the log goes on telling."""

    def __init__(self, group: str = "g1") -> None:
        body = encode([[], {}])
        super().__init__(
            S,
            AcceptedCall(
                CALL_ID, "orders", group, "c1", "place", None, ACCEPTED_SEQ, NOW_NS, NOW_NS, 1, body
            ),
        )
        self.group = group

    def say(self, seq: int, event: ev.Event) -> None:
        self.apply(Record(seq, S.fence("orders", self.group), ev.encode_event(event), NOW_NS))

    def promote(self, seq: int, holder: str, epoch: int, **fields: Any) -> None:
        shown: dict[str, Any] = {"cause": "first", "kind": "failover", "decided_by": "r1"} | fields
        self.say(seq, ev.GroupPromoted(epoch=epoch, holder=holder, incarnation="x", **shown))

    def write(self, seq: int, writer: str, epoch: int, mark: Mark) -> None:
        frame = PenFrame(1, seq, epoch, [PenEntry(mark, CALL_ID)], [None])
        self.apply(Record(seq, S.pen("orders", self.group, writer), encode_pen(frame), NOW_NS))

    @property
    def told(self) -> list[str]:
        return [line.strip() for line in reasons(self, Paint(io.StringIO()))]


def test_the_promotion_that_was_in_force_is_the_first_reason() -> None:
    story = Story()
    story.promote(10, "i0", 1)
    story.promote(20, "i1", 2, cause="holder 'i0' left", kind="planned", author="ann")
    assert story.told == [
        "",
        "why the router gave the pen to whom",
        f"{WHEN}  sequence 20: i1 gets the pen as epoch 2 (planned), because: holder 'i0' left",
        "decided by router r1, asked for by ann",
        "the fence: from sequence 20 on, nothing counts that is written in epoch 1",
    ]
    promotion = as_plain(story)["promotion"]
    assert (promotion["seq"], promotion["data"]["holder"]) == (20, "i1")


def test_a_failover_is_told_with_what_the_router_saw_and_what_came_too_late() -> None:
    story = Story()
    cause = "holder 'i1' is suspected: silent for 1012 ms"
    story.promote(10, "i1", 1, kind="first")
    story.write(60, "i1", 1, Mark.CLAIMED)
    story.promote(70, "i2", 2, cause=cause, evidence=SEEN)
    story.write(80, "i1", 1, Mark.SUCCEEDED)
    story.write(81, "i2", 2, Mark.IN_DOUBT)
    decision, author, seen, knew, fence = story.told[4:]
    assert decision == f"{WHEN}  sequence 70: i2 gets the pen as epoch 2 (failover), because: {cause}"
    assert author == "decided by router r1"
    assert seen.startswith("former holder: i1, epoch 1, suspected_active; last heard of at ")
    assert "2025-11-13T02:13:18.988Z, 1012 ms before" in seen
    assert seen.endswith(" (source: silence)")
    assert knew == f"it knew: ready: i2, i3, open: 2, disconnected {WHEN}"
    assert fence.startswith("the fence: from sequence 70 on, nothing counts that is written in epoch 1; ")
    assert fence.endswith("of this call 1 such word came too late")
    assert "\nwhy the router gave the pen to whom\n" in as_text(story, Paint(io.StringIO()))


def test_vacancies_and_handovers_have_reasons_too() -> None:
    story = Story()
    story.promote(10, "i1", 1)
    by: dict[str, Any] = {"decided_by": "r1"}
    story.say(
        60, ev.GroupHandoverStarted(epoch=1, holder="i1", to="i2", to_incarnation="x", cause="drained", **by)
    )
    story.say(61, ev.GroupHandoverCancelled(epoch=1, cause="i2 left", **by))
    story.say(62, ev.GroupVacated(epoch=1, cause="holder 'i1' was lost", evidence={"finished": False}, **by))
    decided = [line.partition(": ")[2] for line in story.told if "  sequence" in line]
    assert decided[1:] == [
        "i1 is to hand over to i2, because: drained",
        "the handover is off and epoch 1 goes on, because: i2 left",
        "nobody holds the pen after epoch 1, because: holder 'i1' was lost",
    ]
    assert "it knew: finished: False" in story.told
    assert story.told[-1] == "the fence: from sequence 62 on, nothing counts that is written in epoch 1"


def test_who_held_no_pen_any_more_when_the_call_came_is_no_reason() -> None:
    story = Story()
    story.promote(10, "i1", 1)
    story.say(20, ev.GroupVacated(epoch=1, cause="left", decided_by="r1"))
    assert story.promotion is None
    assert story.told == []
    assert as_plain(story)["promotion"] is None


def test_a_promotion_that_was_written_again_is_the_same_reason() -> None:
    story = Story()
    story.promote(10, "i1", 1)
    story.promote(20, "i1", 1)
    assert story.promotion is not None
    assert story.promotion.seq == 10


def test_a_pool_has_no_pen() -> None:
    assert Story(POOL_GROUP).told == []


def test_of_very_many_decisions_the_latest_are_told() -> None:
    story = Story()
    for epoch in range(1, 31):
        story.promote(ACCEPTED_SEQ + epoch, f"i{epoch}", epoch)
    assert story.told[2] == "10 earlier decisions are left out"
    assert sum("gets the pen" in line for line in story.told) == 20
    assert "i30 gets the pen as epoch 30" in "".join(story.told)


def test_nothing_of_a_reason_reaches_the_terminal_as_a_control_sequence() -> None:
    story = Story()
    odd: dict[str, Any] = {
        "\x1b[31m": ["\x07"],
        "former_holder": "\x1b",
        "last_pulse_ns": 1 << 63,
        "x_ns": -1,
    }
    story.promote(10, "i1", 2, cause="a\nb" + "c" * 999, evidence=odd)
    text = "\n".join(story.told)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "a\\nb" in text
    assert max(map(len, story.told)) <= 340
