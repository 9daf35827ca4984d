"""Dead letters as the log tells them: read from the records that are about them, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload, UnknownCall
from aegisipc.eventstore.frames import DEAD_MARKS, Mark, decode_pen
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Log, Record, Start
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.seeking import find_call
from aegisipc.eventstore.subjects import DEAD, Subjects
from aegisipc.router.cli.stories import said_in

type Plain = dict[str, Any]


class DeadLetter(NamedTuple):
    """A call that was given up, and has neither been requeued nor discarded since. ``says`` is the error in
    the log, decoded.
    """

    call_id: CallId
    service: str
    group: str
    seq: int
    at_ns: int
    writer: str
    says: Mapping[str, Any]

    def detail(self, name: str) -> Any:
        """Return one of the details of the error, ``None`` if it has none of that name."""
        details = self.says.get("details")
        return details.get(name) if isinstance(details, Mapping) else None

    @property
    def error(self) -> Mapping[str, Any]:
        """What its last attempt failed with; empty for a call that took its instances down."""
        error = self.detail("error")
        return error if isinstance(error, Mapping) else {}

    @property
    def method(self) -> str:
        """The name of its method, with the service's."""
        return f"{self.service}.{self.detail('method') or '?'}"

    def to_plain(self) -> Plain:
        """Return everything as plain data."""
        return {
            "call_id": format_call_id(self.call_id),
            "service": self.service,
            "group": self.group,
            "method": self.detail("method"),
            "resource": self.detail("resource"),
            "client": self.detail("client"),
            "reason": self.detail("reason"),
            "attempts": self.detail("attempts"),
            "error": dict(self.error) or None,
            "stack": self.detail("stack") or [],
            "message": self.says.get("message"),
            "seq": self.seq,
            "since": format_time(self.at_ns),
            "given_up_by": self.writer,
        }


class Wanted(NamedTuple):
    """Which dead letters are meant; ``None`` means any. ``reason`` is one of attempts, deadline, poison."""

    service: str | None = None
    group: str | None = None
    method: str | None = None
    reason: str | None = None
    error: str | None = None

    def fits(self, letter: DeadLetter) -> bool:
        """Tell whether a dead letter is meant."""
        known = (letter.detail("method"), letter.detail("reason"), letter.error.get("code"))
        wanted = (self.method, self.reason, self.error)
        return all(want is None or want == have for want, have in zip(wanted, known, strict=True))


async def read_dead_letters(log: Log, subjects: Subjects, wanted: Wanted) -> list[DeadLetter]:
    """Return the dead letters that are meant, oldest first.

    Raises:
        AegisError: the log cannot be read now.
    """
    letters: dict[CallId, DeadLetter] = {}
    filter_ = subjects.of_kind(wanted.service or "*", wanted.group or "*", DEAD)
    async for record in log.read([filter_]):
        _fold(letters, record, subjects)
    meant = [letter for letter in letters.values() if wanted.fits(letter)]
    return [letter for letter in meant if letter.group != POOL_GROUP or await _counts(log, subjects, letter)]


def _fold(letters: dict[CallId, DeadLetter], record: Record, subjects: Subjects) -> None:
    try:
        place, frame = subjects.parse(record.subject), decode_pen(record.payload)
    except MalformedPayload:
        return
    for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
        if mark not in DEAD_MARKS:
            continue
        if mark is not Mark.DEAD_LETTERED:
            letters.pop(call_id, None)
        elif call_id not in letters:
            said = said_in(body)
            letters[call_id] = DeadLetter(
                call_id,
                place.service,
                place.group,
                record.seq,
                record.timestamp_ns,
                place.who,
                said if isinstance(said, dict) else {},
            )


async def _counts(log: Log, subjects: Subjects, letter: DeadLetter) -> bool:
    """In a pool many write: tell whether the word that it is given up was the first one about its end."""
    try:
        history = CallHistory(subjects, await find_call(log, subjects, letter.call_id))
    except UnknownCall:
        return False
    async for record in log.read(history.subjects, start=Start(history.call.seq + 1)):
        if record.seq > letter.seq:
            break
        history.apply(record)
    return history.state is CallState.DEAD_LETTERED
