"""What is read from a log, and what is shown of it."""

from __future__ import annotations

from itertools import pairwise

from aegisipc.chaos.checking import log_steps, shrink_history
from aegisipc.chaos.history import Effect, Fault, Operation
from aegisipc.chaos.log_facts import facts_of, read_log_facts, role_spans
from aegisipc.chaos.log_words import CallState, argument_number
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import CallEntry, CallFrame, Mark, encode_calls
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.references import Reference, encode_reference
from tests.chaos.checking.scene import (
    GROUP,
    NS,
    SERVICE,
    START_NS,
    Scene,
    a_pool,
    a_scene,
    broken_by,
    error,
    requeued,
    resolution,
)


async def test_a_log_is_read_as_its_records_are() -> None:
    scene = a_scene()
    for method in ("pay", "put", "get"):
        scene.whole_call(method, resource="r")
    log = MemoryLog(lambda: START_NS)
    for record in scene.records:
        await log.append(record.subject, record.payload)
    facts = await read_log_facts(log, NS)
    assert [call.method for call in facts.calls.values()] == ["pay", "put", "get"]
    assert [call.number for call in facts.calls.values()] == [1, 2, 3]
    assert facts.effects == {
        ("orders", "pay"): "once",
        ("orders", "put"): "idempotent",
        ("orders", "get"): "pure",
    }
    assert {call.state for call in facts.calls.values()} == {CallState.FINAL}
    assert list(facts.calls) == list(scene.facts.calls)


def test_a_call_is_told_with_all_that_belongs_to_it() -> None:
    scene = a_scene()
    call_id = scene.accept(17, "pay", resource="r", key="k", client="c9")
    call = scene.facts.calls[call_id]
    assert (call.number, call.service, call.group, call.client, call.method) == (
        17,
        SERVICE,
        GROUP,
        "c9",
        "pay",
    )
    assert (call.resource, call.key, call.seq) == ("r", "k", scene.records[-1].seq)
    assert call.deadline_ns - call.at_ns == 1_000_000_000
    assert scene.facts.by_number == {17: (call,)}


def test_numbers_of_any_size_are_read_from_arguments() -> None:
    for number in (0, 127, 128, 255, 256, 65_535, 65_536, 1 << 33, (1 << 64) - 1):
        assert argument_number(encode([[number, "more"], {}])) == number
        assert argument_number(encode([[number, *range(20)], {}])) == number
    for other in (
        encode([[], {"n": 1}]),
        encode([["1"], {}]),
        encode([[-5], {}]),
        encode(7),
        b"",
        b"\x92\x91",
    ):
        assert argument_number(other) is None


def test_hostile_records_are_counted_and_left_out() -> None:
    scene = a_scene()
    scene.store(NS.call(SERVICE, GROUP, "evil"), b"nonsense")
    scene.store(NS.pen(SERVICE, GROUP, "evil"), b"\xc1")
    scene.store(NS.watch(SERVICE, GROUP), b"\x92\x01\x02")
    reference = encode_reference(Reference("orders.acc.x.args", 10, bytes(32)))
    scene.store(NS.call(SERVICE, GROUP, "evil"), reference)
    assert scene.facts.unreadable == [r.seq for r in scene.records[-4:]]
    assert not scene.judge().broken


def test_a_body_that_only_looks_like_a_reference_spoils_no_frame() -> None:
    scene = a_scene()
    entries = [CallEntry(scene.next_id(), "get", 1000, None) for _ in range(2)]
    broken = b"\xc8\x00\x10\x20" + bytes(3)
    frame = CallFrame(9, 1, 0, entries, [encode([[1], {}]), broken])
    scene.store(NS.call(SERVICE, GROUP, "c"), encode_calls(frame))
    assert [call.number for call in scene.facts.calls.values()] == [1, None]


