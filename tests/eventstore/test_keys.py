"""The index of idempotency keys: who has a key, whatever of it is in memory and whatever in segments."""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aegisipc.eventstore import keys
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.keys import (
    Elsewhere,
    KeyIndex,
    KeyOwner,
    Segment,
    decode_segment,
    encode_segment,
    find_in,
    key_hash,
    keyed_body,
    payload_digest,
    read_keyed,
)

CALL_1, CALL_2 = bytes(range(16)), bytes(range(16, 32))
DIGEST = b"d" * 16


def found(index: KeyIndex, stored: dict[int, bytes], key: bytes) -> KeyOwner | None:
    """Who has a key, with the segments read that the index names, as whoever asks it does."""
    answer = index.find(key)
    if not isinstance(answer, Elsewhere):
        return answer
    for seq in answer.segments:
        is_told, owner = find_in(decode_segment(stored[seq]), key)
        if is_told:
            return owner
    return None


# -- names and digests ------------------------------------------------------------------------------------


def test_the_hash_of_a_key_and_the_digest_of_a_payload_are_frozen() -> None:
    assert key_hash("ord-17").hex() == "0bde7a82bb0dd9c1e97d2aa04eb11677"
    assert payload_digest("place", "acc_1", b"args").hex() == "cc8d7e0e624ebaf7771bb4d1d4ec89f4"


def test_the_payload_is_the_method_the_resource_and_the_arguments() -> None:
    payloads = [
        ("place", "acc", b"x"),
        ("place", "acc", b"y"),
        ("place", None, b"x"),
        ("place", "", b"x"),
        ("placea", "cc", b"x"),
        ("place", "ac", b"cx"),
        ("place@2", "acc", b"x"),
    ]
    assert len({payload_digest(*payload) for payload in payloads}) == len(payloads)


@pytest.mark.parametrize("body", [None, b"", b"x" * 31, b"x" * 33])
def test_a_body_of_another_length_says_nothing_of_a_key(body: bytes | None) -> None:
    assert read_keyed(body, CALL_1) is None


def test_a_keyed_body_is_read_as_it_was_written() -> None:
    key = key_hash("k")
    assert read_keyed(keyed_body(key, DIGEST), CALL_1) == (key, KeyOwner(CALL_1, DIGEST))


# -- segments ---------------------------------------------------------------------------------------------


def test_a_segment_is_read_as_it_was_written() -> None:
    entries = sorted([(key_hash("a"), KeyOwner(CALL_1, DIGEST)), (key_hash("b"), None)])
    segment = Segment(7, 3, 10, 20, entries)
    assert decode_segment(encode_segment(segment)) == segment
    assert find_in(segment, key_hash("a")) == (True, KeyOwner(CALL_1, DIGEST))
    assert find_in(segment, key_hash("b")) == (True, None)
    assert find_in(segment, key_hash("c")) == (False, None)


GOOD = encode_segment(Segment(1, 1, 0, 5, [(key_hash("a"), None)]))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        GOOD[:-1],
        GOOD + b"\x00",
        GOOD.replace(b"keys.v1", b"keys.v9"),
        encode_segment(Segment(1 << 42, 1, 0, 5, [])),
        encode_segment(Segment(1, -1, 0, 5, [])),
        encode_segment(Segment(1, 1, 6, 5, [])),
        encode_segment(Segment(1, 1, -1, 5, [])),
        b"\x91" * 5000,
    ],
)
def test_what_is_no_segment_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedPayload, match="segment of keys"):
        decode_segment(payload)


def test_a_key_in_a_segment_leaves_memory_and_is_found_where_it_stands() -> None:
    index = KeyIndex()
    index.own(key_hash("a"), KeyOwner(CALL_1, DIGEST))
    segment = index.next_segment(1, 1, 9)
    index.on_segment(10, segment)
    assert index.recent == {}
    assert index.covered == 9
    assert index.find(key_hash("a")) == Elsewhere([10])
    assert index.find(key_hash("b")) is None


def test_a_segment_that_is_stored_twice_counts_once() -> None:
    index = KeyIndex()
    index.own(key_hash("a"), KeyOwner(CALL_1, DIGEST))
    segment = index.next_segment(1, 1, 9)
    index.on_segment(10, segment)
    index.on_segment(10, segment)
    assert index.segments == [10]


def test_what_changed_while_a_segment_was_written_stays_in_memory() -> None:
    index = KeyIndex()
    key = key_hash("a")
    index.own(key, KeyOwner(CALL_1, DIGEST))
    segment = index.next_segment(1, 1, 9)
    index.release(key, CALL_1)
    index.own(key, KeyOwner(CALL_2, DIGEST))
    index.on_segment(10, segment)
    assert index.find(key) == KeyOwner(CALL_2, DIGEST)


def test_only_its_owner_frees_a_key() -> None:
    index = KeyIndex()
    key = key_hash("a")
    index.own(key, KeyOwner(CALL_1, DIGEST))
    index.release(key, CALL_2)
    assert index.find(key) == KeyOwner(CALL_1, DIGEST)
    index.release(key, CALL_1)
    assert index.find(key) is None
    assert index.recent == {}


