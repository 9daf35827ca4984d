"""What became of the calls of a group when its pen changed hands: who had begun which, which were in doubt
and how each of them ended, the first outcome of the new holder, and what the former one wrote too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.calls import NOTHING
from aegisipc.eventstore.checkpoints import OnSkip
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import CLOSING, Mark, PenFrame, decode_pen
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.replay.reason_reading import Turn, bounded
from aegisipc.eventstore.replay.reason_steps import Plain, body_of
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.subjects import CONCLUSIONS
from aegisipc.eventstore.system import Effect, SystemState

MAX_FATES: Final = 1000
"""Calls in doubt that are followed to their end, the oldest ones; the others are counted."""

MAX_LATE: Final = 20
_LATE_AFTER_RESTART_NS: Final = 60_000_000_000
_MAY_HAVE_RUN: Final = frozenset({CallState.STARTED, CallState.IN_DOUBT})
_RESOLVED: Final = frozenset({Mark.EXECUTED, Mark.NOT_EXECUTED})


class Word(NamedTuple):
    """One thing that was said of a call: where, when, what, by whom. ``said`` is the body, if it is a map."""

    seq: int
    at_ns: int
    mark: Mark
    writer: str
    said: Plain

    def to_plain(self) -> Plain:
        """Return it as plain data, without results."""
        return {
            "seq": self.seq,
            "at_ns": self.at_ns,
            "what": self.mark.name.lower(),
            "by": self.writer,
            **{key: self.said[key] for key in ("source", "author", "reason") if key in self.said},
        }


@dataclass(slots=True)
class Fate:
    """A call that the former holder had begun, and what became of it."""

    call_id: CallId
    method: str
    resource: str | None
    client: str
    claimed_by: str
    claimed_epoch: int
    claim_seq: int
    claimed_ns: int
    doubt: Word | None = None
    evidence: Word | None = None
    resolution: Word | None = None
    end: Word | None = None

    @property
    def is_settled(self) -> bool:
        """It has its outcome."""
        return self.end is not None

    def to_plain(self) -> Plain:
        """Return it as plain data."""
        words = ("doubt", "evidence", "resolution", "end")
        told = {name: getattr(self, name) for name in words}
        return {
            "call_id": format_call_id(self.call_id),
            "method": self.method,
            "resource": self.resource,
            "client": self.client,
            "claimed_by": self.claimed_by,
            "claimed_epoch": self.claimed_epoch,
            "claim_seq": self.claim_seq or None,
            **{name: word.to_plain() if word is not None else None for name, word in told.items()},
        }


@dataclass
class Aftermath:
    """The calls of a group from a change of its pen on."""

    open: int = 0
    """Calls without an outcome at the change."""
    may_have_run: int = 0
    """Those of them that were claimed: begun, and not to be run twice. Of others the log does not tell."""
    again: list[OpenCall] = field(default_factory=list)
    """Those that were begun alone, because they may have taken instances down, without an outcome."""
    fates: dict[CallId, Fate] = field(default_factory=dict)
    first: Word | None = None
    """The first outcome after the change."""
    first_call: OpenCall | None = None
    late: list[tuple[Record, PenFrame]] = field(default_factory=list)
    """Frames of the former holder that came after the change, and do not count."""
    late_frames: int = 0
    late_words: int = 0

    @property
    def is_over(self) -> bool:
        """Nothing that could come adds to it."""
        return self.first is not None and all(fate.is_settled for fate in self.fates.values())

    @property
    def in_doubt(self) -> list[Fate]:
        """Those that were in doubt, oldest first."""
        return [fate for fate in self.fates.values() if fate.doubt is not None]

    def begin(self, calls: Sequence[OpenCall]) -> None:
        """Take in the open calls of the group at the change of its pen."""
        self.open = len(calls)
        begun = sorted((call for call in calls if call.state in _MAY_HAVE_RUN), key=lambda call: call.seq)
        self.may_have_run = len(begun)
        self.again = [call for call in calls if call.attempts and call.state not in _MAY_HAVE_RUN]
        for call in begun[:MAX_FATES]:
            fate = Fate(
                call.call_id,
                call.method,
                call.resource,
                call.client,
                call.claimed_by or "",
                call.claimed_epoch,
                call.said_seq,
                call.since_ns,
            )
            if call.state is CallState.IN_DOUBT:  # since an earlier change
                fate.doubt = Word(call.said_seq, call.since_ns, Mark.IN_DOUBT, "", {})
                fate.claim_seq = 0
            self.fates[call.call_id] = fate

    def apply(self, record: Record, effect: Effect) -> None:
        """Take in what one record came to."""
        place = effect.place
        if place is None:
            return
        for call in effect.folded.evidenced:
            fate = self.fates.get(call.call_id)
            if fate is not None and call.evidence is not None:
                mark = call.evidence.mark
                fate.evidence = Word(record.seq, record.timestamp_ns, mark, place.who, {})
        is_counted = place.kind in CONCLUSIONS and effect.folded is not NOTHING
        if is_counted and any(fate.doubt and not fate.end for fate in self.fates.values()):
            self._resolve(record, place.who)
        for concluded in effect.folded.concluded:
            mark = concluded.outcome.mark
            word = Word(
                record.seq, record.timestamp_ns, mark, concluded.writer, body_of(concluded.outcome.body)
            )
            fate = self.fates.get(concluded.call.call_id)
            if fate is not None and mark is Mark.IN_DOUBT:
                fate.doubt = word
            elif fate is not None and fate.end is None:
                fate.end = word
            if self.first is None and mark in CLOSING:
                self.first, self.first_call = word, concluded.call

    def note_late(self, record: Record, epoch: int) -> None:
        """Take in a frame of the former holder, if it is of `epoch` or before."""
        try:
            frame = decode_pen(record.payload, bodies=False)
        except MalformedPayload:
            return
        if frame.epoch > epoch:
            return
        self.late_frames += 1
        self.late_words += len(frame.entries)
        if len(self.late) < MAX_LATE:
            self.late.append((record, frame))

    def _resolve(self, record: Record, writer: str) -> None:
        """The fold reads no bodies of most marks: who ended a doubt, and why, is read here."""
        frame = decode_pen(record.payload)
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            fate = self.fates.get(call_id)
            if fate is not None and mark in _RESOLVED and fate.doubt is not None and fate.end is None:
                fate.resolution = Word(record.seq, record.timestamp_ns, mark, writer, body_of(body))


async def group_state_at(
    source: Source, service: str, group: str, seq: int, on_skip: OnSkip | None = None
) -> SystemState:
    """Return the state of one group after record `seq`: from the newest snapshot before it, and then from
    the group's own records alone. Other groups are not up to date in it. `on_skip` hears of snapshots that
    cannot be used.
    """
    subjects = source.subjects
    state = await checkpoints.newest(source.log, subjects, until_seq=seq, base=source.base, on_skip=on_skip)
    async for record in bounded(source, [subjects.group(service, group)], state.position + 1, seq):
        state.fold(record)
    return state


async def aftermath_of(
    source: Source,
    service: str,
    group: str,
    turn_seq: int,
    until_seq: int,
    *,
    on_skip: OnSkip | None = None,
) -> Aftermath:
    """Follow the calls of a group from the change of its pen at `turn_seq` on: until all that was in doubt
    has ended and there was a first outcome, at most up to `until_seq`.
    """
    state = await group_state_at(source, service, group, turn_seq - 1, on_skip)
    found = Aftermath()
    found.begin(list(state.calls_of(service, group).open.values()))
    reading = bounded(source, [source.subjects.group(service, group)], turn_seq, until_seq)
    async with aclosing(reading) as records:
        async for record in records:
            found.apply(record, state.fold(record))
            if found.is_over:
                break
    return found


async def read_late(
    source: Source, found: Aftermath, turn: Turn, service: str, group: str, until_seq: int
) -> None:
    """Find the frames of the former holder, of its epoch or before, that stand behind the change."""
    former, changed = turn.before.holder, turn.happening
    if former is None:
        return
    subjects = source.subjects
    wanted = [subjects.pen(service, group, former), subjects.dead(service, group, former)]
    is_restart = getattr(changed.event, "holder", None) == former
    async with aclosing(bounded(source, wanted, changed.seq + 1, until_seq)) as records:
        async for record in records:
            if is_restart and record.timestamp_ns > changed.at_ns + _LATE_AFTER_RESTART_NS:
                break  # from here on it is the new run of it that writes, and it may write much
            found.note_late(record, turn.before.epoch)
