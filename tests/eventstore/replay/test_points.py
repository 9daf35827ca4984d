"""Which point of a history somebody means."""

from __future__ import annotations

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import UnknownCall
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds, format_call_id
from aegisipc.eventstore.replay import (
    AmbiguousCall,
    BadPoint,
    Filters,
    NoSuchEvent,
    PointOutsideLog,
    Source,
    parse_point,
    resolve,
)
from aegisipc.eventstore.replay.moments import iso
from tests.eventstore.replay.kit import History
from tests.sdk.kit import EPOCH_NS, GROUP, NS, SERVICE, ms

S = 1_000_000_000


class Story(History):
    """Every record is a second after the one before it; sequence 1 is at ``EPOCH_NS``."""

    def __init__(self) -> None:
        super().__init__()
        self._ids = CallIds(7)
        self._frames = 0

    def say(self, subject: str, event: ev.Event) -> int:
        seq = self.log.say(subject, event)
        self.wait(1000)
        return seq

    def promote(self, epoch: int, group: str = GROUP) -> int:
        event = ev.GroupPromoted(epoch=epoch, holder="a", incarnation="1", cause="t", decided_by="r")
        return self.say(NS.fence(SERVICE, group), event)

    def call(self, count: int = 1) -> list[CallId]:
        self._frames += 1
        ids = [self._ids.next(self.log.now_ns // 1_000_000) for _ in range(count)]
        entries = [CallEntry(call_id, "get", 10_000, None) for call_id in ids]
        frame = CallFrame(7, self._frames, 1, entries, [b""] * count)
        self.log.append(NS.call(SERVICE, GROUP, "c"), encode_calls(frame))
        self.wait(1000)
        return ids

    def mark(self, mark: Mark, call_id: CallId, epoch: int = 1) -> int:
        self._frames += 1
        frame = PenFrame(9, self._frames, epoch, [PenEntry(mark, call_id)], [None])
        kind = NS.dead if mark is Mark.DEAD_LETTERED else NS.pen
        seq = self.log.append(kind(SERVICE, GROUP, "a"), encode_pen(frame))
        self.wait(1000)
        return seq


def at(seq: int) -> int:
    """When a record of a :class:`Story` was stored."""
    return EPOCH_NS + (seq - 1) * S


@pytest.fixture
def story() -> Story:
    """Six records: promotions at 1, 3 and 5 (of another group), other things between; it is now 6 s later."""
    found = Story()
    found.promote(1)
    found.say(NS.term, ev.RouterElected(term=1, router="r", incarnation="1", cause="t"))
    found.promote(2)
    found.say(NS.watch(SERVICE, GROUP), ev.GroupRelieved(open=1, decided_by="r"))
    found.promote(1, "other")
    found.say(NS.term, ev.RouterResigned(term=1, router="r", incarnation="1"))
    return found


async def seq_at(source: Source, text: str) -> int:
    return (await resolve(source, text)).seq


# -- times and sequences --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seq", "at_ns"),
    [
        ("1", 1, at(1)),
        ("4", 4, at(4)),
        ("before:4", 3, at(4)),
        ("before:1", 0, at(1)),
        ("start", 1, at(1)),
        ("before:start", 0, at(1)),
        ("end", 6, at(7)),
        ("before:end", 5, at(6)),
        ("-5s", 2, at(2)),
        ("-5001ms", 1, at(2) - ms(1)),
        ("-0.1m", 1, at(1)),
        ("before:-5s", 1, at(2) - 1),
        (" 4 ", 4, at(4)),
    ],
)
async def test_a_point_has_a_sequence_and_a_time(story: Story, text: str, seq: int, at_ns: int) -> None:
    point = await resolve(await story.source(), text)
    assert (point.seq, point.at_ns, point.said) == (seq, at_ns, text.strip())


async def test_a_time_is_the_moment_after_all_that_was_stored_by_then(story: Story) -> None:
    source = await story.source()
    shown = iso(at(3)) or ""
    for text, seq in [
        (shown, 3),
        (shown.replace("T", " ").removesuffix("Z"), 3),
        (f"before:{shown}", 2),
        (iso(at(3) - 1) or "", 2),
        (iso(at(4) - 1) or "", 3),
        (shown.replace("Z", "+00:00"), 3),
        (shown[:19], 3),
        (iso(at(7)) or "", 6),
    ]:
        assert await seq_at(source, text) == seq, text


async def test_a_zone_is_taken_into_account(story: Story) -> None:
    shown = (iso(at(3) + 7200 * S) or "").replace("Z", "+02:00")
    point = await resolve(await story.source(), shown)
    assert (point.seq, point.at_ns) == (3, at(3))


async def test_a_time_of_day_is_the_latest_one_before_the_end(story: Story) -> None:
    story.wait(3 * 86_400_000)
    clock = (iso(at(3)) or "")[11:23]
    point = await resolve(await story.source(), clock)
    assert point.at_ns == at(3) + 3 * 86_400 * S
    later = (iso(story.log.now_ns + S) or "")[11:19]
    assert (await resolve(await story.source(), later)).at_ns == story.log.now_ns + S - 86_400 * S


@pytest.mark.parametrize(
    "text", ["7", "0", "99999999", "-7s", "2001-01-01", "2999-01-01T00:00Z", "-1d", "1970-01-01"]
)
async def test_a_point_that_the_log_does_not_reach_is_refused_with_its_range(story: Story, text: str) -> None:
    with pytest.raises(PointOutsideLog, match="holds sequences 1 to 6") as caught:
        await resolve(await story.source(), text)
    assert caught.value.details == {
        "first_seq": 1,
        "last_seq": 6,
        "first": iso(at(1)),
        "end": iso(at(7)),
    }


async def test_an_empty_log_has_no_points() -> None:
    source = await History().source()
    for text in ("end", "start", "1", "-1s", "group.promoted"):
        with pytest.raises(PointOutsideLog, match="empty"):
            await resolve(source, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "before:",
        "first:",
        "first:end",
        "last:4",
        "before:before:4",
        "-5",
        "-5w",
        "5m",
        "25:00",
        "10:61",
        "10:00:99",
        "2026-13-01",
        "2026-02-30T10:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "9" * 30,
        "promoted",
        "group.promoted.v1.v2",
        "nonsense",
        "\x1b[31m",
        "01a1fee",
        "01a1feea" * 5,
    ],
)
def test_what_is_no_point_is_refused_with_what_would_be_one(text: str) -> None:
    with pytest.raises(BadPoint, match="give a time") as caught:
        parse_point(text)
    assert "\x1b" not in caught.value.message


