"""What an instance writes about calls: facts, gathered into one frame at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import ErrorInfo
from aegisipc.eventstore.frames import MAX_ENTRIES, Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.log import Expect
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


class Identity(NamedTuple):
    """Who an instance is. ``incarnation`` and ``session`` tell this run from earlier ones of the same id."""

    service: str
    group: str
    instance: str
    incarnation: str
    session: int


class Fact(NamedTuple):
    """One entry for the pen: a mark for a call, with its encoded result or error."""

    mark: Mark
    call: OpenCall
    body: bytes | None


class Written(NamedTuple):
    """A pen frame on its way, with what it says, and the fence it is written under (``None`` in a pool)."""

    payload: bytes
    record_id: str
    expect: Expect | None
    frame: PenFrame
    facts: Sequence[Fact]


class Start(NamedTuple):
    """Run this call now, under this epoch."""

    call: OpenCall
    epoch: int


class Pen:
    """The facts that wait to be written, and the frame that is in flight. There is at most one."""

    __slots__ = ("_facts", "_identity", "_max_frame_bytes", "_number", "in_flight", "last")

    def __init__(self, identity: Identity, max_frame_bytes: int) -> None:
        self._identity = identity
        self._max_frame_bytes = max_frame_bytes
        self._number = 0
        self._facts: deque[Fact] = deque()
        self.in_flight: Written | None = None
        self.last: Written | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._facts and self.in_flight is None

    def note(self, mark: Mark, call: OpenCall, body: bytes | None = None) -> None:
        """Add a fact; it goes out with the next frame."""
        self._facts.append(new_tuple(Fact, (mark, call, body)))

    def next_frame(self, epoch: int, expect: Expect | None) -> Written | None:
        """Make the next frame, or return ``None``; it is in flight until :meth:`settled` is called."""
        if not self._facts or self.in_flight is not None:
            return None
        facts: list[Fact] = []
        size = 0
        while self._facts and len(facts) < MAX_ENTRIES:
            size += 32 + len(self._facts[0].body or b"")
            if facts and size > self._max_frame_bytes:
                break
            facts.append(self._facts.popleft())
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
        self.in_flight = self.last = Written(encode_pen(frame), record_id, expect, frame, facts)
        return self.in_flight

    def settled(self) -> None:
        """The fate of the frame in flight is known."""
        self.in_flight = None

    def recognise(self, payload: bytes) -> PenFrame | None:
        """Return the latest frame if `payload` is it: no need to decode what was just encoded."""
        return self.last.frame if self.last is not None and self.last.payload == payload else None

    def clear(self) -> None:
        """Drop everything: it must not be written any more."""
        self._facts.clear()
        self.in_flight = None
