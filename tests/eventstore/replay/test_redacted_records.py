"""Records and bundles after redaction: headers stay to the byte, and every fold comes to the same state."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.bodies import Requeued, RequeuedCall
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.events import decode_event, encode_event
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    decode_calls,
    decode_pen,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.group_snapshots import GroupSnapshot, decode_snapshot, dump_calls, encode_snapshot
from aegisipc.eventstore.ids import CallIds
from aegisipc.eventstore.keys import (
    KeyIndex,
    KeyOwner,
    Segment,
    decode_segment,
    encode_segment,
    key_hash,
    keyed_body,
)
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.replay import Redactor, open_bundle, verify
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import digest_of
from aegisipc.sdk.core.pool_requeues import requeued
from tests.eventstore.replay.bundle_kit import Incident, all_of, content_of, exported
from tests.eventstore.test_fold_determinism import S, random_records
from tests.sdk.kit import GROUP, NS, SERVICE

SECRET = "tell-nobody"
_ids = CallIds(8)
CALL_ID = _ids.next(1_800_000_000_000)


def a_pen(*facts: tuple[Mark, Any], seq: int = 1) -> Record:
    entries = [PenEntry(mark, CALL_ID) for mark, _ in facts]
    bodies = [body if isinstance(body, bytes | None) else encode(body) for _, body in facts]
    return Record(seq, NS.pen(SERVICE, GROUP, "a"), encode_pen(PenFrame(1, 1, 1, entries, bodies)), 5)


# -- records ------------------------------------------------------------------------------------------------


def test_a_frame_keeps_its_header_to_the_byte() -> None:
    entries = [CallEntry(CALL_ID, "pay", 1000, "acc_1")]
    payload = encode_calls(CallFrame(3, 4, 5, entries, [encode([[], {"iban": SECRET}])]))
    record = Redactor(["iban", "resource"]).record(Record(1, NS.call(SERVICE, GROUP, "c"), payload, 2), NS)
    unpacker = msgpack.Unpacker()
    unpacker.feed(payload)
    unpacker.skip()
    header = payload[: unpacker.tell()]
    assert record.payload.startswith(header)
    assert SECRET.encode() not in record.payload
    assert decode(decode_calls(record.payload).bodies[0]) == [[], {"iban": "x" * 11}]
    pen = Redactor(["iban"]).record(a_pen((Mark.CLAIMED, None), (Mark.SUCCEEDED, {"iban": SECRET})), NS)
    frame = decode_pen(pen.payload)
    assert [entry.mark for entry in frame.entries] == [Mark.CLAIMED, Mark.SUCCEEDED]
    assert frame.bodies[0] is None
    assert decode(frame.bodies[1] or b"") == {"iban": "x" * 11}


def test_a_dead_letter_that_a_pool_calls_again_loses_its_arguments_and_still_comes_back() -> None:
    """Its frame holds no arguments, but the words of whoever wants that, with the call as it was."""
    was = RequeuedCall(
        client="c1", method="pay", resource="acc_1", key=None, priority=1, body=encode([[], {"iban": SECRET}])
    )
    said = Requeued(author="ann", reason=f"of {SECRET}", dead_seq=7, timeout_ms=1000, call=was)
    entry = CallEntry(CALL_ID, "pay", 1000, "acc_1", CallOptions(None, 1, (7, "c1")))
    payload = encode_calls(CallFrame(3, 4, 0, [entry], [encode(said)]))
    record = Record(9, NS.call(SERVICE, POOL_GROUP, "w"), payload, 2)
    for fields, blank in ((["iban", "reason"], "x" * 11), (["arguments", "reason"], "x" * 11)):
        redacted = Redactor(fields).record(record, NS)
        frame = decode_calls(redacted.payload)
        assert SECRET.encode() not in redacted.payload
        again = requeued(redacted, frame.entries[0], frame.bodies[0])
        assert again is not None
        assert (again[0].key, again[1].author, again[1].dead_seq) == (None, "ann", 7)
        assert decode(again[0].body) == [[], {"iban": blank}]


def test_a_snapshot_of_a_group_loses_arguments_evidence_digests_and_its_state() -> None:
    calls = GroupCalls(keep_bodies=True, keys=KeyIndex())
    entries = [CallEntry(CALL_ID, "pay", 1000, "acc_1")]
    frame = CallFrame(3, 1, 1, entries, [encode([[], {"iban": SECRET}])])
    at = Record(1, NS.call(SERVICE, "_pool", "c"), encode_calls(frame), 2)
    calls.apply(at, NS.parse(at.subject))
    claim = a_pen((Mark.CLAIMED, None), (Mark.KEYED, keyed_body(key_hash("k"), b"d" * 16)))
    calls.apply(claim, NS.parse(claim.subject)._replace(group="_pool"))
    facts = [PenEntry(Mark.EMITTED, CALL_ID), PenEntry(Mark.SUCCEEDED, CALL_ID)]
    bodies = [encode(["e", {"iban": SECRET}]), encode({"iban": SECRET})]
    late = Record(3, NS.evidence(SERVICE, "_pool", "a"), encode_pen(PenFrame(2, 1, 1, facts, bodies)), 3)
    assert calls.apply(late, NS.parse(late.subject)).evidenced
    payload = encode_snapshot(GroupSnapshot(3, 1, dump_calls(calls), SECRET.encode()))
    record = Record(4, NS.state(SERVICE, GROUP, "a"), payload, 4)
    snapshot = decode_snapshot(Redactor(["iban"]).record(record, NS).payload)
    assert snapshot.state == bytes(len(SECRET))
    packed = msgpack.packb(snapshot.calls)
    assert SECRET.encode() not in packed
    assert b"d" * 16 not in packed
    assert packed.count(b"x" * 11) == 3
    assert len(packed) == len(msgpack.packb(decode_snapshot(payload).calls))


def test_segments_of_keys_lose_their_digests() -> None:
    owner = KeyOwner(CALL_ID, b"d" * 16)
    segment = Segment(1, 1, 0, 5, [(key_hash("a"), owner), (key_hash("b"), None)])
    record = Record(1, NS.keys(SERVICE, GROUP, "a"), encode_segment(segment), 2)
    found = decode_segment(Redactor(["x"]).record(record, NS).payload)
    assert list(found.entries) == [(key_hash("a"), KeyOwner(CALL_ID, bytes(16))), (key_hash("b"), None)]


def test_wishes_to_cancel_lose_words_and_keep_calls() -> None:
    event = ev.CancelRequested(
        call_ids=("019a9e6e-8d5b-7000-8000-3b9aca000001",), author="ann", reason=SECRET
    )
    record = Record(1, NS.cancel(SERVICE, GROUP, "op"), encode_event(event), 2)
    found = decode_event(Redactor(["reason", "call_ids"]).record(record, NS).payload)
    assert found == event.model_copy(update={"reason": "x" * 11})


def test_what_instances_and_routers_say_stays() -> None:
    for record in Incident().records:
        kind = NS.parse(record.subject).kind
        if kind in ("ha", "term", "contract"):
            assert Redactor(["holder", "cause", "host"]).record(record, NS) == record


@pytest.mark.parametrize(
    "subject",
    [
        NS.call("s", "g", "c"),
        NS.pen("s", "g", "i"),
        NS.state("s", "g", "i"),
        NS.cancel("s", "g", "w"),
        "else",
    ],
)
def test_a_record_that_nobody_can_read_is_emptied(subject: str) -> None:
    record = Record(1, subject, SECRET.encode(), 2)
    assert Redactor(["x"]).record(record, NS).payload == bytes(len(SECRET))


def test_snapshots_of_the_system_are_emptied_and_named_by_no_index() -> None:
    for subject in (NS.snapshot_index, NS.snapshot_part):
        record = Redactor(["x"]).record(Record(1, subject, SECRET.encode(), 2), NS)
        assert record == Record(1, NS.snapshot_part, bytes(len(SECRET)), 2)


# -- folds --------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 1 << 32))
def test_every_fold_comes_to_the_same_state(seed: int) -> None:
    records = random_records(seed, 150)
    redactor = Redactor(["arguments", "results", "errors", "reason", "author"])
    redacted = [redactor.record(record, S) for record in records]
    assert SystemState(S).replay(redacted).to_plain() == SystemState(S).replay(records).to_plain()


async def test_a_redacted_bundle_holds_nothing_of_the_field_and_is_sound(tmp_path: Path) -> None:
    incident = Incident()
    plain, redacted = tmp_path / "plain.aegis", tmp_path / "redacted.aegis"
    first_seq = 5
    await exported(incident.source, plain, first_seq)
    summary = await exported(incident.source, redacted, first_seq, redact=["account"])
    assert b"DE-4711" in content_of(plain)
    assert b"DE-4711" not in content_of(redacted)
    assert summary.manifest.redacted == ("account",)
    assert verify(redacted).is_refolded
    records = await all_of(open_bundle(redacted))
    state = SystemState(NS).replay(records)
    assert state.to_plain() == incident.state().to_plain()
    assert digest_of(state) == summary.ending.digest


async def test_a_bundle_can_be_redacted_afterwards_and_its_base_too(tmp_path: Path) -> None:
    incident = Incident()
    tale = incident.tale
    # Beside a mark whose body is folded, a fold of headers keeps all bodies.
    facts = [PenEntry(Mark.IN_DOUBT, CALL_ID), PenEntry(Mark.SUCCEEDED, incident.doubtful)]
    frame = PenFrame(
        77, 1, 1, facts, [None, encode({"account": "DE-4711"})]
    )  # a folded body beside: all stay
    tale.log.append(NS.evidence(SERVICE, GROUP, "a"), encode_pen(frame))
    tale.log.append(
        NS.cancel(SERVICE, GROUP, "op"),
        encode_event(ev.CancelRequested(call_ids=(_text(incident.waiting),), author="ann", reason=SECRET)),
    )
    begin = len(incident.records) + 1
    tale.call()
    plain, redacted = tmp_path / "plain.aegis", tmp_path / "redacted.aegis"
    await exported(incident.source, plain, begin)
    begun = open_bundle(plain).base
    assert begun is not None
    open_calls = begun().calls[SERVICE, GROUP].open
    evidence = open_calls[incident.doubtful].evidence
    assert evidence is not None
    assert (decode(evidence.body or b""), open_calls[incident.waiting].cancel) == (
        {"account": "DE-4711"},
        ("ann", SECRET),
    )
    await exported(open_bundle(plain), redacted, begin, redact=["account", "reason"])
    begun = open_bundle(redacted).base
    assert begun is not None
    open_calls = begun().calls[SERVICE, GROUP].open
    assert open_calls[incident.waiting].cancel == ("ann", "x" * len(SECRET))
    evidence = open_calls[incident.doubtful].evidence
    assert evidence is not None
    assert decode(evidence.body or b"") == {"account": "xxxxxxx"}
    assert verify(redacted).is_refolded


def _text(call_id: bytes) -> str:
    return str(UUID(bytes=call_id))
