"""The log as rows, batch by batch: the fold of the whole system, and beside it what each record means for the
tables. Pure but for what it is given to begin with.

What a record means depends on nothing but the records up to it. So wherever the log is cut into batches, and
wherever the projector is stopped and started again, the tables come out the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aegisipc.eventstore.calls import Folded
from aegisipc.eventstore.frames import CLOSING, DEAD_MARKS, Mark, decode_calls
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.marks import state_after
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.replay.parameters import Parameters
from aegisipc.eventstore.sql.capture import Capture
from aegisipc.eventstore.sql.history import History, Op
from aegisipc.eventstore.sql.incidents import Entries, Incidents, entries_of, errors_in
from aegisipc.eventstore.sql.rows import (
    CallRow,
    Error,
    Standing,
    Texts,
    accepted_part,
    call_text,
    closed_standing,
    discarded,
    new_standing,
    open_standing,
    whole,
)
from aegisipc.eventstore.sql.texts import cut
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, HA, Place
from aegisipc.eventstore.system import SystemState

_NO_CAPTURE: Final = Capture()
_STATUS: Final = {mark: state_after(mark).value for mark in CLOSING}
_NO_ERRORS: Final[dict[tuple[CallId, Mark], Error]] = {}


class Level(StrEnum):
    """Which calls have rows. Doubts, dead letters, groups and instances always have theirs."""

    ALL = "all"
    FAILURES = "failures"
    """Those that ended otherwise than by success, or were in doubt, or dead letters."""
    OFF = "off"


@dataclass
class Batch:
    """What is to be written at once. ``position`` and ``position_ns`` are those of its last record;
    ``first_ns`` is the time of its first one, and ``records`` how many there are.
    """

    position: int = 0
    position_ns: int = 0
    first_ns: int = 0
    records: int = 0
    accepted: dict[CallId, CallRow] = field(default_factory=dict)
    requeued: dict[CallId, CallRow] = field(default_factory=dict)
    """Whole rows of dead letters that run again, for those that have none."""
    standings: dict[CallId, Standing] = field(default_factory=dict)
    discarded: list[str] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows it writes."""
        return len(self.standings) + len(self.discarded) + len(self.ops)

    def inserted(self) -> Iterator[CallRow]:
        """Iterate over the rows of calls that are new, whole."""
        standings = self.standings
        return (whole(part, standings[call_id]) for call_id, part in self.accepted.items())

    def updated(self) -> Iterator[CallRow]:
        """Iterate over the ids and new standings of calls that have rows already."""
        accepted = self.accepted
        return (
            (call_text(call_id), *standing)
            for call_id, standing in self.standings.items()
            if call_id not in accepted
        )


@dataclass
class Known:
    """What the tables say of open calls and the fold does not: which of them have rows (only needed at level
    *failures*), and when those in doubt had started.
    """

    stored: set[CallId] = field(default_factory=set)
    started_ns: dict[CallId, int] = field(default_factory=dict)


