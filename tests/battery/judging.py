"""The verdict: what the ledger, the log and all readers say, compared without any of the folds under test."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import create_engine, select

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import Mark, decode_calls, decode_pen
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, subjects_of
from tests.battery.roles import DATABASE, LEDGER, rows

_OUTCOMES: Final = frozenset(
    {
        Mark.SUCCEEDED,
        Mark.FAILED,
        Mark.EXPIRED,
        Mark.IN_DOUBT,
        Mark.DEAD_LETTERED,
        Mark.DUPLICATE,
        Mark.CANCELLED,
    }
)


class Effect(NamedTuple):
    """What a handler did, as an independent ledger has it."""

    number: int
    call_id: str
    token: str


class Outcome(NamedTuple):
    """What the log says of a call's end."""

    mark: Mark
    body: bytes | None


class Told(NamedTuple):
    """What a reader was told of a call: a value, or the code of an error."""

    who: str
    value: str | None
    error: str | None = None


@dataclass
class Counted:
    """What the log holds of calls, in its order; a frame that was stored twice counts once."""

    calls: dict[str, str] = field(default_factory=dict)
    """The method of each."""
    resources: dict[str, str | None] = field(default_factory=dict)
    claims: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    stored_twice: int = 0
    void: list[tuple[str, Mark]] = field(default_factory=list)
    """What came too late to count, in a pool."""

    @property
    def without(self) -> list[str]:
        """Calls that have no outcome."""
        return [call_id for call_id in self.calls if call_id not in self.outcomes]


async def count(url: str, namespace: str, *, pool: bool = False) -> Counted:
    """Read the whole log of a namespace. In a pool many may write, and what comes after a claim or an end is
    void if it is another one; where a fence stands, nothing of that kind may be in the log at all.
    """
    subjects = subjects_of(namespace)
    counted = Counted()
    last: dict[tuple[str, int], int] = {}
    async with await Connection.open(ConnectOptions(url, name="battery")) as connection:
        log = await open_log(connection, subjects)
        async for record in log.read([subjects.everything]):
            place = subjects.parse(record.subject)
            if place.kind == CALL:
                calls = decode_calls(record.payload)
                if not _is_new(last, record.subject, calls.session, calls.number, counted):
                    continue
                for entry in calls.entries:
                    shown = format_call_id(entry.call_id)
                    counted.calls[shown] = entry.method
                    counted.resources[shown] = entry.resource
            elif place.kind in CONCLUSIONS:
                pen = decode_pen(record.payload)
                if not _is_new(last, record.subject, pen.session, pen.number, counted):
                    continue
                for (mark, call_id), body in zip(pen.entries, pen.bodies, strict=True):
                    note_mark(counted, mark, format_call_id(call_id), body, pool=pool)
    return counted


def _is_new(
    last: dict[tuple[str, int], int], subject: str, session: int, number: int, counted: Counted
) -> bool:
    if number <= last.get((subject, session), 0):
        counted.stored_twice += 1
        return False
    last[subject, session] = number
    return True


def note_mark(counted: Counted, mark: Mark, call_id: str, body: bytes | None, *, pool: bool) -> None:
    """Take in what a pen frame says of a call."""
    outcomes = counted.outcomes.get(call_id, [])
    has_ended = bool(outcomes) and outcomes[-1].mark is not Mark.IN_DOUBT
    if mark is Mark.CLAIMED:
        is_void = has_ended or counted.claims[call_id] > 0
    elif mark in _OUTCOMES:
        is_void = has_ended
    else:
        return
    if pool and is_void:
        counted.void.append((call_id, mark))
    elif mark is Mark.CLAIMED:
        counted.claims[call_id] += 1
    else:
        counted.outcomes.setdefault(call_id, []).append(Outcome(mark, body))


def effects_in(folder: Path) -> list[Effect]:
    """What both ledgers of a folder hold."""
    found = []
    if (folder / LEDGER).exists():
        for line in (folder / LEDGER).read_text(encoding="utf-8").splitlines():
            found.append(Effect(**json.loads(line)))  # noqa: PERF401 - one line each, as it is read
    if (folder / DATABASE).exists():
        engine = create_engine(f"sqlite:///{folder / DATABASE}")
        try:
            with engine.connect() as connection:
                found += [Effect(*row) for row in connection.execute(select(rows))]
        finally:
            engine.dispose()
    return found


def complaints(
    effects: Sequence[Effect], counted: Counted, told: Sequence[Told], *, may_doubt: bool
) -> list[str]:
    """Return all that is wrong after one thing was to be done exactly once, however often it was asked."""
    wrong = [f"call {call_id} has no outcome" for call_id in counted.without]
    wrong += [
        f"call {call_id} has {len(outcomes)} outcomes: {', '.join(o.mark.name for o in outcomes)}"
        for call_id, outcomes in counted.outcomes.items()
        if len(outcomes) != 1
    ]
    wrong += [f"call {call_id} was claimed {n} times" for call_id, n in counted.claims.items() if n > 1]
    if len(effects) > 1:
        wrong.append(f"it took effect {len(effects)} times")
    owners = {
        call_id: outcomes[0]
        for call_id, outcomes in counted.outcomes.items()
        if outcomes[0].mark is not Mark.DUPLICATE
    }
    if len(owners) != 1:
        return [*wrong, f"{len(owners)} calls have an outcome of their own"]
    ((owner, outcome),) = owners.items()
    for call_id, outcomes in counted.outcomes.items():
        if call_id != owner and format_call_id(outcomes[0].body or bytes(16)) != owner:
            wrong.append(f"call {call_id} repeats another one than {owner}")
    return wrong + _judge(owner, outcome, effects, told, may_doubt=may_doubt)


def _judge(
    owner: str, outcome: Outcome, effects: Sequence[Effect], told: Sequence[Told], *, may_doubt: bool
) -> list[str]:
    expected: Any = None
    wrong = [f"the effect is one of {e.call_id}, and not of {owner}" for e in effects if e.call_id != owner]
    if outcome.mark is Mark.SUCCEEDED:
        value = decode(outcome.body) if outcome.body is not None else None
        expected = (value, None)
        if not effects:
            wrong.append("it took no effect, and succeeded")
        elif value != effects[0].token:
            wrong.append(f"the outcome {value!r} is not that of the effect {effects[0].token!r}")
    elif outcome.mark is Mark.IN_DOUBT:
        expected = (None, "call_in_doubt")
        if not may_doubt:
            wrong.append("it is in doubt, without need")
    else:
        return [*wrong, f"its outcome is {outcome.mark.name}"]
    if not told:
        wrong.append("nobody was told")
    wrong += [
        f"{who} was told {error or value!r}, and the log says {expected[1] or expected[0]!r}"
        for who, value, error in told
        if (value, error) != expected
    ]
    return wrong
