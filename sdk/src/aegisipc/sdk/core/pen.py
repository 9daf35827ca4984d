"""What an instance writes about calls: facts, gathered into one frame at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import (
    ErrorInfo,
    Event,
    GroupHandoverCancelled,
    GroupHandoverStarted,
    GroupPromoted,
    UnknownEvent,
)
from aegisipc.eventstore.frames import (
    DEAD_MARKS,
    MAX_ENTRIES,
    NO_CALL,
    Mark,
    PenEntry,
    PenFrame,
    encode_pen,
)
from aegisipc.eventstore.log import Expect
from aegisipc.eventstore.subjects import DEAD, PEN
from aegisipc.eventstore.tuples import new_tuple

MAY_HAVE_STARTED: Final = encode(
    ErrorInfo(
        code="may_have_started",
        message="its deadline passed before it had an outcome; an instance that is gone may have begun it",
    )
)
"""Body of an ``EXPIRED`` fact for an idempotent or pure call whose start nobody can exclude: starts of such
are not logged.
"""

CLAIMED_TOO_LATE_CODE: Final = "claimed_too_late"
CLAIMED_TOO_LATE: Final = encode(
    ErrorInfo(
        code=CLAIMED_TOO_LATE_CODE,
        message="its deadline passed while its claim was being written; it was not started",
    )
)
"""Body of the ``FAILED`` fact of a ``once`` call whose claim became durable only after its deadline: whoever
claimed it knows that it never started, and callers are told that it expired. (``EXPIRED`` itself does not
count after a claim.)"""

NOBODYS_CALL: Final = OpenCall(NO_CALL, "", "", None, 0, 0, b"")
"""Stands in facts that are about no call."""

_GLUED: Final = frozenset({Mark.EMITTED, Mark.EXECUTED, Mark.KEYED, Mark.RELEASED})
"""What has to be in one frame with what follows it of the same call: both exist, or neither."""


class Identity(NamedTuple):
    """Who an instance is. ``incarnation`` and ``session`` tell this run from earlier ones of the same id."""

    service: str
    group: str
    instance: str
    incarnation: str
    session: int


def still_holds(latest: Event | UnknownEvent | None, who: Identity, epoch: int) -> bool:
    """Tell whether the pen is that instance's in that epoch, if this is the latest word on the fence."""
    match latest:
        case GroupPromoted():
            return (latest.holder, latest.incarnation, latest.epoch) == (who.instance, who.incarnation, epoch)
        case GroupHandoverStarted() | GroupHandoverCancelled():
            return latest.epoch == epoch
        case _:
            return False


class Fact(NamedTuple):
    """One entry for the pen: a mark for a call, with its encoded result or error."""

    mark: Mark
    call: OpenCall
    body: bytes | None


class Written(NamedTuple):
    """A record of the pen's holder on its way, and the fence it is written under (``None`` in a pool).

    ``facts`` is what a pen frame says; a snapshot of the group's state, or a segment of its keys, has none,
    and ``frame`` is ``None``. ``kind`` is that of the subject where it belongs.
    """

    payload: bytes
    record_id: str
    expect: Expect | None
    epoch: int
    frame: PenFrame | None
    facts: Sequence[Fact]
    kind: str = PEN


class Start(NamedTuple):
    """Run this call now, under this epoch."""

    call: OpenCall
    epoch: int


class Pen:
    """The facts that wait to be written, and the frame that is in flight. There is at most one."""

    __slots__ = ("_facts", "_has_dead", "_identity", "_max_frame_bytes", "_number", "in_flight", "last")

    def __init__(self, identity: Identity, max_frame_bytes: int) -> None:
        self._identity = identity
        self._max_frame_bytes = max_frame_bytes
        self._number = 0
        self._facts: deque[Fact] = deque()
        self._has_dead = False
        self.in_flight: Written | None = None
        self.last: Written | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._facts and self.in_flight is None

    def note(self, mark: Mark, call: OpenCall, body: bytes | None = None) -> None:
        """Add a fact; it goes out with the next frame."""
        self._facts.append(new_tuple(Fact, (mark, call, body)))

    def note_dead(self, mark: Mark, call: OpenCall, body: bytes | None) -> None:
        """Add a fact about a dead letter: its frame is stored apart."""
        self._has_dead = True
        self.note(mark, call, body)

    def next_frame(self, epoch: int, expect: Expect | None) -> Written | None:
        """Make the next frame, or return ``None``; it is in flight until :meth:`settled` is called."""
        if not self._facts or self.in_flight is not None:
            return None
        facts = self._take()
        self._number += 1
        who = self._identity
        frame = PenFrame(
            who.session,
            self._number,
            epoch,
            [new_tuple(PenEntry, (fact.mark, fact.call.call_id)) for fact in facts],
            [fact.body for fact in facts],
        )
        record_id = f"{who.session:x}.{who.instance}.{self._number}"
        kind = self._kind_of(facts) if self._has_dead else PEN
        self.in_flight = self.last = Written(encode_pen(frame), record_id, expect, epoch, frame, facts, kind)
        return self.in_flight

    def _kind_of(self, facts: list[Fact]) -> str:
        self._has_dead = any(fact.mark in DEAD_MARKS for fact in self._facts)
        return DEAD if any(fact.mark in DEAD_MARKS for fact in facts) else PEN

    def _take(self) -> list[Fact]:
        facts: list[Fact] = []
        size = 0
        while self._facts and len(facts) < MAX_ENTRIES:
            size += 32 + len(self._facts[0].body or b"")
            if facts and size > self._max_frame_bytes:
                break
            facts.append(self._facts.popleft())
        if self._facts:
            self._keep_together(facts)
        return facts

    def _keep_together(self, facts: list[Fact]) -> None:
        """What belongs to a fact that did not fit goes with it, into the next frame."""
        whole, after = len(facts), self._facts[0]
        while whole and _is_glued(facts[whole - 1], after):
            whole -= 1
            after = facts[whole]
        if whole:
            self._facts.extendleft(reversed(facts[whole:]))
            del facts[whole:]
            return
        while self._facts and _is_glued(
            facts[-1], self._facts[0]
        ):  # all of it is one call's: over the limit, but whole
            facts.append(self._facts.popleft())

    def send(self, written: Written) -> Written:
        """Another record of the holder goes out: pen frames wait for its fate."""
        self.in_flight = written
        return written

    @property
    def has_more(self) -> bool:
        """Facts wait for the next frame."""
        return bool(self._facts)

    def lost(self, folded_number: int) -> list[Fact]:
        """Return what will never be in the log when the pen goes elsewhere, and of the own frames those up to
        `folded_number` have been read back: what waits, and what is in flight and not among them.
        """
        flying = self.in_flight
        is_folded = flying is None or flying.frame is None or flying.frame.number <= folded_number
        return [*(() if is_folded or flying is None else flying.facts), *self._facts]

    def settled(self) -> None:
        """The fate of the frame in flight is known."""
        self.in_flight = None

    def recognise(self, payload: bytes) -> PenFrame | None:
        """Return the latest frame if `payload` is it: no need to decode what was just encoded."""
        return self.last.frame if self.last is not None and self.last.payload == payload else None

    @property
    def number(self) -> int:
        """Number of the latest frame."""
        return self._number

    def clear(self) -> None:
        """Drop everything: it must not be written any more."""
        self._facts.clear()
        self._has_dead = False
        self.in_flight = None


def _is_glued(fact: Fact, after: Fact) -> bool:
    return fact.mark in _GLUED and fact.call is after.call