class Projection:
    """Folds records, and gathers what they mean for the tables until somebody takes it."""

    def __init__(
        self,
        state: SystemState,
        *,
        level: Level = Level.ALL,
        capture: Capture = _NO_CAPTURE,
        known: Known | None = None,
    ) -> None:
        self.state = state
        self.level = level
        self.batch = Batch(state.position, state.position_ns)
        known = known or Known()
        self._capture = capture
        self._stored = known.stored
        self._texts = Texts()
        self._started = dict(known.started_ns)
        doubted = {}
        for calls in state.calls.values():
            for call in calls.open.values():
                if call.state is CallState.STARTED:
                    self._started[call.call_id] = call.since_ns
                elif call.state is CallState.IN_DOUBT:
                    doubted[call.call_id] = call.said_seq
        self._incidents = Incidents(doubted)
        self._history = History(state.topology)

    def take(self) -> Batch:
        """Return what was gathered, and begin anew."""
        taken, self.batch = self.batch, Batch(self.state.position, self.state.position_ns)
        return taken

    def fold(self, record: Record) -> None:
        """Fold one record. Refuses nothing."""
        batch = self.batch
        if not batch.records:
            batch.first_ns = record.timestamp_ns
        batch.records += 1
        batch.position, batch.position_ns = record.seq, record.timestamp_ns
        effect = self.state.fold(record)
        place = effect.place
        if place is None:
            return
        if place.kind in CONCLUSIONS:
            self._concluded(record, place, effect.folded)
        elif place.kind == CALL:
            if effect.folded.opened:
                self._opened(record, place, effect.folded)
        elif place.kind == HA:
            batch.ops.extend(self._history.note(record, place, effect.event))

    # -- calls come in -----------------------------------------------------------------------------------

    def _opened(self, record: Record, place: Place, folded: Folded) -> None:
        if self.level is not Level.ALL:
            for call in folded.opened:  # an id that was used before, and is free again
                self._stored.discard(call.call_id)
            return
        arguments = self._arguments(record, place) if self._capture.arguments else {}
        service, group, client = cut(place.service), cut(place.group), cut(place.who)
        accepted, standings, texts = self.batch.accepted, self.batch.standings, self._texts
        for call in folded.opened:
            call_id = call.call_id
            accepted[call_id] = accepted_part(call, service, group, client, arguments.get(call_id), texts)
            standings[call_id] = new_standing(call)

    def _arguments(self, record: Record, place: Place) -> Mapping[CallId, str | None]:
        frame = decode_calls(record.payload)
        capture, known = self._capture, Parameters(self.state.topology).of_group(place.service, place.group)
        return {
            entry.call_id: capture.arguments_text(body, known(entry.method) if capture.redact else None)
            for entry, body in zip(frame.entries, frame.bodies, strict=True)
        }

    # -- what becomes of them ----------------------------------------------------------------------------

    def _concluded(self, record: Record, place: Place, folded: Folded) -> None:
        concluded = folded.concluded
        quiet = not (folded.reopened or folded.retrying or folded.discarded)
        if quiet and not concluded and not folded.claimed:
            return
        doubted = self._incidents.doubted
        if quiet and all(done[1][1] is Mark.SUCCEEDED and done[1][0] not in doubted for done in concluded):
            entries: Entries = entries_of(record) if self._capture.results and concluded else ()
            errors = _NO_ERRORS
        else:
            entries = self._redacted(entries_of(record))
            errors = errors_in(entries)
            self.batch.ops.extend(self._incidents.note(record, place, folded, entries, errors))
        if self.level is not Level.OFF:
            self._stand(record, place, folded, entries, errors)
            if folded.discarded:
                self._discard(place, folded, entries)

    def _discard(self, place: Place, folded: Folded, entries: Entries) -> None:
        """A frame may say more of such a call, and not all of that counts."""
        now = self.state.calls[place.service, place.group].open
        closed = {done.outcome.call_id for done in folded.concluded}
        again = {call.call_id for call in folded.reopened if call.call_id in closed}
        latest = {call_id: mark for mark, call_id, _ in entries if mark in DEAD_MARKS}
        for call_id in folded.discarded:
            standing = self.batch.standings.get(call_id)
            if standing is None:
                self.batch.discarded.append(call_text(call_id))
            elif call_id not in now and (call_id not in again or latest.get(call_id) is Mark.DISCARDED):
                self.batch.standings[call_id] = discarded(standing)

    def _stand(
        self,
        record: Record,
        place: Place,
        folded: Folded,
        entries: Entries,
        errors: dict[tuple[CallId, Mark], Error],
    ) -> None:
        """Outcomes first: what is open after all of the frame stands as it is then."""
        seq, at_ns, writer = record.seq, record.timestamp_ns, cut(place.who)
        started, everything = self._started, self.level is Level.ALL
        standings, texts = self.batch.standings, self._texts
        results = self._results(entries)
        for call in folded.claimed:
            started[call.call_id] = at_ns
        for call, (call_id, mark, _), _ in folded.concluded:
            if mark not in CLOSING:
                continue
            since_ns = started.pop(call_id, None)
            standing = closed_standing(
                call,
                _STATUS[mark],
                since_ns if call.claimed_by is not None else None,
                seq,
                at_ns,
                writer,
                errors.get((call_id, mark)),
                results.get(call_id) if mark is Mark.SUCCEEDED else None,
                texts,
            )
            if everything:
                standings[call_id] = standing
            else:
                self._stand_if_wanted(call, place, standing, wanted=mark is not Mark.SUCCEEDED)
                self._stored.discard(call_id)
        self._still_open(record, place, folded, errors)

    def _still_open(
        self, record: Record, place: Place, folded: Folded, errors: dict[tuple[CallId, Mark], Error]
    ) -> None:
        doubts = [done.call for done in folded.concluded if done.outcome.mark is Mark.IN_DOUBT]
        if not (folded.claimed or folded.reopened or folded.retrying or doubts):
            return
        now = self.state.calls[place.service, place.group].open
        if self.level is not Level.ALL:
            for call in folded.reopened:
                if now.get(call.call_id) is call:
                    self._keep(call, place)
        for calls, said in (
            (folded.claimed, None),
            (folded.reopened, None),
            (folded.retrying, Mark.RETRY_SCHEDULED),
            (doubts, Mark.IN_DOUBT),
        ):
            for touched in calls:
                current = now.get(touched.call_id)
                if current is not None:
                    fits = said is not None and current.state is state_after(said)  # the frame may go on
                    error = errors.get((current.call_id, said)) if said is not None and fits else None
                    self._stand_open(current, place, error, record.timestamp_ns)

    def _stand_open(self, call: OpenCall, place: Place, error: Error | None, at_ns: int) -> None:
        call_id = call.call_id
        if call.state is CallState.STARTED:
            self._started[call_id] = at_ns
        elif call.state is not CallState.IN_DOUBT:
            self._started.pop(call_id, None)
        standing = open_standing(call, self._started.get(call_id), error, self._texts)
        if self.level is Level.ALL:
            self.batch.standings[call_id] = standing
        else:
            self._stand_if_wanted(call, place, standing, wanted=call.state is CallState.IN_DOUBT)

    def _stand_if_wanted(self, call: OpenCall, place: Place, standing: Standing, *, wanted: bool) -> None:
        """At level *failures*: a call has a row from its first trouble on."""
        call_id = call.call_id
        if call_id not in self._stored:
            if not wanted:
                return
            self._stored.add(call_id)
            self.batch.accepted[call_id] = self._part(call, place)
        self.batch.standings[call_id] = standing

    def _keep(self, call: OpenCall, place: Place) -> None:
        """A call that runs again has a row, or gets one."""
        call_id, batch = call.call_id, self.batch
        if call_id not in self._stored:
            self._stored.add(call_id)
            if call_id not in batch.accepted:
                batch.requeued.setdefault(call_id, whole(self._part(call, place), new_standing(call)))

    def _part(self, call: OpenCall, place: Place) -> CallRow:
        return accepted_part(call, cut(place.service), cut(place.group), cut(call.client), None, self._texts)

    def _redacted(self, entries: Entries) -> Entries:
        """Errors, and what operators say, may hold what is to be left out, too."""
        redact = self._capture.redact
        return (
            [(mark, call_id, redact.body(mark, body)) for mark, call_id, body in entries]
            if redact
            else entries
        )

    def _results(self, entries: Entries) -> Mapping[CallId, str | None]:
        if not self._capture.results:
            return {}
        return {
            call_id: self._capture.result_text(body)
            for mark, call_id, body in entries
            if mark is Mark.SUCCEEDED
        }