def test_in_a_pool_words_about_something_that_is_past_are_void() -> None:
    scene = a_pool()
    call_id = scene.accept(scene.invoke(), "pay", group="_pool")

    def say(mark: Mark, body: bytes | None = None) -> int:
        return scene.mark(mark, call_id, body, group="_pool")

    claim = say(Mark.CLAIMED)
    say(Mark.IN_DOUBT, error("in_doubt", claimed_seq=claim - 1))  # of an earlier claim
    doubt = say(Mark.IN_DOUBT, error("in_doubt", claimed_seq=claim))
    say(Mark.NOT_EXECUTED, resolution(doubt_seq=doubt - 1))
    say(Mark.NOT_EXECUTED, resolution(doubt_seq=doubt))
    claim = say(Mark.CLAIMED)
    say(Mark.RETRY_SCHEDULED, encode({"attempt": 2, "due_ns": 0, "claimed_seq": claim}))
    say(Mark.RETRY_SCHEDULED, encode({"attempt": 1, "due_ns": 0, "claimed_seq": claim}))
    claim = say(Mark.CLAIMED)
    say(Mark.DEAD_LETTERED, error("dead", claimed_seq=0))
    dead = say(Mark.DEAD_LETTERED, error("dead", claimed_seq=claim))
    say(Mark.REQUEUED, requeued(dead - 1))
    say(Mark.REQUEUED, requeued(dead))
    say(Mark.CANCELLED, error("cancelled"))
    say(Mark.CANCELLED, error("cancelled", dead_seq=dead))
    facts = scene.facts
    assert facts.void == 6
    assert facts.calls[call_id].state is CallState.FINAL
    assert not facts.contradictions


def test_the_shortest_history_of_a_finding_holds_its_calls_and_the_faults_meanwhile() -> None:
    scene = a_scene()
    scene.whole_call()
    scene.evidence.take(Fault("kill", "x", scene.tick(), scene.now_ns))
    number = scene.invoke()
    call_id = scene.accept(number, "pay")
    scene.evidence.take(Fault("kill", "a", scene.tick(), scene.now_ns))
    scene.mark(Mark.CLAIMED, call_id)
    scene.began(call_id)
    scene.promote("b")
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    scene.answer(number, value=1, call_id=call_id)
    scene.whole_call()
    finding = broken_by(scene, "G3", call_id)
    history = shrink_history(scene.evidence, scene.facts, finding)
    assert [type(entry) for entry in history] == [Operation, Fault, Effect, Effect, Effect, Operation]
    assert [entry.at_ns for entry in history] == sorted(entry.at_ns for entry in history)
    steps = log_steps(scene.facts, finding)
    words = ("accepted", "CLAIMED by a", "epoch 2 b", "SUCCEEDED by b")
    assert [any(word in step.text for step in steps) for word in words] == [True] * 4
    assert [step.seq for step in steps] == sorted(step.seq for step in steps)


def test_what_everybody_was_is_told_from_the_log() -> None:
    scene = Scene()
    scene.say(NS.term, ev.RouterElected(term=1, router="r1", incarnation="1", cause="test"))
    for instance in ("a", "b"):
        scene.register(instance)
    scene.promote("a")
    suspected = ev.InstanceSuspected(
        instance="a", incarnation="a-1", last_pulse_ns=0, silence_ms=1, decided_by="r1"
    )
    scene.promote("b")
    scene.say(NS.watch(SERVICE, GROUP), suspected)
    scene.say(
        NS.watch(SERVICE, GROUP), ev.InstanceRecovered(instance="a", incarnation="a-1", decided_by="r1")
    )
    scene.say(NS.term, ev.RouterElected(term=2, router="r2", incarnation="1", cause="test"))
    scene.say(NS.instance(SERVICE, GROUP, "b"), ev.InstanceLeft(incarnation="b-1", cause="test"))
    scene.evidence.ended_at_ns = scene.tick()
    spans = role_spans(facts_of(scene.records, NS), scene.evidence, clock_offset_ns=START_NS)
    told = {node: [(s.role, s.epoch) for s in spans if s.node == node] for node in ("a", "b", "r1", "r2")}
    assert told == {
        "a": [
            ("joining", 0),
            ("standby", 0),
            ("active", 1),
            ("standby", 0),
            ("suspected", 0),
            ("standby", 0),
        ],
        "b": [("joining", 0), ("standby", 0), ("active", 2)],
        "r1": [("leading", 0), ("following", 0)],
        "r2": [("leading", 0)],
    }
    for node in told:
        mine = [span for span in spans if span.node == node]
        assert all(one.until_ns == other.at_ns for one, other in pairwise(mine))
    assert max(span.until_ns for span in spans) == scene.evidence.ended_at_ns