def test_a_name_that_is_nearly_one_is_suggested() -> None:
    with pytest.raises(BadPoint, match=r"did you mean group\.promoted\?"):
        parse_point("promoted")


# -- events ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seq"),
    [
        ("group.promoted", 5),
        ("last:group.promoted", 5),
        ("first:group.promoted", 1),
        ("group.promoted.v1", 5),
        ("before:group.promoted", 4),
        ("before:first:group.promoted", 0),
        ("router.elected", 2),
        ("group.relieved", 4),
    ],
)
async def test_an_event_is_a_point(story: Story, text: str, seq: int) -> None:
    assert await seq_at(await story.source(), text) == seq


async def test_just_before_an_event_is_at_its_own_time(story: Story) -> None:
    """So two views differ in what the event changed, and in no heartbeat."""
    source = await story.source()
    before, after = [await resolve(source, f"{when}group.promoted") for when in ("before:", "")]
    assert (before.seq + 1, before.at_ns) == (after.seq, after.at_ns)


async def test_filters_choose_among_events(story: Story) -> None:
    source = await story.source()
    assert (await resolve(source, "group.promoted", Filters(group=GROUP))).seq == 3
    assert (await resolve(source, "group.promoted", Filters(SERVICE, "other", "acc_1"))).seq == 5
    with pytest.raises(NoSuchEvent, match="of service nope"):
        await resolve(source, "group.promoted", Filters(service="nope"))


