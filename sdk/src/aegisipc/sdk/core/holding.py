"""What the holder of a pen does about the calls of its group: whose turn it is, what starts, what is noted.

Order of things for one call: it waits until the call before it on the same resource is done and a slot is
free; its idempotency key, if it has one, becomes its own in the log; a ``once`` method is claimed in the log;
it starts, and its outcome is written. If it failed and is to be run again, it keeps its resource, and begins
anew when that is in the log, and due.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from aegisipc.eventstore.bodies import ErrorInfo
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import Effect
from aegisipc.eventstore.frames import MAX_ENTRIES, Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import KeyOwner
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.tuples import new_tuple
from aegisipc.sdk.core.cancelling import cancelled_body
from aegisipc.sdk.core.dead_letters import dead_letter_body
from aegisipc.sdk.core.doubts import Doubts
from aegisipc.sdk.core.key_lookups import Lookup
from aegisipc.sdk.core.keyed import Entry, Keys
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, MAY_HAVE_STARTED, Pen, Start, Written
from aegisipc.sdk.core.replica import Replica
from aegisipc.sdk.core.retries import Retries
from aegisipc.sdk.core.schedule import Schedule
from aegisipc.sdk.core.suspects import Suspects
from aegisipc.sdk.retry import Retry

OVERLOADED_CODE: Final = "overloaded"
RETRY_AFTER_MS: Final = 1000
"""After how long who was turned away may try again."""


class Rules(NamedTuple):
    """What a service says of its methods, and how much it takes on."""

    effects: Mapping[str, Effect]
    max_running: int
    threaded: Collection[str] = ()
    """Methods that need a thread, of which there are ``max_threaded``."""
    max_threaded: int = 1
    retries: Mapping[str, Retry] = {}
    max_backlog: int = 100_000
    """Clients are held back when so many calls are open; over twice that, new ones are turned away."""


class Holding:
    """The calls in the hands of one holder. Times are nanoseconds on the server's clock."""

    def __init__(
        self, rules: Rules, pen: Pen, replica: Replica, doubts: Doubts, calls: Callable[[], GroupCalls]
    ) -> None:
        self.epoch = 0
        self.is_active = False
        self.is_held_back = False
        """Nothing may be started, for reasons that the member knows."""
        self.taken_over_at = 0
        """Calls from before that record were in other hands before; 0 if this is the first epoch."""
        self._rules = rules
        self._effects = rules.effects
        self._pen = pen
        self._replica = replica
        self._doubts = doubts
        self._calls = calls
        self.schedule = Schedule(
            max_running=rules.max_running, threaded=rules.threaded, max_threaded=rules.max_threaded
        )
        self.suspects = Suspects()
        self.retries = Retries(rules.retries, pen, rules.threaded)
        self.keys = Keys(pen, calls, rules.threaded)
        self._starts: list[Start] = []
        self._cancels: list[OpenCall] = []
        self._to_start: set[CallId] = set()
        """Calls that start when it is in the log that they have their key."""

    def clear(self) -> None:
        """The pen is someone else's."""
        self.is_active = False
        self.schedule.clear()
        self.suspects.clear()
        self.retries.clear()
        self.keys.clear()
        self._starts.clear()
        self._cancels.clear()
        self._to_start.clear()

    # -- what comes in ----------------------------------------------------------------------------------

    def inherit(self, calls: Collection[OpenCall], holder: str) -> None:
        """Take over all open calls of the group, in log order. Those that wait for another attempt come first
        on their resources.
        """
        retrying: list[OpenCall] = []
        waiting: list[OpenCall] = []
        for call in calls:
            match call.state:
                case CallState.STARTED:  # claimed under an earlier epoch: it may have run
                    self._doubts.doubt(call, holder)
                case CallState.IN_DOUBT:
                    self._doubts.keep(call)
                case _ if call.cancel is not None:
                    self._end_cancelled(call)
                case CallState.RETRY_WAIT:
                    retrying.append(call)
                case _:
                    waiting.append(call)
        for call in (*retrying, *waiting):
            self.schedule.add(call)

    def accept(self, calls: Sequence[OpenCall], now_ns: int) -> None:
        """New calls came in. If far too many are open, the newest are turned away."""
        excess = len(self._calls().open) - 2 * self._rules.max_backlog
        refused = calls[max(0, len(calls) - excess) :] if excess > 0 else ()
        for call in calls[: len(calls) - len(refused)]:
            self.schedule.add(call)
        for call in refused:
            self._pen.note(Mark.FAILED, call, _overloaded())
        self.pump(now_ns)

    def reopen(self, calls: Sequence[OpenCall], now_ns: int) -> None:
        """These may run after all: it was found that they did not, or an operator wants it."""
        for call in calls:
            if call.cancel is not None:
                self._end_cancelled(call)
            else:
                self.schedule.add(call)
        self.pump(now_ns)

    def retry(self, calls: Sequence[OpenCall], now_ns: int) -> None:
        """It is in the log that these wait for another attempt."""
        for call in calls:
            self.retries.on_folded(call)
        self.pump(now_ns)

    def cancel(self, calls: Sequence[OpenCall], now_ns: int) -> None:
        """Somebody wants these cancelled."""
        for call in calls:
            self._cancel(call)
        self.pump(now_ns)

    def on_finished(
        self,
        start: Start,
        mark: Mark,
        body: bytes | None,
        now_ns: int,
        emitted: Sequence[bytes] = (),
        *,
        again: bool = False,
        stack: Sequence[str] = (),
        random01: float = 0.5,
    ) -> bool:
        """Take the outcome of a call that ran, and the events that it emitted. Returns ``False`` when it
        comes too late: the pen is someone else's now.

        `again`: it failed with an error after which it is run again, attempts permitting; `stack` says where
        that was raised, and `random01` places the next attempt.
        """
        if not self.is_active or start.epoch != self.epoch:
            return False
        call = start.call
        if emitted:
            mark, body = self._replica.conclude(call, mark, body, emitted)
        if mark is Mark.SUCCEEDED:
            self._pen.note(mark, call, body)
        elif mark is Mark.EXPIRED or body == CLAIMED_TOO_LATE:  # it had to wait for a thread, for too long
            self._end_too_late(call)
        elif not again or call.cancel is not None:
            self._pen.note(mark, call, body)
        elif self.retries.failed(call, body, stack, now_ns, random01):
            self.schedule.vacate(call)
            self.suspects.ended(call)
            self.pump(now_ns)
            return True
        self._done(call)
        self.pump(now_ns)
        return True

    def on_acked(self, written: Written, now_ns: int) -> None:
        """The frame is durable: what was only waiting for that may start."""
        for mark, call, _ in written.facts:
            if mark is Mark.CLAIMED or mark is Mark.ATTEMPTED:
                self._go(call, now_ns)
            elif mark is Mark.KEYED and call.call_id in self._to_start:
                self._to_start.discard(call.call_id)
                self._go(call, now_ns)
        self.pump(now_ns)

    def on_key_found(self, lookup: Lookup, owner: KeyOwner | None, now_ns: int) -> None:
        """The segments say who has the key."""
        if not self.is_active:
            return
        for call in self.keys.on_found(lookup, owner):
            self.schedule.release(call.resource)
        self.pump(now_ns)

    def on_tick(self, now_ns: int) -> None:
        """Conclude the calls that expired while they waited, and begin what has become due."""
        if not self.is_active:
            return
        for call in self.schedule.expire(now_ns):
            self._expire(call)
        for call in (*self.suspects.expire(now_ns), *self.keys.expire(now_ns)):
            self._expire(call)
            self.schedule.release(call.resource)
        self._expire_retries(now_ns)
        self.retries.ripen(now_ns)
        self.pump(now_ns)

    # -- what goes out ----------------------------------------------------------------------------------

    def take_starts(self, most: int = MAX_ENTRIES) -> list[Start]:
        """Return up to `most` of the calls to run now; each is given once."""
        starts = self._starts[:most]
        del self._starts[:most]
        return starts

    def take_cancels(self) -> list[OpenCall]:
        """Return calls whose handlers are to stop, if they run; each is given once."""
        cancels, self._cancels = self._cancels, []
        return cancels

    # -- running ----------------------------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Begin what may begin."""
        if not self.is_active or self.is_held_back or self._replica.spoiled is not None:
            return
        schedule = self.schedule
        while (parked := self.suspects.next(schedule.has_room)) is not None:
            schedule.occupy(parked)
            self._begin_suspect(parked)
        if self.keys.has_ready or now_ns >= self.retries.wake_ns:
            self._pump_parked(now_ns)
        take, taken_over_at = schedule.take, self.taken_over_at
        while (call := take()) is not None:
            if call.deadline_ns <= now_ns:
                self._expire(call)
                schedule.free(call)
            elif call.key is not None or call.retry_at_ns:
                self._begin_with_care(call, now_ns)
            elif self._effects.get(call.method, Effect.PURE) is Effect.ONCE:
                self._pen.note(Mark.CLAIMED, call)
            elif call.seq < taken_over_at and self.suspects.is_suspected(call):
                self._begin_suspect(call)
            else:
                self._starts.append(new_tuple(Start, (call, self.epoch)))

    def _pump_parked(self, now_ns: int) -> None:
        has_room = self.schedule.has_room
        self._expire_retries(now_ns)
        while (call := self.retries.next(now_ns, has_room)) is not None:
            self.schedule.occupy(call)
            self._begin(call)
        while (call := self.keys.next(has_room)) is not None:
            self.schedule.occupy(call)
            if call.deadline_ns <= now_ns:
                self._expire(call)
                self.schedule.free(call)
            else:
                self._begin_with_care(call, now_ns)

    def _begin_with_care(self, call: OpenCall, now_ns: int) -> None:
        """It failed before, under another holder maybe, or has a key."""
        if call.retry_at_ns > now_ns:
            self.schedule.vacate(call)
            self.retries.park(call)
            return
        entry = Entry.OWNS if call.key is None else self.keys.enter(call)
        match entry:
            case Entry.OWNS:
                self._begin(call)
            case Entry.GRANTED:
                self._begin(call, is_keyed_now=True)
            case Entry.WAITS:
                self.schedule.vacate(call)
            case Entry.TAKEN:
                self.schedule.free(call)

    def _begin(self, call: OpenCall, *, is_keyed_now: bool = False) -> None:
        """Whatever was before, it may run now. A key that was noted just now has to be in the log first."""
        if self._effects.get(call.method, Effect.PURE) is Effect.ONCE:
            self._pen.note(Mark.CLAIMED, call)
        elif call.seq < self.taken_over_at and self.suspects.is_suspected(call):
            self._begin_suspect(call)
        elif is_keyed_now:
            self._to_start.add(call.call_id)
        else:
            self._starts.append(new_tuple(Start, (call, self.epoch)))

    def _begin_suspect(self, call: OpenCall) -> None:
        if self.suspects.is_poison(call):
            body = dead_letter_body(call, "poison", call.attempts)
            self._pen.note_dead(Mark.DEAD_LETTERED, call, body)
            self.schedule.free(call)
        elif self.suspects.begin(call):
            self._pen.note(Mark.ATTEMPTED, call)
        else:
            self.schedule.vacate(call)

    def _go(self, call: OpenCall, now_ns: int) -> None:
        """All that had to be in the log before it starts is there."""
        if call.cancel is None and call.deadline_ns > now_ns:
            self._starts.append(Start(call, self.epoch))
            return
        if call.cancel is not None:
            self._end_cancelled(call, had_turn=True)
        else:
            self._end_too_late(call)
        self._done(call)

    def _done(self, call: OpenCall) -> None:
        self.schedule.free(call)
        self.suspects.ended(call)

    # -- ends without a run -----------------------------------------------------------------------------

    def _cancel(self, call: OpenCall) -> None:
        if call.call_id in self._doubts:
            return  # should it be found that it did not run, it is not run any more
        call_id = call.call_id
        start = next((start for start in self._starts if start.call is call), None)
        if self.schedule.remove(call_id) is not None:
            self._end_cancelled(call)
        elif self.retries.withdraw(call_id) is not None:
            self._pen.note(Mark.CANCELLED, call, cancelled_body(call, started=True))
            self.schedule.release(call.resource)
        elif self.suspects.withdraw(call_id) is not None or self.keys.withdraw(call_id) is not None:
            self._end_cancelled(call)
            self.schedule.release(call.resource)
        elif start is not None:
            self._starts.remove(start)
            self._end_cancelled(call, had_turn=True)
            self._done(call)
        else:  # it runs, or what it waits for is being written, or it has come to its end
            self._cancels.append(call)

    def _end_cancelled(self, call: OpenCall, *, had_turn: bool = False) -> None:
        body = cancelled_body(call, started=self._may_have_begun(call))
        self._end_unbegun(Mark.CANCELLED, call, body, had_turn=had_turn)

    def _expire_retries(self, now_ns: int) -> None:
        for call in self.retries.expire(now_ns):
            self.schedule.release(call.resource)

    def _end_too_late(self, call: OpenCall) -> None:
        """Its deadline passed while it was on the point of starting."""
        is_once = self._effects.get(call.method) is Effect.ONCE
        if is_once and not (call.tries or call.is_requeued):
            self._end_unbegun(Mark.FAILED, call, CLAIMED_TOO_LATE, had_turn=True)
        else:
            self._expire(call, had_turn=True)

    def _expire(self, call: OpenCall, *, had_turn: bool = False) -> None:
        if call.tries or call.is_requeued:  # it stays with those who look after dead letters
            self.retries.give_up(call)
            return
        body = MAY_HAVE_STARTED if self._may_have_begun(call) else None
        self._end_unbegun(Mark.EXPIRED, call, body, had_turn=had_turn)

    def _end_unbegun(self, mark: Mark, call: OpenCall, body: bytes | None, *, had_turn: bool) -> None:
        """It ends, and this holder has not begun it. If nobody has, its key is free again. `had_turn`: it was
        granted its key here, and that may be in a segment by now.
        """
        if call.key is None or self._may_have_begun(call):
            self._pen.note(mark, call, body)
        else:
            may_own = had_turn or call.seq < self.taken_over_at
            self.keys.end(mark, call, body, may_own=may_own)

    def _may_have_begun(self, call: OpenCall) -> bool:
        """Starts of calls that are harmless to repeat are not in the log: a former holder may have begun."""
        if call.tries or call.is_requeued:
            return True
        return call.seq < self.taken_over_at and self._effects.get(call.method) is not Effect.ONCE


def _overloaded() -> bytes:
    return encode(
        ErrorInfo(
            code=OVERLOADED_CODE,
            message="its group has far more open calls than it can take on; it was turned away, not started",
            details={"retry_after_ms": RETRY_AFTER_MS},
        )
    )