def test_of_more_keys_than_fit_the_oldest_go_first_and_nothing_more_is_covered() -> None:
    index = KeyIndex()
    for name in "abc":
        index.own(key_hash(name), KeyOwner(CALL_1, DIGEST))
    first = index.next_segment(1, 1, 9, most=2)
    assert sorted(first.entries) == sorted((key_hash(n), KeyOwner(CALL_1, DIGEST)) for n in "ab")
    assert (first.since, first.covers) == (0, 0)
    index.on_segment(10, first)
    second = index.next_segment(1, 1, 11, most=2)
    assert (second.since, second.covers) == (0, 11)


def test_a_segment_that_begins_after_a_gap_covers_nothing() -> None:
    index = KeyIndex()
    index.on_segment(10, Segment(1, 1, 5, 9, []))
    assert index.covered == 0


def test_a_segment_of_one_who_did_not_know_the_latest_does_not_count() -> None:
    index, behind = KeyIndex(), KeyIndex()
    key = key_hash("a")
    for each in (index, behind):
        each.own(key, KeyOwner(CALL_1, DIGEST))
    late = behind.next_segment(2, 0, 5)
    index.release(key, CALL_1)
    index.on_segment(10, index.next_segment(1, 0, 9))
    index.on_segment(11, late)
    assert index.segments == [10]
    assert index.find(key) is None


def test_the_number_of_segments_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_SEGMENTS", 2)
    index = KeyIndex()
    for seq in range(1, 5):
        index.own(key_hash(str(seq)), KeyOwner(CALL_1, DIGEST))
        index.on_segment(seq, index.next_segment(1, 1, seq))
    assert index.segments == [1, 2]
    assert set(index.recent) == {key_hash("3"), key_hash("4")}


@pytest.mark.parametrize(
    "plain", [None, [], [0], ["x", []], [0, [[b"short", CALL_1, DIGEST]]], [0, [[CALL_1, CALL_1]]], [0, 7]]
)
def test_what_is_no_dump_is_refused_and_changes_nothing(plain: object) -> None:
    index = KeyIndex()
    index.own(key_hash("a"), KeyOwner(CALL_1, DIGEST))
    with pytest.raises((ValueError, TypeError)):
        index.load(plain)  # type: ignore[arg-type]
    assert index.find(key_hash("a")) == KeyOwner(CALL_1, DIGEST)


# -- any history ------------------------------------------------------------------------------------------


def to_disk(tier: array[int]) -> Sequence[int]:
    """Spill as a host does: into a file that has no name any more."""
    with tempfile.TemporaryFile() as file:
        tier.tofile(file)
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).cast("Q")


class AnyHistory(RuleBasedStateMachine):
    """A writer that folds, writes segments whenever it likes, and is replaced by ones that begin from a
    snapshot or from the segments and the tail. A dictionary is the judge.
    """

    names = st.sampled_from([key_hash(str(number)) for number in range(12)])

    @initialize(spills=st.booleans(), tier=st.sampled_from([2, 4, 1 << 30]))
    def begin(self, *, spills: bool, tier: int) -> None:
        self.spill = to_disk if spills else None
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(keys, "_MAX_TIER", tier)
        self.index = KeyIndex(self.spill)
        self.judge: dict[bytes, KeyOwner] = {}
        self.stored: dict[int, bytes] = {}
        self.facts: list[tuple[int, bytes, KeyOwner | None, bytes]] = []
        self.seq = 0

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    @rule(key=names, number=st.integers(1, 9))
    def own(self, key: bytes, number: int) -> None:
        if key in self.judge:
            return  # whoever writes has looked
        self.seq += 1
        owner = KeyOwner(bytes([number]) * 16, bytes([self.seq % 251]) * 16)
        self.judge[key] = owner
        self.facts.append((self.seq, key, owner, owner.call_id))
        self.index.own(key, owner)

    @rule(key=names, mine=st.booleans())
    def release(self, key: bytes, *, mine: bool) -> None:
        owner = self.judge.get(key)
        if owner is None or not mine:
            return
        self.seq += 1
        del self.judge[key]
        self.facts.append((self.seq, key, None, owner.call_id))
        self.index.release(key, owner.call_id)

    @rule(most=st.sampled_from([1, 2, 100]))
    def write_segment(self, most: int) -> None:
        if not self.index.recent:
            return
        segment = self.index.next_segment(1, 1, self.seq, most)
        self.seq += 1
        self.stored[self.seq] = encode_segment(segment)
        self.index.on_segment(self.seq, segment)

    @rule()
    def begin_from_a_snapshot(self) -> None:
        dump = self.index.dump()
        index = KeyIndex(self.spill)
        for seq, payload in self.stored.items():
            index.on_segment(seq, decode_segment(payload))
        index.load(dump)
        self.index = index

    @rule()
    def begin_from_the_segments_and_the_tail(self) -> None:
        index = KeyIndex(self.spill)
        for seq, payload in self.stored.items():
            index.on_segment(seq, decode_segment(payload))
        for seq, key, owner, call_id in self.facts:
            if seq <= index.covered:
                continue
            if owner is not None:
                index.own(key, owner)
            else:
                index.release(key, call_id)
        self.index = index

    @invariant()
    def everybody_is_found(self) -> None:
        if hasattr(self, "judge"):
            for number in range(12):
                key = key_hash(str(number))
                assert found(self.index, self.stored, key) == self.judge.get(key)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
