"""The calls that one worker of a pool has in hand: which of them wait, run, are watched, are in doubt, and
what is to be begun next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, MAY_HAVE_STARTED, Pen, Start
from aegisipc.sdk.core.pool_attempts import MAX_ATTEMPTS, Suspects
from aegisipc.sdk.core.pool_facts import (
    Known,
    PoolFacts,
    attempt_body,
    dead_letter_body,
    doubt_body,
    evidence_of,
)
from aegisipc.sdk.core.pool_frames import Deliveries
from aegisipc.sdk.core.pool_standing import Standing


class Hand:
    """Every open call of the frames in hand is in exactly one of ``calls``, ``watched`` and ``doubts``."""

    def __init__(
        self,
        standing: Standing,
        facts: PoolFacts,
        frames: Deliveries,
        pen: Pen,
        effects: Mapping[str, Effect],
        max_running: int,
    ) -> None:
        self.standing, self.facts, self.frames, self.pen = standing, facts, frames, pen
        self._effects = effects
        self.max_running = max_running
        self.running = 0
        self.calls: dict[CallId, OpenCall] = {}
        """They wait, are begun, or their conclusion is on its way."""
        self.watched: dict[CallId, OpenCall] = {}
        """Taken by another worker that lives; kept for the case that it does not come to an end."""
        self.doubts: dict[CallId, OpenCall] = {}
        self.waiting: set[CallId] = set()
        """Those of ``calls`` that wait. The queues may still have some that do not any more."""
        self.begun: set[CallId] = set()
        """Handlers that run, also those of calls that are in doubt or concluded elsewhere by now."""
        self.suspects = Suspects()
        self._ready: deque[OpenCall] = deque()
        self._claiming: set[CallId] = set()
        self._starts: list[Start] = []

    def take_starts(self) -> list[Start]:
        """Return the calls to run now; each is given once."""
        starts, self._starts = self._starts, []
        return starts

    # -- where a call belongs ---------------------------------------------------------------------------

    def place(self, call: OpenCall) -> None:
        """Do with an open call what is to be done by what is known of it. It must be nowhere else."""
        known = self.facts.get(call.call_id)
        if known is not None and known.is_taken and self.standing.is_alive(known):
            self.watched[call.call_id] = call
        elif known is not None and known.mark is Mark.IN_DOUBT:
            self.doubt(call)
        else:
            self.calls[call.call_id] = call
            self._take_up(call, known)

    def _take_up(self, call: OpenCall, known: Known | None) -> None:
        if known is None and not self._is_suspect(call, None):  # as it mostly is
            self.waiting.add(call.call_id)
            self._ready.append(call)
            return
        attempts = known.attempts if known is not None else ()
        if known is not None and known.mark is Mark.CLAIMED:
            self.pen.note(Mark.IN_DOUBT, call, doubt_body(known, self.standing.fate_of(known)))
        elif len(attempts) >= MAX_ATTEMPTS:
            self.pen.note(Mark.DEAD_LETTERED, call, dead_letter_body(attempts))
        else:
            self.waiting.add(call.call_id)
            if self._is_suspect(call, known):
                self.suspects.add(call, len(attempts))
            else:
                self._ready.append(call)

    def _is_once(self, call: OpenCall) -> bool:
        return self._effects.get(call.method, Effect.PURE) is Effect.ONCE

    def _is_suspect(self, call: OpenCall, known: Known | None) -> bool:
        if known is None:
            delivery = self.frames.of(call.call_id)
            return delivery is not None and delivery.is_suspect and not self._is_once(call)
        return known.mark is None and not self._is_once(call)

    def doubt(self, call: OpenCall) -> None:
        """Keep a call that is in doubt until that is resolved."""
        known = self.facts.get(call.call_id)
        call.claimed_by = known.claimed_by if known is not None else None
        self.doubts[call.call_id] = call
        if not self._is_busy(call.call_id):
            self._park(call.call_id)

    def _park(self, call_id: CallId) -> None:
        self.frames.doubt(call_id)
        for gone in self.frames.unload():
            del self.doubts[gone]

    def reopen(self, call_id: CallId) -> None:
        """It was found that the call did not run: it may run now, if it is in hand here."""
        call = self.doubts.pop(call_id, None)
        if call is None:
            return
        self.frames.undoubt(call_id)
        if self._is_busy(call_id):
            self.calls[call_id] = call  # it runs right here, or a claim of it is on its way
        else:
            self.place(call)

    def remove(self, call_id: CallId) -> OpenCall | None:
        """Take a call out of the hand, wherever it is; ``None`` if it is not there."""
        call = self.calls.pop(call_id, None)
        if call is not None:
            self.waiting.discard(call_id)
            return call
        return self.watched.pop(call_id, None) or self.doubts.pop(call_id, None)

    def mind_orphans(self) -> None:
        """What workers had taken that are gone by now is in nobody's hands any more."""
        for call in list(self.watched.values()):
            known = self.facts.get(call.call_id)
            if known is None or not self.standing.is_alive(known):
                self.place(self.watched.pop(call.call_id))

    def give_back(self) -> None:
        """Let other workers have the frames of which nothing is begun here."""
        begun = (self.calls.keys() - self.waiting) | self.begun | self._claiming
        for call_id in self.frames.give_back(begun):
            self.remove(call_id)

    def _is_busy(self, call_id: CallId) -> bool:
        return call_id in self.begun or call_id in self._claiming

    # -- what the log says ------------------------------------------------------------------------------

    def taken(self, call_id: CallId, now_ns: int, *, mine: bool) -> None:
        """A claim or an attempt counts."""
        if not mine:
            watched = self.watched.pop(call_id, None)
            if watched is not None:
                self.place(watched)
        elif call_id in self._claiming:
            self._claiming.discard(call_id)
            self._begin(self.calls[call_id], now_ns, Mark.FAILED, CLAIMED_TOO_LATE)
        elif call_id == self.suspects.current:
            self._begin(self.calls[call_id], now_ns, Mark.EXPIRED, MAY_HAVE_STARTED)

    def _begin(self, call: OpenCall, now_ns: int, mark_if_late: Mark, body_if_late: bytes) -> None:
        if call.deadline_ns > now_ns:
            self.begun.add(call.call_id)
            self._starts.append(Start(call, 0))
        else:
            self._free_slot(call.call_id)
            self.pen.note(mark_if_late, call, body_if_late)

    def in_vain(self, call_id: CallId, mark: Mark) -> None:
        """What this worker wrote of a call came too late: it goes where it belongs by what counts."""
        if mark is Mark.CLAIMED and call_id in self._claiming:
            self._claiming.discard(call_id)
            self._free_slot(call_id)
            if call_id in self.doubts:
                self._park(call_id)
        elif mark is Mark.ATTEMPTED and self.suspects.current == call_id:
            self._free_slot(call_id)
        call = self.calls.pop(call_id, None)
        if call is not None:
            self.place(call)

    def _free_slot(self, call_id: CallId) -> None:
        self.running -= 1
        if self.suspects.current == call_id:
            self.suspects.end()

    def finished(self, call: OpenCall, mark: Mark, body: bytes | None) -> None:
        """A handler came to its end. If its call is in doubt by now, this ends the doubt."""
        self.begun.discard(call.call_id)
        self._free_slot(call.call_id)
        known = self.facts.get(call.call_id)
        if known is not None and known.mark is Mark.IN_DOUBT:
            self.pen.note(Mark.EXECUTED, call, evidence_of(self.standing.identity.instance, known))
        self.pen.note(mark, call, body)

    # -- what is begun ----------------------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Begin what can be begun."""
        if not self.standing.may_start:
            return
        self._pump_suspects(now_ns)
        while self._ready and self.running < self.max_running and not self.suspects.is_alone:
            call = self._ready.popleft()
            if not self._is_due(call):
                continue
            if call.deadline_ns <= now_ns:
                self._expire(call)
                continue
            self.waiting.discard(call.call_id)
            self.running += 1
            if self._is_once(call):
                self._claiming.add(call.call_id)
                self.pen.note(Mark.CLAIMED, call)
            else:
                self.begun.add(call.call_id)
                self._starts.append(Start(call, 0))

    def _pump_suspects(self, now_ns: int) -> None:
        suspects = self.suspects
        if suspects.current is not None:
            return
        suspects.is_alone = False
        while (call := suspects.take()) is not None:
            if not self._is_due(call, is_suspect=True):
                continue
            if call.deadline_ns <= now_ns:
                self._expire(call)
                continue
            known = self.facts.get(call.call_id)
            number = len(known.attempts if known is not None else ()) + 1
            suspects.is_alone = number == MAX_ATTEMPTS
            if self.running >= (1 if suspects.is_alone else self.max_running):
                suspects.put_back(call)
            else:
                suspects.begin(call)
                self.waiting.discard(call.call_id)
                self.running += 1
                self.pen.note(Mark.ATTEMPTED, call, attempt_body(number))
            return

    def expire(self, now_ns: int) -> None:
        """Conclude what expired while it waited."""
        for call in self.suspects.take_expired(now_ns):
            if self._is_due(call, is_suspect=True):
                self._expire(call)
        if any(call.deadline_ns <= now_ns for call in self._ready):
            waiting, self._ready = self._ready, deque()
            for call in waiting:
                if call.deadline_ns > now_ns:
                    self._ready.append(call)
                elif self._is_due(call):
                    self._expire(call)

    def _is_due(self, call: OpenCall, *, is_suspect: bool = False) -> bool:
        """Whether a call that waited here is still to be dealt with as it was meant: no other worker
        concluded, claimed or began it meanwhile.
        """
        if call.call_id not in self.waiting:
            return False
        known = self.facts.get(call.call_id)
        if known is None or not known.is_taken:
            return True
        is_left = known.mark is None and not self.standing.is_alive(known)
        if is_suspect and is_left and len(known.attempts) < MAX_ATTEMPTS:
            return True
        self.waiting.discard(call.call_id)
        self.place(self.calls.pop(call.call_id))
        return False

    def _expire(self, call: OpenCall) -> None:
        self.waiting.discard(call.call_id)
        delivery = self.frames.of(call.call_id)
        is_certain = self._is_once(call) or delivery is None or not delivery.is_again
        self.pen.note(Mark.EXPIRED, call, None if is_certain else MAY_HAVE_STARTED)
