"""The calls that one worker of a pool has in hand: which of them wait, run, are watched, are in doubt, and
what is to be begun next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pen import Pen, Start
from aegisipc.sdk.core.pool_attempts import MAX_ATTEMPTS
from aegisipc.sdk.core.pool_cancels import Cancels, ToCancel
from aegisipc.sdk.core.pool_endings import Endings
from aegisipc.sdk.core.pool_facts import NOTHING, Known, PoolFacts
from aegisipc.sdk.core.pool_frames import Deliveries
from aegisipc.sdk.core.pool_keying import Keying
from aegisipc.sdk.core.pool_later import NEVER_NS, Later
from aegisipc.sdk.core.pool_lines import Lines
from aegisipc.sdk.core.pool_standing import Standing
from aegisipc.sdk.core.pool_words import attempt_body, doubt_body


class Hand:
    """Every open call of the frames in hand is in exactly one of ``calls``, ``watched`` and ``doubts``."""

    def __init__(  # noqa: PLR0917 - what one worker is made of
        self,
        standing: Standing,
        facts: PoolFacts,
        frames: Deliveries,
        pen: Pen,
        keying: Keying,
        effects: Mapping[str, Effect],
        max_running: int,
    ) -> None:
        self.standing, self.facts, self.frames, self.pen = standing, facts, frames, pen
        self.keying = keying
        self.endings = Endings(standing, frames, pen, keying, effects)
        self.max_running = max_running
        self.running = 0
        self.calls: dict[CallId, OpenCall] = {}
        """They wait, are begun, or a word about them is on its way."""
        self.watched: dict[CallId, OpenCall] = {}
        """Taken by another worker that lives; kept for the case that it does not come to an end."""
        self.doubts: dict[CallId, OpenCall] = {}
        self.waiting: set[CallId] = set()
        """Those of ``calls`` that wait: for a slot, or for their key. The queues may still have some that do
        not any more.
        """
        self.later = Later()
        """Those of ``calls`` that wait for their next attempt."""
        self.begun: set[CallId] = set()
        """Handlers that run, also those of calls that are in doubt or concluded elsewhere by now."""
        self.cancels = Cancels()
        self._lines = Lines(frames, self.endings)
        self.suspects = self._lines.suspects
        self._claiming: set[CallId] = set()
        self._starts: list[Start] = []
        self._to_cancel: list[ToCancel] = []
        self._next_deadline_ns = NEVER_NS

    def take_starts(self) -> list[Start]:
        """Return the calls to run now; each is given once."""
        starts, self._starts = self._starts, []
        return starts

    def take_cancels(self) -> list[ToCancel]:
        """Return the handlers to stop now; each is given once."""
        found, self._to_cancel = self._to_cancel, []
        return found

    # -- where a call belongs ---------------------------------------------------------------------------

    def place(self, call: OpenCall, known: Known | None) -> None:
        """Do with an open call what is to be done by what is known of it. It must be nowhere else."""
        if known is not None and known.is_taken and self.standing.is_alive(known):
            self.watched[call.call_id] = call
        elif known is not None and known.mark is Mark.IN_DOUBT:
            self.doubt(call)
        else:
            self.calls[call.call_id] = call
            self._take_up(call, known)

    def _place_again(self, call: OpenCall) -> None:
        self.place(call, self.facts.get(call.call_id))

    def _take_up(self, call: OpenCall, known: Known | None) -> None:
        if known is None:  # as it mostly is
            cancel = self.cancels.of(call.call_id, 0)
            if cancel is None:
                self._line_up(call, None)
            else:
                self.endings.cancelled(call, NOTHING, cancel)
            return
        cancel = self.cancels.of(call.call_id, known.dead_seq)
        if known.mark is Mark.CLAIMED:
            body = doubt_body(known.writer, known.seq, self.standing.fate_of(known))
            self.pen.note(Mark.IN_DOUBT, call, body)
        elif len(known.attempts) >= MAX_ATTEMPTS:
            self.endings.poisoned(call, known)
        elif cancel is not None:
            self.endings.cancelled(call, known, cancel)
        elif known.mark is Mark.RETRY_SCHEDULED:
            self._mind_deadline(call)
            self.later.add(call, known.due_ns)
        else:
            self._line_up(call, known)

    def _line_up(self, call: OpenCall, known: Known | None) -> None:
        """It may begin: when it has its key, and its turn."""
        self.waiting.add(call.call_id)
        self._mind_deadline(call)
        if call.key is None or self.keying.has(call.call_id):
            self._lines.add(call, known)
        elif self.keying.enter(call):
            self.waiting.discard(call.call_id)

    def _mind_deadline(self, call: OpenCall) -> None:
        if call.deadline_ns < self._next_deadline_ns:  # noqa: PLR1730 - for every call: min() would cost
            self._next_deadline_ns = call.deadline_ns

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
            self.remove(gone)

    def reopen(self, call_id: CallId) -> None:
        """It was found that the call did not run: it may run now, if it is in hand here."""
        call = self.doubts.pop(call_id, None)
        if call is None:
            return
        self.frames.undoubt(call_id)
        if self._is_busy(call_id):
            self.calls[call_id] = call  # it runs right here, or a claim of it is on its way
        else:
            self._place_again(call)

    def remove(self, call_id: CallId) -> OpenCall | None:
        """Take a call out of the hand, wherever it is; ``None`` if it is not there."""
        call = self.calls.pop(call_id, None)
        if call is not None:
            self.waiting.discard(call_id)
            if self.later:
                self.later.remove(call_id)
        else:
            call = self.watched.pop(call_id, None) or self.doubts.pop(call_id, None)
        if call is not None:
            self._forget(call)
        return call

    def _forget(self, call: OpenCall) -> None:
        if call.key is not None:
            self.keying.forget(call.call_id)
            self.endings.forget(call.call_id)
        if self._lines.cleared:
            self._lines.cleared.discard(call.call_id)

    def holds(self, call_id: CallId) -> bool:
        """Whether the call is in hand."""
        return call_id in self.calls or call_id in self.watched or call_id in self.doubts

    def mind_orphans(self) -> None:
        """What workers had taken that are gone by now is in nobody's hands any more."""
        for call in list(self.watched.values()):
            known = self.facts.get(call.call_id)
            if known is None or not self.standing.is_alive(known):
                self.place(self.watched.pop(call.call_id), known)

    def give_back(self) -> None:
        """Let other workers have the frames of which nothing is begun here."""
        self._give_back(self.waiting | self.later.ids())

    def give_back_later(self) -> None:
        """Let other workers have the frames of which nothing is left but calls that wait for an attempt."""
        if self.later:
            self._give_back(self.later.ids())

    def _give_back(self, resting: set[CallId]) -> None:
        kept = (self.calls.keys() - resting) | self.begun | self._claiming
        for call_id in self.frames.give_back(kept):
            self.remove(call_id)

    def _is_busy(self, call_id: CallId) -> bool:
        return call_id in self.begun or call_id in self._claiming

    # -- what the log says ------------------------------------------------------------------------------

    def taken(self, call_id: CallId, known: Known, now_ns: int, *, mine: bool) -> None:
        """A claim or an attempt counts; that is what is `known` now."""
        if not mine:
            if call_id in self.watched:
                self._place_again(self.watched.pop(call_id))
            elif call_id in self.waiting or call_id in self.later:
                self._replace(call_id)
        elif call_id in self._claiming:
            self._claiming.discard(call_id)
            self._begin(self.calls[call_id], known, now_ns)
        elif call_id == self.suspects.current:
            self._begin(self.calls[call_id], known, now_ns)

    def _begin(self, call: OpenCall, known: Known, now_ns: int) -> None:
        cancel = self.cancels.of(call.call_id, known.dead_seq)
        if cancel is None and call.deadline_ns > now_ns:
            self.begun.add(call.call_id)
            self._starts.append(Start(call, 0))
            return
        self._free_slot(call.call_id)
        if cancel is not None:
            self.endings.cancelled(call, known, cancel)
        elif call.call_id in self.calls and known.mark is Mark.CLAIMED:
            self.endings.claimed_too_late(call, known)
        else:
            self.endings.expired(call, known)

    def moved(self, call_id: CallId, *, mine: bool) -> None:
        """It waits for another attempt, or runs again although it was a dead letter."""
        if call_id in self.watched:
            self._place_again(self.watched.pop(call_id))
            return
        is_idle = call_id in self.waiting or call_id in self.later
        if call_id in self.calls and (is_idle or (mine and not self._is_busy(call_id))):
            self._replace(call_id)

    def _replace(self, call_id: CallId) -> None:
        self.waiting.discard(call_id)
        self.later.remove(call_id)
        self.keying.drop(call_id)
        self._place_again(self.calls.pop(call_id))

    def keyed(self, call_id: CallId) -> None:
        """A call that waited for its key has it."""
        if call_id in self.waiting:
            self._lines.add(self.calls[call_id], self.facts.get(call_id))

    def refused(self, call_ids: Sequence[CallId]) -> None:
        """Calls that waited for their keys are done with: others have those, and that is noted."""
        self.waiting.difference_update(call_ids)

    def in_vain(self, call_id: CallId, mark: Mark) -> None:
        """What this worker wrote of a call came too late: it goes where it belongs by what counts."""
        if mark is Mark.CLAIMED and call_id in self._claiming:
            self._claiming.discard(call_id)
            self._free_slot(call_id)
            if call_id in self.doubts:
                self._park(call_id)
        elif mark is Mark.ATTEMPTED and self.suspects.current == call_id:
            self._free_slot(call_id)
        self.endings.forget(call_id)
        if call_id in self.calls and not self._is_busy(call_id):
            self._replace(call_id)

    def _free_slot(self, call_id: CallId) -> None:
        self.running -= 1
        if self.suspects.current == call_id:
            self.suspects.end()

    # -- how a call ends --------------------------------------------------------------------------------

    def finished(self, call: OpenCall, mark: Mark, body: bytes | None) -> None:
        """A handler came to its end."""
        self.begun.discard(call.call_id)
        self._free_slot(call.call_id)
        self.endings.ran(call, self.facts.get(call.call_id) or NOTHING, mark, body)

    def failed(
        self, call: OpenCall, body: bytes | None, stack: Sequence[str], delay_ns: int | None, now_ns: int
    ) -> None:
        """An attempt failed with an error after which the call is to run again: after so long, or not any
        more (``None``).
        """
        known = self.facts.get(call.call_id) or NOTHING
        if known.mark is Mark.IN_DOUBT or known.is_closed or call.call_id not in self.calls:
            self.finished(call, Mark.FAILED, body)
            return
        self.begun.discard(call.call_id)
        self._free_slot(call.call_id)
        if known.is_taken and not self.endings.is_mine(known):
            self._replace(call.call_id)  # another worker runs it by now, and its word is the one that counts
            return
        self._lines.cleared.add(call.call_id)
        self.endings.failed(call, known, body, stack, delay_ns, now_ns)

    def cancel(self, call_id: CallId) -> None:
        """Somebody wants a call cancelled, and that is remembered: do what can be done now."""
        call = self.calls.get(call_id)
        if call is None:
            return
        known = self.facts.get(call_id) or NOTHING
        cancel = self.cancels.of(call_id, known.dead_seq)
        if cancel is None:
            return
        if call_id in self.begun:
            self._to_cancel.append(ToCancel(call_id, cancel.author, cancel.reason))
        elif call_id in self.waiting or call_id in self.later:
            self._replace(call_id)

    # -- what is begun ----------------------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Begin what can be begun."""
        while self.later and (due := self.later.next(now_ns)) is not None:
            self._line_up(due, self.facts.get(due.call_id))
        suspects, waiting = self.suspects, self.waiting
        if not (waiting or suspects.is_alone) or not self.standing.may_start:
            return
        self._pump_suspects(now_ns)
        ready = self._lines.ready
        while self.running < self.max_running and not suspects.is_alone:
            call = ready.next()
            if call is None:
                return
            if not self._is_due(call):
                continue
            if call.deadline_ns <= now_ns:
                self._expire(call)
                continue
            waiting.discard(call.call_id)
            self.running += 1
            if self.endings.is_once(call):
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
        if now_ns < self._next_deadline_ns:
            return
        self._next_deadline_ns = NEVER_NS
        self.suspects.take_expired(now_ns)
        for call_id in list(self.waiting):
            call = self.calls[call_id]
            if call.deadline_ns > now_ns:
                self._mind_deadline(call)
            elif self._is_due(call):
                self._expire(call)
        for call in list(self.later):
            if call.deadline_ns > now_ns:
                self._mind_deadline(call)
            else:
                self.later.remove(call.call_id)
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
        is_left = known.is_begun and not self.standing.is_alive(known)
        if is_suspect and is_left and len(known.attempts) < MAX_ATTEMPTS:
            return True
        self._replace(call.call_id)
        return False

    def _expire(self, call: OpenCall) -> None:
        self.waiting.discard(call.call_id)
        self.keying.drop(call.call_id)
        self.endings.expired(call, self.facts.get(call.call_id) or NOTHING)
