"""How calls end at one worker of a pool: what it writes about that, and what follows for their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aegisipc.eventstore.bodies import ErrorInfo
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.dead_letters import Reason, error_in
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, MAY_HAVE_STARTED, Pen
from aegisipc.sdk.core.pool_cancels import Cancel
from aegisipc.sdk.core.pool_facts import Known
from aegisipc.sdk.core.pool_frames import Deliveries
from aegisipc.sdk.core.pool_keying import Keying
from aegisipc.sdk.core.pool_standing import Standing
from aegisipc.sdk.core.pool_words import (
    About,
    cancelled_body,
    evidence_body,
    given_up_body,
    poison_body,
    retry_body,
)


class Endings:
    """What is noted of calls that end, or fail and are to run again."""

    def __init__(
        self,
        standing: Standing,
        frames: Deliveries,
        pen: Pen,
        keying: Keying,
        effects: Mapping[str, Effect],
    ) -> None:
        self._standing, self._frames, self._pen, self._keying = standing, frames, pen, keying
        self._effects = effects
        self._unstarted: dict[CallId, Mark] = {}
        """Calls with keys whose conclusion is on its way, and that certainly had no effect."""

    def is_once(self, call: OpenCall) -> bool:
        """Whether a call must not run twice."""
        return self._effects.get(call.method, Effect.PURE) is Effect.ONCE

    def is_mine(self, known: Known) -> bool:
        """Whether this run of this worker wrote that."""
        who = self._standing.identity
        return (known.writer, known.session) == (who.instance, who.session)

    def _about(self, known: Known) -> About:
        """What a word of this worker is about. Only who claimed a call may end it."""
        return About(known.claim_seq if self.is_mine(known) else 0, known.dead_seq)

    def _may_have_started(self, call: OpenCall, known: Known) -> bool:
        if known.tries or known.dead_seq or known.attempts:
            return True
        delivery = self._frames.of(call.call_id)
        return not self.is_once(call) and (delivery is None or delivery.is_again)

    # -- words ------------------------------------------------------------------------------------------

    def ran(self, call: OpenCall, known: Known, mark: Mark, body: bytes | None) -> None:
        """A handler came to its end. If its call is in doubt by now, this ends the doubt."""
        if known.mark is Mark.IN_DOUBT:
            self._pen.note(Mark.EXECUTED, call, evidence_body(self._standing.identity.instance, known.seq))
            mark = Mark.FAILED if mark is Mark.CANCELLED else mark
        elif mark is Mark.CANCELLED:
            said = error_in(body).details
            author, reason = str(said.get("author", "")), str(said.get("reason", ""))
            body = cancelled_body(call, author, reason, self._about(known), started=True)
        elif (mark is Mark.EXPIRED and body is None) or body == CLAIMED_TOO_LATE:
            self._note_unstarted(call, known, mark)  # it waited for a thread for too long
        self._pen.note(mark, call, body)

    def claimed_too_late(self, call: OpenCall, known: Known) -> None:
        """Its claim came back after its deadline."""
        if known.tries:
            self.gave_up(call, known, "deadline", known.tries)
            return
        self._note_unstarted(call, known, Mark.FAILED)
        self._pen.note(Mark.FAILED, call, CLAIMED_TOO_LATE)

    def expired(self, call: OpenCall, known: Known) -> None:
        """Its deadline passed while it waited here."""
        if known.tries:
            self.gave_up(call, known, "deadline", known.tries)
        elif self._may_have_started(call, known):
            self._pen.note(Mark.EXPIRED, call, MAY_HAVE_STARTED)
        else:
            self._note_unstarted(call, known, Mark.EXPIRED)
            self._pen.note(Mark.EXPIRED, call, None)

    def cancelled(self, call: OpenCall, known: Known, cancel: Cancel) -> None:
        """It is not run, or not again, because somebody wants that."""
        self._note_unstarted(call, known, Mark.CANCELLED)
        started = self._may_have_started(call, known)
        body = cancelled_body(call, cancel.author, cancel.reason, self._about(known), started=started)
        self._pen.note(Mark.CANCELLED, call, body)

    def poisoned(self, call: OpenCall, known: Known) -> None:
        """All who began it again alone are gone."""
        self._pen.note_dead(Mark.DEAD_LETTERED, call, poison_body(call, known.attempts, self._about(known)))

    def gave_up(
        self,
        call: OpenCall,
        known: Known,
        reason: Reason,
        attempts: int,
        error: ErrorInfo | None = None,
        stack: Sequence[str] = (),
    ) -> None:
        """There is no further attempt."""
        body = given_up_body(call, reason, attempts, self._about(known), error, stack)
        self._pen.note_dead(Mark.DEAD_LETTERED, call, body)

    def failed(
        self,
        call: OpenCall,
        known: Known,
        body: bytes | None,
        stack: Sequence[str],
        delay_ns: int | None,
        now_ns: int,
    ) -> None:
        """An attempt failed: the next one is due after so long, or there is none (``None``)."""
        attempt, error = known.tries + 1, error_in(body)
        if delay_ns is None:
            self.gave_up(call, known, "attempts", attempt, error, stack)
        elif now_ns + delay_ns >= call.deadline_ns:
            self.gave_up(call, known, "deadline", attempt, error, stack)
        else:
            said = retry_body(attempt, now_ns + delay_ns, error, self._about(known).claimed_seq)
            self._pen.note(Mark.RETRY_SCHEDULED, call, said)

    # -- keys -------------------------------------------------------------------------------------------

    def _note_unstarted(self, call: OpenCall, known: Known, mark: Mark) -> None:
        if call.key is not None and not self._may_have_started(call, known):
            self._unstarted[call.call_id] = mark

    @property
    def has_unstarted(self) -> bool:
        """Of some call it is on its way that it ended without having started."""
        return bool(self._unstarted)

    def concluded(self, call_id: CallId, mark: Mark, call: OpenCall | None) -> None:
        """The own conclusion of a call counts: its key is free again if it had no effect."""
        if self._unstarted.pop(call_id, None) is mark and call is not None:
            self._keying.release(call, is_alone=not self.is_once(call))

    def forget(self, call_id: CallId) -> None:
        """The conclusion of a call does not count, or the call is not in hand any more."""
        if self._unstarted:
            self._unstarted.pop(call_id, None)
