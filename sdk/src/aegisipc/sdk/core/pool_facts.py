"""What the log says of a pool's calls: the rule of what counts where many write, and a bounded memory of it.

A word that came late, and is about something else by then, changes nothing (see
:mod:`~aegisipc.eventstore.pool_naming`); an attempt counts if it has the next number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from aegisipc.eventstore.calls import counts
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import CLOSING, Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memories import Sessions
from aegisipc.eventstore.pool_naming import NAMING, Scheduled, Standing, is_about, number_in, scheduled_in
from aegisipc.eventstore.tuples import new_tuple

MAX_SEEN: Final = 200_000
"""Calls whose latest known fact is remembered, without its body; older ones are looked up in the log when
they are handed out again.
"""

_MOST_KEPT: Final = 16
"""How many calls in hand a single new one may find in the place of the oldest, and leave there."""

BESIDE: Final = frozenset({Mark.EXECUTED, Mark.EMITTED, Mark.CHECKED, Mark.KEYED, Mark.RELEASED})
"""Marks that say something beside the course of a call."""

CLOSED: Final = CLOSING | {Mark.DISCARDED}
"""Marks after which nothing is to be done about a call. Dead letters may come back."""

_FIRST: Final = frozenset(mark for mark in Mark if counts(None, mark)) - NAMING
"""What counts for a call of which nothing was said, whatever its body says."""

_MAY_BE_ATTEMPTED: Final = frozenset({None, Mark.RETRY_SCHEDULED, Mark.REQUEUED})


class Known(NamedTuple):
    """What counts for a call so far: the latest mark that moved it, who wrote that, and where.

    ``mark`` is ``None`` for a call of which nothing was said but that it was begun again. ``is_begun`` says
    that ``writer`` began it again alone, at ``seq``; ``attempts`` are the writers of all such attempts since
    it last came to an end. ``claimed_by`` is who claimed the call that is in doubt now. ``session`` tells
    which run of the writer it was (0: not known). ``tries`` is how many attempts failed by the retry policy,
    and ``due_ns`` when the next one is due. ``dead_seq`` is the dead letter from which it came back; of a
    discarded call, the dead letter that it is.
    """

    mark: Mark | None
    writer: str
    seq: int
    attempts: tuple[str, ...] = ()
    claimed_by: str = ""
    session: int = 0
    tries: int = 0
    due_ns: int = 0
    dead_seq: int = 0
    is_begun: bool = False

    @property
    def is_closed(self) -> bool:
        """Nothing is to be done about the call."""
        return self.mark in CLOSED

    @property
    def is_taken(self) -> bool:
        """The call is in the hands of ``writer``, as long as that one lives."""
        return self.mark is Mark.CLAIMED or self.is_begun

    @property
    def claim_seq(self) -> int:
        """Where the claim stands that counts now, 0 if there is none."""
        return self.seq if self.mark is Mark.CLAIMED else 0

    @property
    def standing(self) -> Standing:
        """What words about the call have to name."""
        return Standing(self.claim_seq, self.seq, self.dead_seq, self.tries)

    @property
    def told_seq(self) -> int:
        """Where the outcome stands that callers are told."""
        return self.dead_seq if self.mark is Mark.DISCARDED else self.seq


NOTHING: Final = Known(None, "", 0)
"""Of a call of which nothing was said."""


def after(
    before: Known | None, mark: Mark, body: bytes | None, writer: str, seq: int, session: int = 0
) -> Known | None:
    """Return what counts after an entry of a pen frame, or ``None`` if it does not count (or says something
    beside the call's course).
    """
    if before is None:
        if mark in _FIRST:  # as it mostly is
            first: Known = new_tuple(Known, (mark, writer, seq, (), "", session, 0, 0, 0, False))
            return first
        before = NOTHING
    if mark is Mark.ATTEMPTED:
        if before.mark not in _MAY_BE_ATTEMPTED or number_in(body) != len(before.attempts) + 1:
            return None
        attempts = (*before.attempts, writer)
        return before._replace(writer=writer, seq=seq, session=session, attempts=attempts, is_begun=True)
    if mark in BESIDE or not counts(before.mark, mark):
        return None
    if mark in NAMING and not is_about(before.standing, mark, body):
        return None
    now: Known = new_tuple(
        Known,
        (
            mark,
            writer,
            seq,
            before.attempts,
            "",
            session,
            before.tries,
            before.due_ns,
            before.dead_seq,
            False,
        ),
    )
    return _moved(before, now, body) if mark in NAMING else now


def _moved(before: Known, now: Known, body: bytes | None) -> Known:
    """Return what is known of a call now, beside what every mark says."""
    match now.mark:
        case Mark.IN_DOUBT:
            return now._replace(claimed_by=before.writer)
        case Mark.RETRY_SCHEDULED:
            said = scheduled_in(body) or Scheduled(before.tries + 1, 0, 0)
            return now._replace(attempts=(), tries=said.attempt, due_ns=said.due_ns)
        case Mark.REQUEUED:
            return now._replace(attempts=(), tries=0, due_ns=0, dead_seq=before.seq)
        case Mark.DISCARDED:
            return now._replace(dead_seq=before.seq)
    return now


# -- memory ---------------------------------------------------------------------------------------------


class PoolFacts:
    """The latest known fact of each call. Those of calls for which `is_held` is true are never forgotten."""

    def __init__(self, is_held: Callable[[CallId], bool]) -> None:
        self._is_held = is_held
        self._seen: OrderedDict[CallId, Known] = OrderedDict()
        self._sessions = Sessions()
        self._look_ups: list[LookUp] = []

    def get(self, call_id: CallId) -> Known | None:
        """Return what is known of a call."""
        return self._seen.get(call_id)

    def is_new(self, record: Record, writer: str, frame: PenFrame) -> bool:
        """Tell whether a followed frame is to be folded: not if it was stored twice."""
        if not self._sessions.is_new(record.subject, frame.session, frame.number):
            return False
        for look_up in self._look_ups:
            look_up.follow(record.seq, writer, record.subject, frame)
        return True

    def fold(
        self, call_id: CallId, mark: Mark, body: bytes | None, writer: str, seq: int, session: int
    ) -> Known | None:
        """Take in an entry of a followed frame; returns what counts now, ``None`` if the entry does not."""
        known = after(self._seen.get(call_id), mark, body, writer, seq, session)
        if known is not None:
            self.learn(call_id, known)
        return known

    def learn(self, call_id: CallId, known: Known) -> None:
        """Remember what is known of a call."""
        seen = self._seen
        seen[call_id] = known
        if len(seen) <= MAX_SEEN:
            return
        kept = 0
        while len(seen) > MAX_SEEN and kept < _MOST_KEPT:
            oldest, its = seen.popitem(last=False)
            if self._is_held(oldest):
                seen[oldest] = its
                kept += 1

    def look_up(self, wanted: AbstractSet[CallId], dead: Mapping[CallId, int] | None = None) -> LookUp:
        """Begin to look up calls in the log; ends with :meth:`finish`. `dead`: see :class:`LookUp`."""
        look_up = LookUp(frozenset(wanted), dead)
        self._look_ups.append(look_up)
        return look_up

    def finish(self, look_up: LookUp) -> dict[CallId, Known]:
        """End a look-up: what was followed while it was being read counts on top of it."""
        self._look_ups.remove(look_up)
        return look_up.result()


class LookUp:
    """One reading of pen frames for what they say of some calls, from a place before anything was said of
    them to the end of the log.

    A worker follows facts from where it began, so of older calls it knows only what counts by itself. What
    was read and what was followed meanwhile are put together here, each record once.

    ``dead`` are calls that were dead letters, by where that stands: of those it begins there. ``read_to`` is
    how far was read: before the worker has followed as far, it must not learn what comes of this, or it would
    fold older words on top of newer ones.
    """

    def __init__(self, wanted: frozenset[CallId], dead: Mapping[CallId, int] | None = None) -> None:
        self._wanted = wanted
        self._dead = dead or {}
        self._known: dict[CallId, Known] = {
            call_id: Known(Mark.DEAD_LETTERED, "", seq) for call_id, seq in self._dead.items()
        }
        self._sessions = Sessions()
        self.read_to = 0
        self._followed: list[tuple[int, str, str, PenFrame]] = []

    def read(self, record: Record, writer: str) -> Iterable[tuple[Mark, CallId, bytes | None]]:
        """Take in a record that was read; returns its entries about the wanted calls that count."""
        try:
            frame = decode_pen(record.payload)
        except MalformedPayload:
            return []  # nobody could read it when it was written, either
        self.read_to = record.seq
        return self._fold(record.seq, writer, record.subject, frame)

    def follow(self, seq: int, writer: str, subject: str, frame: PenFrame) -> None:
        """Take in a frame that was followed meanwhile."""
        if any(entry.call_id in self._wanted for entry in frame.entries):
            self._followed.append((seq, writer, subject, frame))

    def result(self) -> dict[CallId, Known]:
        """Return what counts now for those of the calls of which anything was said."""
        for seq, writer, subject, frame in self._followed:
            if seq > self.read_to:
                self._fold(seq, writer, subject, frame)
        self._followed.clear()
        return self._known

    def _fold(
        self, seq: int, writer: str, subject: str, frame: PenFrame
    ) -> list[tuple[Mark, CallId, bytes | None]]:
        counted: list[tuple[Mark, CallId, bytes | None]] = []
        if not self._sessions.is_new(subject, frame.session, frame.number):
            return counted
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            if call_id not in self._wanted or seq <= self._dead.get(call_id, 0):
                continue
            known = after(self._known.get(call_id), mark, body, writer, seq, frame.session)
            if known is not None:
                self._known[call_id] = known
                counted.append((mark, call_id, body))
        return counted