async def test_an_event_that_never_happened_is_refused(story: Story) -> None:
    for text in ("group.paused", "first:group.promoted.v9", "in_doubt", "accepted"):
        with pytest.raises(NoSuchEvent, match="is in the log of a test"):
            await resolve(await story.source(), text)


async def test_an_event_of_a_type_that_nobody_knows_is_a_point_all_the_same(story: Story) -> None:
    story.log.append(NS.watch(SERVICE, GROUP), msgpack.packb(["venue.blessed.v1", {}]))
    story.log.append(NS.watch(SERVICE, GROUP), b"\xc1")
    assert await seq_at(await story.source(), "venue.blessed") == 7


async def test_the_last_event_is_found_however_far_back_it_is() -> None:
    story = Story()
    story.promote(1)
    story.call()
    for _ in range(2500):
        story.log.append(NS.instance(SERVICE, GROUP, "a"), ev.encode_event(ev.InstanceReady(incarnation="1")))
    source = await story.source()
    assert await seq_at(source, "group.promoted") == 1
    assert await seq_at(source, "accepted") == 2


# -- calls ----------------------------------------------------------------------------------------------


async def test_a_mark_of_a_call_is_a_point() -> None:
    story = Story()
    story.promote(1)
    (one,), (other,) = story.call(), story.call()
    doubted = story.mark(Mark.IN_DOUBT, one)
    dead = story.mark(Mark.DEAD_LETTERED, other)
    story.mark(Mark.FAILED, one)
    source = await story.source()
    assert await seq_at(source, "in_doubt") == doubted
    assert await seq_at(source, "dead_lettered") == dead
    assert await seq_at(source, "failed") == 6
    assert await seq_at(source, "first:accepted") == 2


async def test_a_call_is_where_it_was_accepted_and_where_it_was_last_told_of() -> None:
    story = Story()
    story.promote(1)
    (one,), (other,) = story.call(), story.call()
    story.mark(Mark.SUCCEEDED, one)
    story.mark(Mark.SUCCEEDED, other)
    source = await story.source()
    shown = format_call_id(one)
    for text in (shown, shown.upper(), shown.replace("-", ""), shown[:13], f"first:{shown[:-4]}"):
        assert await seq_at(source, text) == 2, text
    assert await seq_at(source, f"before:{shown}") == 1
    assert await seq_at(source, f"last:{shown}") == 4
    assert await seq_at(source, f"last:{shown[:13]}") == 4


async def test_a_short_id_that_several_calls_have_is_refused_with_the_candidates() -> None:
    story = Story()
    ids = [format_call_id(call_id) for call_id in story.call(3)]
    with pytest.raises(AmbiguousCall) as caught:
        await resolve(await story.source(), ids[0][:8])
    assert caught.value.candidates == ids
    assert all(each in caught.value.message for each in ids)


async def test_no_more_than_a_few_candidates_are_named() -> None:
    story = Story()
    story.call(50)
    (one,) = story.call()
    with pytest.raises(AmbiguousCall, match="and others") as caught:
        await resolve(await story.source(), format_call_id(one)[:8])
    assert len(caught.value.candidates) == 8


async def test_a_call_that_was_accepted_late_is_found_by_a_short_id() -> None:
    story = Story()
    story.call()
    call_id = CallIds(8).next(story.log.now_ns // 1_000_000)
    story.wait(90_000)
    frame = CallFrame(8, 1, 1, [CallEntry(call_id, "get", 1000, None)], [b""])
    seq = story.log.append(NS.call(SERVICE, GROUP, "d"), encode_calls(frame))
    assert await seq_at(await story.source(), call_id.hex()[:12]) == seq


@pytest.mark.parametrize("text", ["01a1feea", "01a1feea-df91-7000-8000-04846c175696"])
async def test_a_call_that_the_log_does_not_have_is_refused(story: Story, text: str) -> None:
    with pytest.raises(UnknownCall, match="cannot find"):
        await resolve(await story.source(), text)
