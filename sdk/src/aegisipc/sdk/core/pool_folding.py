"""What the log says of calls, for one worker of a pool: what counts of it, and what follows for the calls
that it has in hand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import CLOSING, Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Outcome, Outcomes
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.core.pool_answers import Reply
from aegisipc.sdk.core.pool_facts import BESIDE, PoolFacts
from aegisipc.sdk.core.pool_frames import Deliveries
from aegisipc.sdk.core.pool_hand import Hand
from aegisipc.sdk.core.pool_key_words import KeyWords
from aegisipc.sdk.core.pool_resolving import Resolving

_OF_KEYS: Final = frozenset({Mark.KEYED, Mark.RELEASED})
_ELSE: Final = frozenset({Mark.NOT_EXECUTED, Mark.DISCARDED, Mark.REQUEUED, Mark.RETRY_SCHEDULED})
_RESOLVING: Final = frozenset({Mark.NOT_EXECUTED, Mark.SUCCEEDED, Mark.DISCARDED})


class Folding:
    """Folds pen frames. ``unanswered`` is how many of this worker's own frames have not come back yet."""

    def __init__(  # noqa: PLR0917 - what one worker is made of
        self,
        identity: Identity,
        facts: PoolFacts,
        hand: Hand,
        frames: Deliveries,
        outcomes: Outcomes,
        resolving: Resolving,
        key_words: KeyWords,
    ) -> None:
        self._identity, self._facts, self._hand, self._frames = identity, facts, hand, frames
        self._outcomes, self._resolving, self._key_words = outcomes, resolving, key_words
        self._replies: list[tuple[str, Reply]] = []
        self.unanswered = 0
        self.anomalies: Counter[str] = key_words.anomalies

    def take_replies(self) -> dict[str, list[Reply]]:
        """Return, per client, the outcomes that are now certain."""
        by_client: dict[str, list[Reply]] = defaultdict(list)
        for client, outcome in self._replies:
            by_client[client].append(outcome)
        self._replies = []
        return by_client

    def read(self, record: Record) -> PenFrame | None:
        """Return the frame in a record; ``None`` if it cannot be read."""
        try:
            return decode_pen(record.payload)
        except MalformedPayload:
            self.anomalies["malformed"] += 1
            return None

    def apply(self, record: Record, writer: str, now_ns: int) -> None:
        """Fold a frame."""
        frame = self.read(record)
        if frame is None or not self._facts.is_new(record, writer, frame):
            return
        session, seq, fold, hand = frame.session, record.seq, self._facts.fold, self._hand
        mine = writer == self._identity.instance and session == self._identity.session
        if mine:
            self.unanswered -= 1
        self._key_words.keys.on_frame(len(frame.entries))
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if mark in _OF_KEYS:
                self._key_words.apply(hand, mark, call_id, body, seq, (writer, session))
                continue
            known = fold(call_id, mark, body, writer, seq, session)
            if known is None:
                if mine and mark not in BESIDE:
                    self._in_vain(call_id, mark)
            elif mark in CLOSING:
                self._conclude(call_id, mark, body, seq, mine=mine)
            elif mark is Mark.IN_DOUBT:
                self._doubt(Outcome(call_id, mark, body), mine=mine)
            elif mark in _ELSE:
                self._else(mark, call_id, seq, mine=mine)
            else:
                hand.taken(call_id, known, now_ns, mine=mine)

    def _conclude(self, call_id: CallId, mark: Mark, body: bytes | None, seq: int, *, mine: bool) -> None:
        hand = self._hand
        self._outcomes.add(new_tuple(Outcome, (call_id, mark, body)))
        if not mine:
            hand.remove(call_id)
            self._frames.settle(call_id)
            return
        if hand.endings.has_unstarted:
            hand.endings.concluded(call_id, mark, hand.calls.get(call_id))
        call = hand.remove(call_id)
        if self._resolving.is_busy:
            call = self._resolving.end(call_id, seq) or call
        self._frames.settle(call_id)
        if call is not None:
            self._replies.append((call.client, (call_id, int(mark), body)))

    def _else(self, mark: Mark, call_id: CallId, seq: int, *, mine: bool) -> None:
        if mark is Mark.NOT_EXECUTED:
            self._reopen(call_id, seq, mine=mine)
        elif mark is Mark.DISCARDED:
            if mine:
                self._resolving.end(call_id, seq)
            if self._hand.remove(call_id) is not None:
                self._frames.settle(call_id)
        else:
            if mark is Mark.REQUEUED:
                self._outcomes.drop(call_id)
            self._hand.moved(call_id, mine=mine)

    def _doubt(self, outcome: Outcome, *, mine: bool) -> None:
        self._outcomes.add(outcome)
        call = self._hand.remove(outcome.call_id)
        if call is not None:
            self._hand.doubt(call)
            if mine:
                self._replies.append((call.client, (outcome.call_id, int(outcome.mark), outcome.body)))

    def _reopen(self, call_id: CallId, seq: int, *, mine: bool) -> None:
        self._outcomes.drop(call_id)
        if mine:
            self._resolving.end(call_id, seq)
        self._hand.reopen(call_id)

    def _in_vain(self, call_id: CallId, mark: Mark) -> None:
        if mark in _RESOLVING:
            self._resolving.end(call_id, 0)
        known = self._facts.get(call_id)
        if mark is Mark.REQUEUED and (known is None or known.is_closed):
            if self._hand.remove(call_id) is not None:  # the dead letter was dealt with before
                self._frames.settle(call_id)
            return
        self._hand.in_vain(call_id, mark)
