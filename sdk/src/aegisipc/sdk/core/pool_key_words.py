"""What the log says of keys, for one worker of a pool and the calls that it has in hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark, PenFrame
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import HASH_BYTES, KeyOwner, decode_segment
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Outcome
from aegisipc.eventstore.pool_keys import PoolKeys, Said
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.pen import Identity, Pen
from aegisipc.sdk.core.pool_facts import PoolFacts
from aegisipc.sdk.core.pool_hand import Hand
from aegisipc.sdk.core.pool_keying import Keying


class KeyWords:
    """Gives the index what the log says, and the calls in hand what follows from it."""

    def __init__(
        self,
        identity: Identity,
        facts: PoolFacts,
        pen: Pen,
        keys: PoolKeys,
        outcome_of: Callable[[CallId], Outcome | None],
    ) -> None:
        self._identity, self._facts, self.keys, self._outcome_of = identity, facts, keys, outcome_of
        self.keying = Keying(keys, pen, self._had_no_effect)
        self.anomalies: Counter[str] = Counter()
        self._again: list[bytes | None] = []
        """For which keys (``None``: any) calls wait of which something is to be said again."""

    def apply(
        self, hand: Hand, mark: Mark, call_id: CallId, body: bytes | None, seq: int, by: tuple[str, int]
    ) -> None:
        """Take in a word about a key; `by` is the run of the worker that wrote it."""
        keying = self.keying
        if mark is Mark.RELEASED:
            key = self.keys.on_released(call_id, body, seq)
            if key is not None:
                self._again.append(key)
            return
        mine = by == (self._identity.instance, self._identity.session)
        before = self.keys.on_keyed(call_id, body, seq, *by)
        is_held = hand.holds(call_id)
        if keying.on_keyed(call_id, before, mine=mine, is_held=is_held):
            hand.keyed(call_id)
        elif mine and before is None:
            self._again.append(None)
        elif mine and not is_held and before is not None:
            self._keyed_late(call_id, body, before)

    def go_on(self, hand: Hand) -> None:
        """A record is folded whole: say what is to be said again, by all that was read."""
        if self._again:
            again, self._again = self._again, []
            for key in again:
                hand.refused(self.keying.go_on(key))

    def _keyed_late(self, call_id: CallId, body: bytes | None, before: Said) -> None:
        """The own word that a key is a call's counts, but the call is not in hand any more."""
        known = self._facts.get(call_id)
        if known is None or not known.is_closed:
            return
        if self.keys.was_free((body or b"")[:HASH_BYTES], before):  # so nobody began the call under it
            self.keying.give_back(call_id, body)

    def on_past(self, record: Record, frame: PenFrame, writer: str) -> None:
        """Take in what was said before the place where following begins."""
        self.keys.on_frame(len(frame.entries))
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if mark is Mark.KEYED:
                self.keys.on_keyed(call_id, body, record.seq, writer, frame.session)
            elif mark is Mark.RELEASED:
                self.keys.on_released(call_id, body, record.seq)

    def on_segment(self, record: Record) -> None:
        """Take in a segment."""
        try:
            segment = decode_segment(record.payload)
        except MalformedPayload:
            self.anomalies["malformed"] += 1
            return
        if self.keys.on_segment(record.seq, record.timestamp_ns, segment):
            self._again.append(None)

    def on_found(self, hand: Hand, lookup: Lookup, owner: KeyOwner | None) -> None:
        """Segments were read: that call has the key, or none."""
        hand.refused(self.keying.on_found(lookup, owner))

    def _had_no_effect(self, call_id: CallId, writer: str, session: int) -> bool:
        known, outcome = self._facts.get(call_id), self._outcome_of(call_id)
        if known is None or outcome is None:
            return False
        is_unstarted = known.mark is Mark.EXPIRED and outcome.body is None
        return is_unstarted and (known.writer, known.session) == (writer, session)
