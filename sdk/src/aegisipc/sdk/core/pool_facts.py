"""What the log says of a pool's calls: the rule of what counts where many write, and a bounded memory of it.

Who writes decides on what was read a moment ago, and a frame may be under way for long. So what could do harm
when it comes late names what it is about: an attempt its number, a doubt the claim, a resolution the doubt. A
record that is about something else by then changes nothing for any worker. (Readers that look at marks alone
may show such a call as in doubt, or as accepted, for a while; they come to the same outcome.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.calls import Sessions, counts
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import CodecError, MalformedPayload
from aegisipc.eventstore.events import ErrorInfo, Resolution
from aegisipc.eventstore.frames import Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.tuples import new_tuple

MAX_SEEN: Final = 200_000
"""Calls whose latest known fact is remembered, without its body; older ones are looked up in the log when
they are handed out again.
"""

_MOST_KEPT: Final = 16
"""How many calls in hand a single new one may find in the place of the oldest, and leave there."""

BESIDE: Final = frozenset({Mark.EXECUTED, Mark.EMITTED, Mark.CHECKED})
"""Marks that say something beside the course of a call; an outcome follows the first two at once."""

FINAL: Final = frozenset({Mark.SUCCEEDED, Mark.FAILED, Mark.EXPIRED, Mark.DEAD_LETTERED})


_FIRST: Final = frozenset(mark for mark in Mark if counts(None, mark))
"""What counts for a call of which nothing was said."""


class Known(NamedTuple):
    """What counts for a call so far: the latest mark that moved it, who wrote that, and where.

    ``mark`` is ``None`` for a call that nothing was said of but that it was begun again; then ``writer`` and
    ``seq`` are those of the latest attempt. ``attempts`` are the writers of all of them, ``claimed_by`` is
    who claimed the call that is in doubt now. ``session`` tells which run of the writer it was (0: not
    known).
    """

    mark: Mark | None
    writer: str
    seq: int
    attempts: tuple[str, ...] = ()
    claimed_by: str = ""
    session: int = 0

    @property
    def is_final(self) -> bool:
        """Nothing more can happen to the call."""
        return self.mark in FINAL

    @property
    def is_taken(self) -> bool:
        """The call is in the hands of ``writer``, as long as that one lives."""
        return self.mark is Mark.CLAIMED or (self.mark is None and bool(self.attempts))


def after(
    before: Known | None, mark: Mark, body: bytes | None, writer: str, seq: int, session: int = 0
) -> Known | None:
    """Return what counts after an entry of a pen frame, or ``None`` if it does not count (or says something
    beside the call's course).
    """
    if before is None and mark in _FIRST:  # as it mostly is
        first: Known = new_tuple(Known, (mark, writer, seq, (), "", session))
        return first
    attempts = before.attempts if before is not None else ()
    latest = before.mark if before is not None else None
    if mark is Mark.ATTEMPTED:
        is_next = latest is None and _number(body) == len(attempts) + 1
        return Known(None, writer, seq, (*attempts, writer), "", session) if is_next else None
    if before is None or mark in BESIDE or not counts(latest, mark):
        return None
    if mark is Mark.IN_DOUBT:
        is_of_this = _named(body, _claim_in) in (0, before.seq)
        return Known(mark, writer, seq, attempts, before.writer, session) if is_of_this else None
    if mark is Mark.NOT_EXECUTED and _named(body, _doubt_in) not in (0, before.seq):
        return None
    return Known(mark, writer, seq, attempts, "", session)


# -- bodies of marks ------------------------------------------------------------------------------------


def attempt_body(number: int) -> bytes:
    """Return the body of an ``ATTEMPTED`` fact: it counts if it is the next one."""
    return encode(number)


def doubt_body(claim: Known, fate: str) -> bytes:
    """Return the body of an ``IN_DOUBT`` fact: whose claim it is about, and what became of that one."""
    return encode(
        ErrorInfo(
            code="in_doubt",
            message=f"{claim.writer} claimed it and {fate}; whether it ran cannot be told from the log",
            details={"claimed_by": claim.writer, "claimed_seq": claim.seq, "fate": fate},
        )
    )


def dead_letter_body(attempts: Sequence[str]) -> bytes:
    """Return the body of a ``DEAD_LETTERED`` fact."""
    return encode(
        ErrorInfo(
            code="dead_lettered",
            message=f"every instance that began it again alone was gone before it had an outcome: "
            f"{', '.join(attempts)}; it is not begun any more",
            details={"attempts": len(attempts), "instances": list(attempts)},
        )
    )


def _number(body: bytes | None) -> int:
    try:
        number = decode(body or b"")
    except CodecError:
        return 0
    return number if type(number) is int else 0


def _named(body: bytes | None, named_in: Callable[[Any], Any]) -> int:
    """Return the sequence that a body names, 0 if it names none."""
    if body is None:
        return 0
    try:
        seq = named_in(decode(body))
    except (CodecError, LookupError, TypeError):
        return 0
    return seq if type(seq) is int else 0


def _claim_in(error: Any) -> Any:
    return error["details"]["claimed_seq"]


def _doubt_in(resolution: Any) -> Any:
    return resolution["doubt_seq"]


def resolution_body(resolution: Resolution, doubt: Known | None) -> bytes:
    """Return the body of an ``EXECUTED`` or ``NOT_EXECUTED`` fact about this doubt."""
    return encode(resolution.model_copy(update={"doubt_seq": doubt.seq if doubt is not None else 0}))


def evidence_of(instance: str, doubt: Known | None) -> bytes:
    """Return the body of an ``EXECUTED`` fact of the worker that ran the call itself, and is late. `doubt` is
    ``None`` if it cannot know any more whether there is one.
    """
    reason = "it had claimed the call, was taken for gone, and ran it to its end"
    return resolution_body(Resolution(source="evidence", author=instance, reason=reason), doubt)


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

    def look_up(self, wanted: Collection[CallId]) -> LookUp:
        """Begin to look up calls in the log; ends with :meth:`finish`."""
        look_up = LookUp(frozenset(wanted))
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
    """

    def __init__(self, wanted: frozenset[CallId]) -> None:
        self._wanted = wanted
        self._known: dict[CallId, Known] = {}
        self._sessions = Sessions()
        self._read_to = 0
        self._followed: list[tuple[int, str, str, PenFrame]] = []

    def read(self, record: Record, writer: str) -> Iterable[tuple[Mark, CallId, bytes | None]]:
        """Take in a record that was read; returns its entries about the wanted calls that count."""
        try:
            frame = decode_pen(record.payload)
        except MalformedPayload:
            return []  # nobody could read it when it was written, either
        self._read_to = record.seq
        return self._fold(record.seq, writer, record.subject, frame)

    def follow(self, seq: int, writer: str, subject: str, frame: PenFrame) -> None:
        """Take in a frame that was followed meanwhile."""
        if any(entry.call_id in self._wanted for entry in frame.entries):
            self._followed.append((seq, writer, subject, frame))

    def result(self) -> dict[CallId, Known]:
        """Return what counts now for those of the calls of which anything was said."""
        for seq, writer, subject, frame in self._followed:
            if seq > self._read_to:
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
            if call_id not in self._wanted:
                continue
            known = after(self._known.get(call_id), mark, body, writer, seq, frame.session)
            if known is not None:
                self._known[call_id] = known
                counted.append((mark, call_id, body))
        return counted
