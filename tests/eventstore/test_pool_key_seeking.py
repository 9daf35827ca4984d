"""Finding in the log who has a key of a pool. (That workers agree is in the pool properties.)"""

from __future__ import annotations

import pytest

from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.key_seeking import PoolKeyFold
from aegisipc.eventstore.keys import KeyOwner, Segment, encode_segment, key_hash
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.pool_keys import keyed_body, released_body
from aegisipc.eventstore.subjects import subjects_of

S = subjects_of("test")
A, B = b"a" * 16, b"b" * 16
KEY, DIGEST = key_hash("k"), b"d" * 16


class Search:
    """A log, and one who reads it."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, subject: str, payload: bytes) -> None:
        self.records.append(Record(len(self.records) + 1, subject, payload, 0))

    def calls(self, *ids: bytes) -> None:
        entries = [CallEntry(call_id, "pay", 1000, None, CallOptions("k")) for call_id in ids]
        frame = CallFrame(1, len(self.records) + 1, 0, entries, [b"args"] * len(ids))
        self.add(S.call("orders", POOL_GROUP, "c1"), encode_calls(frame))

    def pen(self, mark: Mark, call_id: bytes, body: bytes | None = None) -> None:
        frame = PenFrame(2, len(self.records) + 1, 0, [PenEntry(mark, call_id)], [body])
        self.add(S.pen("orders", POOL_GROUP, "w1"), encode_pen(frame))

    def segment(self, since: int, covers: int, owner: bytes | None = None) -> None:
        entries = [] if owner is None else [(KEY, KeyOwner(owner, DIGEST))]
        entries.append((key_hash("other"), KeyOwner(B, DIGEST)))
        segment = Segment(1, 0, since, covers, sorted(entries))
        self.add(S.keys("orders", POOL_GROUP, "w1"), encode_segment(segment))

    def owner(self) -> bytes | None:
        fold = PoolKeyFold(S, "orders", "k")
        for record in self.records:
            if record.subject.endswith(S.keys("orders", POOL_GROUP, "w1")):
                fold.read_segment(record)
        start = fold.join()
        for record in self.records[start - 1 :]:
            fold.apply(record)
        return fold.owner


@pytest.fixture
def search() -> Search:
    return Search()


def test_before_anybody_has_the_key_the_first_call_that_came_with_it_is_found(search: Search) -> None:
    assert search.owner() is None
    search.calls(A, B)
    assert search.owner() == A
    search.pen(Mark.EXPIRED, A)
    assert search.owner() == B


def test_the_first_word_that_counts_has_the_key_whoever_came_first(search: Search) -> None:
    search.calls(A, B)
    search.segment(0, 1)
    search.pen(Mark.KEYED, B, keyed_body(KEY, DIGEST, 0))  # it had not read what the segment covers
    assert search.owner() is None  # and no call frame after the segment's cover has the key
    search.pen(Mark.KEYED, B, keyed_body(KEY, DIGEST, 2))
    search.pen(Mark.KEYED, A, keyed_body(KEY, DIGEST, 2))
    assert search.owner() == B
    search.pen(Mark.RELEASED, B, released_body(KEY, 5))
    assert search.owner() is None


def test_an_old_key_is_in_its_segment_and_one_outside_the_chain_tells_nothing(search: Search) -> None:
    search.calls(A)
    search.segment(0, 1)
    search.pen(Mark.KEYED, A, keyed_body(KEY, DIGEST, 2))
    search.segment(1, 3, A)
    search.segment(1, 4, B)  # was written at once, and came second
    search.segment(3, 5)
    assert search.owner() == A


def test_what_cannot_be_read_is_passed_over(search: Search) -> None:
    for subject in (S.pen, S.keys):
        search.add(subject("orders", POOL_GROUP, "w1"), b"nonsense")
    search.add(S.call("orders", POOL_GROUP, "c1"), b"nonsense")
    search.calls(A)
    search.pen(Mark.KEYED, A, b"nonsense")
    search.pen(Mark.RELEASED, A, b"nonsense")
    assert search.owner() == A
