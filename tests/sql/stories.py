"""Histories in which anything may happen, sensible or not, and tables to compare."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, select

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.bodies import ErrorInfo, Requeued, RequeuedCall, Resolution, RetryScheduled
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallId, CallIds
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.sql.checkpointing import known
from aegisipc.eventstore.sql.models import Base
from aegisipc.eventstore.sql.projecting import Level, Projection
from aegisipc.eventstore.sql.writing import write_batch
from aegisipc.eventstore.system import SystemState
from tests.sdk.kit import GROUP, NS, POOL, SERVICE, ListLog, ms, registered

type Tables = dict[str, list[tuple[Any, ...]]]

_OFTEN: Final = (Mark.CLAIMED, Mark.SUCCEEDED, Mark.FAILED, Mark.IN_DOUBT, Mark.DEAD_LETTERED, Mark.REQUEUED)
_FEW: Final = 12


class Story:
    """Makes records; with a fold beside it, so that much of what it says is about what is so."""

    def __init__(self, seed: int, *, repeats: bool = True) -> None:
        """`repeats`: numbers of frames may come twice, with other words: only who folds all of them knows."""
        self.log = ListLog()
        self._repeats = repeats
        self._draw = random.Random(seed)
        self._ids = CallIds(seed)
        self._known: dict[str, list[CallId]] = {GROUP: [], POOL: []}
        self._numbers = 0
        self._epoch = 0
        self._state = SystemState(NS)

    def records(self, count: int) -> list[Record]:
        for instance in "ab":
            self.log.join(instance)
        self.log.join("w", group=POOL)
        self._promote()
        while len(self.log.records) < count:
            self.log.now_ns += ms(self._draw.randint(0, 50))
            act = self._draw.choices((self._calls, self._pen, self._happening), (3, 6, 1))[0]
            act()
            self._state.replay(self.log.records[self._state.position :])
        return self.log.records

    # -- calls --------------------------------------------------------------------------------------------

    def _number(self) -> int:
        is_new = self._draw.randint(0, 10) > 0  # else one that was stored before
        self._numbers += is_new or not self._repeats
        return max(1, self._numbers)

    def _calls(self) -> None:
        draw, group = self._draw, self._draw.choice((GROUP, GROUP, POOL))
        entries = []
        for _ in range(draw.randint(1, 4)):
            again = bool(self._known[group]) and draw.random() < 0.1
            call_id = draw.choice(self._known[group]) if again else self._ids.next(self._numbers)
            requeue = (draw.randint(1, 9), "c9") if group == POOL and draw.random() < 0.3 else None
            options = CallOptions(draw.choice((None, "k1")), draw.randint(0, 2), requeue)
            resource = draw.choice((None, "acc_1", "ä\0b"))
            entries.append(CallEntry(call_id, draw.choice(("pay", "get")), 1000, resource, options))
            self._known[group] = (self._known[group] + [call_id])[-_FEW:]
        if len({entry.call_id for entry in entries}) == len(entries):
            frame = CallFrame(1, self._number(), 1, entries, [encode([[1], {"to": "x"}])] * len(entries))
            self.log.append(NS.call(SERVICE, group, draw.choice(("c1", "c2"))), encode_calls(frame))

    def _pen(self) -> None:
        draw, group = self._draw, self._draw.choice((GROUP, GROUP, POOL))
        if not self._known[group]:
            return
        marks = draw.choices(list(_OFTEN) * 3 + list(Mark), k=draw.randint(1, 5))
        entries = [PenEntry(mark, draw.choice(self._known[group])) for mark in marks]
        bodies = [self._body(group, mark, call_id) for mark, call_id in entries]
        holder, epoch = self._holder() if group == GROUP else ("w", 1)
        if draw.random() < 0.05:
            holder = "b"
        kind = NS.dead if draw.random() < 0.3 else NS.pen
        frame = PenFrame(2, self._number(), epoch, entries, bodies)
        self.log.append(kind(SERVICE, group, holder), encode_pen(frame))

    def _body(self, group: str, mark: Mark, call_id: CallId) -> bytes | None:  # noqa: PLR0911 - one each
        if self._draw.random() < 0.1:
            return self._draw.choice((None, b"", b"\xc1"))
        calls = self._state.calls.get((SERVICE, group))
        call = calls.open.get(call_id) if calls is not None else None
        call = call or OpenCall(call_id, "c1", "pay", None, 1, 1, b"")
        claim = call.said_seq if call.claimed_by else 0
        details = {"claimed_seq": claim, "dead_seq": call.dead_seq}
        error = ErrorInfo(code=f"e_{mark.name.lower()}", message="bad\0 luck", details=details)
        match mark:
            case Mark.SUCCEEDED:
                return encode({"paid": 7})
            case Mark.NOT_EXECUTED | Mark.EXECUTED | Mark.DISCARDED:
                return encode(Resolution(source="operator", author="ann", doubt_seq=call.said_seq))
            case Mark.RETRY_SCHEDULED:
                return encode(
                    RetryScheduled(attempt=call.tries + 1, due_ns=1, error=error, claimed_seq=claim)
                )
            case Mark.REQUEUED:
                was = RequeuedCall(
                    client="c1", method="pay", resource=None, key=None, priority=1, body=b"\x92\x90\x80"
                )
                mine = was if group == GROUP else None
                return encode(Requeued(author="bob", dead_seq=call.dead_seq, timeout_ms=500, call=mine))
            case Mark.DUPLICATE:
                return call_id
        return encode(error)

    # -- what happens to the group ------------------------------------------------------------------------

    def _holder(self) -> tuple[str, int]:
        view = self._state.topology.group(SERVICE, GROUP)
        return (view.holder or "a", view.epoch) if view is not None else ("a", 1)

    def _promote(self) -> None:
        self._epoch += 1
        self.log.promote(self._draw.choice("ab"), self._epoch, self._run("a"))

    def _run(self, instance: str) -> str:
        view = self._state.topology.instance(SERVICE, GROUP, instance)
        return view.incarnation if view is not None else "1"

    def _happening(self) -> None:
        draw, who = self._draw, self._draw.choice("ab")
        run, (holder, epoch) = self._run(who), self._holder()
        own, watch, fence = (
            NS.instance(SERVICE, GROUP, who),
            NS.watch(SERVICE, GROUP),
            NS.fence(SERVICE, GROUP),
        )
        about: dict[str, Any] = {"instance": who, "incarnation": run, "decided_by": "r"}
        silent: dict[str, Any] = about | {
            "last_pulse_ns": 1,
            "silence_ms": 2,
            "evidence": {"n": float("inf")},
        }
        to = "a" if holder == "b" else "b"
        other = str(draw.randint(1, 3))
        choices: Sequence[tuple[str, ev.Event]] = (
            (own, registered(other)),
            (own, ev.InstanceReady(incarnation=run)),
            (own, ev.InstanceDraining(incarnation=run, cause="c")),
            (own, ev.InstanceLeft(incarnation=run, cause="c\0")),
            (own, ev.InstanceUnhealthy(incarnation=run, reason="ill")),
            (own, ev.InstanceYielded(incarnation=run, epoch=epoch, cause="c")),
            (watch, ev.InstanceAdmitted(**about)),
            (watch, ev.InstanceRefused(**about, error=ErrorInfo(code="no", message="no room"))),
            (watch, ev.InstanceRecovered(**about)),
            (watch, ev.InstanceLost(**silent | {"evidence": {"n": 1}})),
            (watch, ev.InstanceSuspected(**silent | {"evidence": {"big": "x" * 20_000}})),
            (watch, ev.InstanceDrainRequested(**about, author="ann")),
            (watch, ev.GroupPaused(scope="group", author="ann", decided_by="r")),
            (watch, ev.GroupResumed(scope="group", author="ann", decided_by="r")),
            (fence, ev.GroupVacated(epoch=epoch, cause="c", decided_by="r")),
            (fence, ev.GroupHandoverCancelled(epoch=epoch, cause="c", decided_by="r")),
            (
                fence,
                ev.GroupPromoted(
                    epoch=epoch + draw.randint(0, 1),
                    holder=to,
                    incarnation=self._run(to),
                    cause="c",
                    decided_by="r",
                ),
            ),
            (
                fence,
                ev.GroupHandoverStarted(
                    epoch=epoch, holder=holder, to=to, to_incarnation=self._run(to), cause="c", decided_by="r"
                ),
            ),
        )
        self.log.say(*draw.choice(choices))


def tables_in(connection: Connection) -> Tables:
    """All rows but the checkpoint's, in the order of their keys."""
    return {
        name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
        for name, table in Base.metadata.tables.items()
        if name != "aegis_checkpoint"
    }


def project(
    engine: Engine, records: Sequence[Record], cuts: Sequence[int] = (), *, level: Level = Level.ALL
) -> Tables:
    """Project records into empty tables. At each of `cuts` it is written and begun anew from the database."""
    with engine.connect() as connection:
        found = project_on(connection, records, cuts, level)
        connection.rollback()
    return found


def project_on(
    connection: Connection, records: Sequence[Record], cuts: Sequence[int] = (), level: Level = Level.ALL
) -> Tables:
    """As :func:`project`, in a transaction that is there."""
    for table in Base.metadata.tables.values():
        connection.execute(table.delete())
    state, begin = SystemState(NS), 0
    for cut in (*sorted(cuts), len(records)):
        projection = Projection(state, level=level, known=known(connection, level))
        for record in records[begin:cut]:
            projection.fold(record)
        write_batch(connection, projection.take())
        begin = cut
        state = SystemState(NS).replay(records[:cut])
    return tables_in(connection)
