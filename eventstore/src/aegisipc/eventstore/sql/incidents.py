"""Doubts and dead letters as rows, and what outcomes other than success say of themselves.

Only frames that tell of such things come here: their bodies are read, which the fold does without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from aegisipc.eventstore.calls import Folded
from aegisipc.eventstore.frames import CLOSING, Mark, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.marks import state_after
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.pool_naming import said_in
from aegisipc.eventstore.sql.history import Op, Row
from aegisipc.eventstore.sql.rows import Error, call_text
from aegisipc.eventstore.sql.texts import KEY, TEXT, WORD, big, cut, cut_or_none, small
from aegisipc.eventstore.subjects import Place

_UNTOLD: Final = frozenset({Mark.SUCCEEDED, Mark.DUPLICATE})
"""Outcomes whose bodies are no errors."""

type Entries = Sequence[tuple[Mark, CallId, bytes | None]]


def entries_of(record: Record) -> Entries:
    """Return what a pen frame says, with the bodies. It was folded before: it can be read."""
    frame = decode_pen(record.payload)
    return [(mark, call_id, body) for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True)]


def errors_in(entries: Entries) -> dict[tuple[CallId, Mark], Error]:
    """Return the errors in a frame: of outcomes, and of attempts that failed."""
    found: dict[tuple[CallId, Mark], Error] = {}
    for mark, call_id, body in entries:
        if body is None or mark in _UNTOLD:
            continue
        said = said_in(body)
        if mark is Mark.RETRY_SCHEDULED and isinstance(said, dict):
            said = said.get("error")
        match said:
            case {"code": str(code), "message": str(message)}:
                found[call_id, mark] = cut(code), cut(message, TEXT)
    return found


class Incidents:
    """Makes the rows of doubts and dead letters. ``doubted`` holds the calls in doubt, and where each doubt
    stands in the log.
    """

    def __init__(self, doubted: dict[CallId, int]) -> None:
        self.doubted = doubted

    def note(
        self,
        record: Record,
        place: Place,
        folded: Folded,
        entries: Entries,
        errors: dict[tuple[CallId, Mark], Error],
    ) -> Iterator[Op]:
        """Iterate over the rows that a frame leads to, in the order of what it says; to be taken whole."""
        outcomes = {(done.call.call_id, done.outcome.mark): done.call for done in folded.concluded}
        reopened = {call.call_id: call for call in folded.reopened}
        discarded = set(folded.discarded)
        executed: dict[CallId, bytes | None] = {}
        for mark, call_id, body in entries:
            call = outcomes.get((call_id, mark))
            if mark is Mark.EXECUTED and call_id in self.doubted:
                executed[call_id] = body
            elif mark is Mark.IN_DOUBT and call is not None:
                self.doubted[call_id] = record.seq
                yield Op("doubt", _doubt_row(record, place, call))
            elif mark is Mark.NOT_EXECUTED and call_id in reopened and call_id in self.doubted:
                yield self._resolved(record, call_id, "not_executed", body)
            elif mark in CLOSING and call is not None:
                if call_id in self.doubted:
                    how = "executed" if call_id in executed else state_after(mark).value
                    yield self._resolved(record, call_id, how, executed.pop(call_id, None))
                if mark is Mark.DEAD_LETTERED:
                    yield Op("dead_letter", _letter_row(record, place, call, errors.get((call_id, mark))))
            elif (mark is Mark.REQUEUED and call_id in reopened) or (
                mark is Mark.DISCARDED and call_id in discarded
            ):
                yield Op("dealt_with", _dealt(record, call_id, mark, body))

    def _resolved(self, record: Record, call_id: CallId, how: str, body: bytes | None) -> Op:
        said = _fields(body)
        row = {
            "key_call_id": call_text(call_id),
            "key_seq": self.doubted.pop(call_id),
            "resolved_seq": record.seq,
            "resolved_ns": record.timestamp_ns,
            "resolution": how,
            "source": cut_or_none(_text(said, "source"), WORD),
            "author": cut_or_none(_text(said, "author")),
            "reason": cut_or_none(_text(said, "reason"), TEXT),
        }
        return Op("doubt_resolved", row)


def _of_call(record: Record, place: Place, call: OpenCall) -> Row:
    return {
        "call_id": call_text(call.call_id),
        "seq": record.seq,
        "at_ns": record.timestamp_ns,
        "service": cut(place.service),
        "group_name": cut(place.group),
        "method": cut(call.method),
        "resource": cut_or_none(call.resource, KEY),
        "client": cut(call.client),
    }


def _doubt_row(record: Record, place: Place, call: OpenCall) -> Row:
    return _of_call(record, place, call) | {
        "claimed_by": cut_or_none(call.claimed_by),
        "claimed_epoch": big(call.claimed_epoch) if call.claimed_by else None,
        "resolved_seq": None,
        "resolved_ns": None,
        "resolution": None,
        "source": None,
        "author": None,
        "reason": None,
    }


def _letter_row(record: Record, place: Place, call: OpenCall, error: Error | None) -> Row:
    reason, message = error or ("", "")
    return _of_call(record, place, call) | {
        "reason": reason,
        "message": message,
        "tries": small(call.tries),
        "attempts": small(call.attempts),
        "state": "dead_lettered",
        "dealt_seq": None,
        "dealt_ns": None,
        "dealt_by": None,
    }


def _dealt(record: Record, call_id: CallId, mark: Mark, body: bytes | None) -> Row:
    return {
        "key_call_id": call_text(call_id),
        "state": mark.name.lower(),
        "dealt_seq": record.seq,
        "dealt_ns": record.timestamp_ns,
        "dealt_by": cut_or_none(_text(_fields(body), "author")),
    }


def _fields(body: bytes | None) -> dict[Any, Any]:
    said = said_in(body)
    return said if isinstance(said, dict) else {}


def _text(said: dict[Any, Any], name: str) -> str | None:
    found = said.get(name)
    return found if isinstance(found, str) else None
