"""The recount: what happened, from the log alone.

It reads every call frame and every pen frame of the namespace, those about dead letters included, and counts
with code of its own; it shares neither memory with the clients nor folds with the services, only the format
of a frame. So it can disagree with them, and that is its purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from aegisipc.eventstore.codec import decode, type_codec
from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.events import GroupPromoted, GroupVacated, decode_event
from aegisipc.eventstore.frames import OUTCOMES, Mark, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.log import BEGINNING, Log, Record, Start
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, GROUP_WHO, HA, Place, Subjects
from examples.demo.tally import ANSWERED, Ending, Seen

ENDING_OF: Final = {
    Mark.SUCCEEDED: Ending.SUCCEEDED,
    Mark.FAILED: Ending.FAILED,
    Mark.EXPIRED: Ending.EXPIRED,
    Mark.IN_DOUBT: Ending.IN_DOUBT,
    Mark.DEAD_LETTERED: Ending.DEAD_LETTERED,
    Mark.CANCELLED: Ending.CANCELLED,
}
"""A duplicate ends like the call that it repeats."""

_MAX_SHOWN: Final = 5
_MAX_LINKS: Final = 8


@dataclass(slots=True)
class Traced:
    """One call as the log tells it. A doubt and its resolution are one conclusion: the resolution counts."""

    target: str
    seq: int
    claims: int = 0
    may_claim: int = 1
    """One claim, and one more whenever the call may be begun again: it was found not to have been executed,
    its attempt failed and another one is due, or an operator had a dead letter requeued.
    """
    conclusions: int = 0
    was_doubted: bool = False
    resolved: Mark | None = None
    """How the latest doubt ended: ``EXECUTED`` or ``NOT_EXECUTED``."""
    mark: Mark | None = None
    body: bytes | None = None
    claim_seq: int = 0
    """Where the claim stands under which it runs, 0 for none."""
    letter_seq: int = 0
    """Where the latest word stands that it is given up."""
    dead_seq: int = 0
    """The dead letter from which it came back, 0 for none."""


@dataclass
class Recount:
    """Everything counted so far; :meth:`add` takes the next record."""

    calls: dict[CallId, Traced] = field(default_factory=dict)
    frames: int = 0
    frames_stored_twice: int = 0
    frames_unreadable: int = 0
    accepted_twice: int = 0
    strays: int = 0
    """Claims and conclusions of calls that the log does not hold before them."""
    frames_fenced: int = 0
    """Frames of one who did not hold the pen any more. The server must refuse them."""
    _holders: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict, repr=False)
    _numbers: set[tuple[str, int, int]] = field(default_factory=set, repr=False)

    def add(self, record: Record, subjects: Subjects) -> None:
        """Count one record; those that are no frames of calls or outcomes are passed over."""
        try:
            place = subjects.parse(record.subject)
            if place.kind == CALL:
                self._add_calls(record, place.service)
            elif place.kind in CONCLUSIONS:
                self._add_facts(record, place)
            elif place.kind == HA and place.who == GROUP_WHO:
                self._add_decision(record, place)
        except MalformedPayload:
            self.frames_unreadable += 1

    def _add_calls(self, record: Record, service: str) -> None:
        frame = decode_calls(record.payload, bodies=False)
        if not self._is_new(record.subject, frame.session, frame.number):
            return
        for entry in frame.entries:
            if entry.call_id in self.calls:  # in a pool, a dead letter comes back in a frame of its own
                self.accepted_twice += entry.options is None or entry.options.requeue is None
            else:
                self.calls[entry.call_id] = Traced(f"{service}.{entry.method}", record.seq)

    def _add_facts(self, record: Record, place: Place) -> None:
        frame = decode_pen(record.payload)
        if not self._is_new(record.subject, frame.session, frame.number):
            return
        holder = self._holders.get((place.service, place.group))
        if place.group != POOL_GROUP and (place.who, frame.epoch) != holder:
            self.frames_fenced += 1
            return
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            call = self.calls.get(call_id)
            if call is not None:
                if place.group != POOL_GROUP or _is_about_this(call, mark, body):
                    _add_fact(call, mark, body, record.seq)
            elif mark is not Mark.CHECKED:  # that one is about no call
                self.strays += 1

    def _add_decision(self, record: Record, place: Place) -> None:
        match decode_event(record.payload):
            case GroupPromoted() as promoted:
                self._holders[place.service, place.group] = (promoted.holder, promoted.epoch)
            case GroupVacated():
                self._holders.pop((place.service, place.group), None)

    def _is_new(self, subject: str, session: int, number: int) -> bool:
        """A frame that was sent again and stored twice is one frame: readers take its first copy."""
        self.frames += 1
        key = (subject, session, number)
        if key in self._numbers:
            self.frames_stored_twice += 1
            return False
        self._numbers.add(key)
        return True

    def answer_to(self, call: Traced) -> Traced:
        """Return the call whose outcome is this one's: its own, unless it has the key of an earlier one."""
        for _ in range(_MAX_LINKS):
            first = self.calls.get(call.body or b"") if call.mark is Mark.DUPLICATE else None
            if first is None:
                break
            call = first
        return call

    @property
    def endings(self) -> Counter[Ending]:
        """How many calls ended how."""
        marks = (self.answer_to(call).mark for call in self.calls.values())
        return Counter(ENDING_OF[mark] for mark in marks if mark in ENDING_OF)

    @property
    def codes(self) -> Counter[str]:
        """How many calls failed with which error."""
        ends = (self.answer_to(call) for call in self.calls.values())
        return Counter(error_code(call) for call in ends if call.mark is Mark.FAILED)

    @property
    def lost(self) -> list[CallId]:
        """Calls without any outcome."""
        return [call_id for call_id, call in self.calls.items() if self.answer_to(call).mark not in ENDING_OF]

    @property
    def duplicates(self) -> list[CallId]:
        """Calls with more than one conclusion."""
        return [call_id for call_id, call in self.calls.items() if call.conclusions > 1]

    @property
    def started_twice(self) -> list[CallId]:
        """Calls that were claimed more often than they might be: once, and again if they had not run."""
        return [call_id for call_id, call in self.calls.items() if call.claims > call.may_claim]

    @property
    def doubted(self) -> dict[CallId, Traced]:
        """Calls that were in doubt, whatever became of the doubt."""
        return {call_id: call for call_id, call in self.calls.items() if call.was_doubted}


