"""Counts calls and outcomes from the log itself, without any of the folds under test."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, PEN, subjects_of

_BESIDE = frozenset(
    {Mark.EXECUTED, Mark.EMITTED, Mark.CHECKED, Mark.ATTEMPTED, Mark.KEYED, Mark.RELEASED, Mark.DISCARDED}
)
"""Marks that are no outcome and no claim."""


@dataclass
class Recount:
    """What the log holds. ``outcomes`` has every conclusion of a call that counts, in log order.

    What comes after a final outcome does not count, nor does a word that a call expired after it was claimed:
    in a pool, where many write, both happen. They are in ``void``.
    """

    accepted: dict[CallId, str] = field(default_factory=dict)
    resources: dict[CallId, str | None] = field(default_factory=dict)
    claims: Counter[CallId] = field(default_factory=Counter)
    started: set[CallId] = field(default_factory=set)
    outcomes: dict[CallId, list[tuple[Mark, bytes | None]]] = field(default_factory=lambda: defaultdict(list))
    void: list[tuple[CallId, Mark]] = field(default_factory=list)
    writers: dict[CallId, str] = field(default_factory=dict)
    frames: Counter[str] = field(default_factory=Counter)
    claimed_at: dict[CallId, int] = field(default_factory=dict)
    letters: dict[CallId, int] = field(default_factory=dict)
    came_back: dict[CallId, int] = field(default_factory=dict)

    @property
    def without(self) -> list[str]:
        """Accepted calls that have no outcome."""
        return [format_call_id(call_id) for call_id in self.accepted if call_id not in self.outcomes]

    @property
    def several(self) -> list[str]:
        """Calls that have more than one outcome."""
        return [format_call_id(call_id) for call_id, found in self.outcomes.items() if len(found) > 1]

    def note(self, call_id: CallId, mark: Mark, body: bytes | None, writer: str, seq: int = 0) -> None:
        """Take in one entry of a pen frame."""
        if mark in _BESIDE:
            return
        former = self.outcomes.get(call_id, [])
        if mark is Mark.REQUEUED:
            if former and former[-1][0] is Mark.DEAD_LETTERED:  # an operator lets it run again
                del self.outcomes[call_id]
                self.started.discard(call_id)
                self.came_back[call_id] = self.letters[call_id]
            return
        if mark is Mark.RETRY_SCHEDULED:
            self.started.discard(call_id)  # that attempt is over
            return
        is_final = bool(former) and former[-1][0] is not Mark.IN_DOUBT
        if is_final or (mark is Mark.EXPIRED and call_id in self.started):
            self.void.append((call_id, mark))
        elif mark is Mark.NOT_EXECUTED:
            self.outcomes.pop(call_id, None)  # the doubt is over, and it may run again
            self.started.discard(call_id)
        elif mark is Mark.CLAIMED:
            self.claims[call_id] += 1
            if call_id not in self.started:
                self.claimed_at[call_id] = seq
            self.started.add(call_id)
        else:
            if mark is Mark.DEAD_LETTERED:
                self.letters[call_id] = seq
            self.outcomes[call_id].append((mark, body))
            self.writers.setdefault(call_id, writer)

    def is_about_something_else(self, call_id: CallId, mark: Mark, body: bytes | None) -> bool:
        """In a pool, what ends an attempt names its claim, and the dead letter that came back."""
        if mark not in (Mark.CANCELLED, Mark.DEAD_LETTERED, Mark.RETRY_SCHEDULED):
            return False
        said = decode(body or b"")
        claim = self.claimed_at[call_id] if call_id in self.started else 0
        if mark is Mark.RETRY_SCHEDULED:
            return bool(said["claimed_seq"] != claim)
        named = said["details"].get("claimed_seq", 0), said["details"].get("dead_seq", 0)
        return named != (claim, self.came_back.get(call_id, 0))

    def first(self, call_id: CallId) -> tuple[Mark, bytes | None]:
        """The outcome that counts."""
        return self.outcomes[call_id][0]

    def marks(self) -> Counter[Mark]:
        """How many calls came to what."""
        return Counter(found[0][0] for found in self.outcomes.values())

    def order(self, resource: str) -> tuple[list[CallId], list[CallId]]:
        """The calls of a resource, in the order of their frames, and in the order of their outcomes."""
        mine = [call_id for call_id, on in self.resources.items() if on == resource]
        return mine, [call_id for call_id in self.outcomes if self.resources[call_id] == resource]


async def recount(url: str, namespace: str) -> Recount:
    """Read the whole log of a namespace."""
    subjects = subjects_of(namespace)
    found = Recount()
    last: Counter[tuple[str, int]] = Counter()
    async with await Connection.open(ConnectOptions(url, name="recount")) as connection:
        log = await open_log(connection, subjects)
        async for record in log.read([subjects.everything]):
            place = subjects.parse(record.subject)
            if place.kind != CALL and place.kind not in CONCLUSIONS:
                continue
            if place.kind == CALL:
                calls = decode_calls(record.payload)
                session, number = calls.session, calls.number
            else:
                pen = decode_pen(record.payload)
                session, number = pen.session, pen.number
            if number <= last[record.subject, session]:  # stored twice
                continue
            last[record.subject, session] = number
            found.frames[PEN if place.kind in CONCLUSIONS else CALL] += 1
            if place.kind == CALL:
                for entry in calls.entries:
                    found.accepted[entry.call_id] = f"{place.service}.{entry.method}"
                    found.resources[entry.call_id] = entry.resource
                continue
            for (mark, call_id), body in zip(pen.entries, pen.bodies, strict=True):
                if place.group == POOL_GROUP and found.is_about_something_else(call_id, mark, body):
                    found.void.append((call_id, mark))
                else:
                    found.note(call_id, mark, body, place.who, record.seq)
    return found