def _is_about_this(call: Traced, mark: Mark, body: bytes | None) -> bool:
    """In a pool many write. A word that comes late may be about another claim, or another dead letter."""
    if mark not in (Mark.CANCELLED, Mark.DEAD_LETTERED, Mark.RETRY_SCHEDULED):
        return True
    try:
        said = decode(body or b"")
        if mark is Mark.RETRY_SCHEDULED:
            return bool(said["claimed_seq"] == call.claim_seq)
        named = said["details"].get("claimed_seq", 0), said["details"].get("dead_seq", 0)
    except (AegisError, KeyError, TypeError, AttributeError):
        return False
    return named == (call.claim_seq, call.dead_seq)


def _add_fact(call: Traced, mark: Mark, body: bytes | None, seq: int = 0) -> None:
    if mark is Mark.CLAIMED:
        call.claims += 1
        call.claim_seq = call.claim_seq or seq
    elif mark in (Mark.EXECUTED, Mark.NOT_EXECUTED):
        call.resolved = mark
        if mark is Mark.NOT_EXECUTED:
            call.may_claim += 1
            call.mark, call.claim_seq = None, 0
    elif mark is Mark.RETRY_SCHEDULED:
        call.may_claim, call.claim_seq = call.claims + 1, 0
    elif mark is Mark.REQUEUED:
        if call.mark is Mark.DEAD_LETTERED:
            call.mark = call.body = None
            call.conclusions -= 1
            call.may_claim = call.claims + 1
            call.claim_seq, call.dead_seq = 0, call.letter_seq
    elif mark in OUTCOMES:
        call.conclusions += mark is not Mark.IN_DOUBT
        call.was_doubted |= mark is Mark.IN_DOUBT
        if call.mark in (None, Mark.IN_DOUBT):  # otherwise the first one counts
            call.mark, call.body = mark, body
            call.letter_seq = seq if mark is Mark.DEAD_LETTERED else call.letter_seq


async def recount(log: Log, subjects: Subjects, start: Start = BEGINNING) -> Recount:
    """Read the log from `start` to its end and count."""
    counted = Recount()
    async for record in log.read([subjects.everything], start=start):
        counted.add(record, subjects)
    return counted


def error_code(call: Traced) -> str:
    """Return the code of the error that a failed call has in the log."""
    try:
        return str(decode(call.body or b"")["code"])
    except (AegisError, KeyError, TypeError):
        return "unreadable"


def differences(
    counted: Recount, seen: Iterable[Seen], results: Mapping[str, type | Any]
) -> tuple[int, list[str]]:
    """Compare what clients saw with the log: how many calls differ, and the first few in words.

    `results` are the types by which the clients read results, per method. A call that got no answer differs,
    too, as does one that only the log knows: no client may miss anything.
    """
    found: list[str] = []
    known: set[CallId] = set()
    for one in seen:
        if one.ending is Ending.NOT_ACCEPTED:
            continue
        known.add(one.call_id)
        why = _difference(counted, one, results)
        if why:
            found.append(f"{one.target} {format_call_id(one.call_id)}: {why}")
    found += [
        f"{call.target} {format_call_id(call_id)}: it is in the log, but no client made it"
        for call_id, call in counted.calls.items()
        if call_id not in known
    ]
    return len(found), found[:_MAX_SHOWN]


def _difference(counted: Recount, seen: Seen, results: Mapping[str, type | Any]) -> str:
    found = counted.calls.get(seen.call_id)
    call = None if found is None else counted.answer_to(found)
    if call is None or call.mark not in ENDING_OF:
        what = "the log does not hold it" if call is None else "the log has no outcome"
        return f"its caller saw {seen.ending}, but {what}" if seen.ending in ANSWERED else ""
    recorded = ENDING_OF[call.mark]
    if seen.ending is Ending.IN_DOUBT and call.was_doubted:
        return ""  # that was the outcome then, whatever became of the doubt
    if recorded is not seen.ending:
        return f"its caller saw {seen.ending}, the log says {recorded}"
    if recorded is Ending.FAILED and error_code(call) != seen.code:
        return f"its caller saw the error {seen.code}, the log says {error_code(call)}"
    return _other_result(call, seen, results) if recorded is Ending.SUCCEEDED else ""


def _other_result(call: Traced, seen: Seen, results: Mapping[str, type | Any]) -> str:
    try:
        result = type_codec(results[seen.target]).decode(call.body or b"")
    except (AegisError, ValidationError, KeyError) as error:
        return f"the log's result cannot be read: {type(error).__name__}"
    return "" if result == seen.value else "its caller saw another result than the log holds"
