"""Logs of a whole system in which anything may happen: what the tests of its dumps and snapshots share.

They hold each kind of record, each mark, and what only hostile writers write. Unlike those of
``test_fold_determinism`` they make sense often enough to reach every corner of the state.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
from pydantic import BaseModel

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.bodies import Requeued, RequeuedCall, RetryScheduled
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.contracts import fingerprint_of, pack
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
from aegisipc.eventstore.ids import CallId, CallIds, format_call_id
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.system import SystemState

S = subjects_of("test")
SERVICE: Final = "orders"
BEYOND: Final = 1 << 70
"""More than MessagePack can carry."""

_START_NS: Final = 1_800_000_000_000_000_000


class _Author:
    """Writes a log at random, and follows what it wrote, to know what would make sense."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.state = SystemState(S)
        self.records: list[Record] = []
        self.known = list(map(CallIds(seed % 1000).next, range(1000, 1040)))
        self.number = 0

    def write(self) -> None:
        group = self.draw.choice(["g1", "g1", "g2", POOL_GROUP])
        kinds: list[Callable[[str], tuple[str, bytes]]] = [
            self.own,
            self.watch,
            self.fence,
            self.call,
            self.call,
            self.pen,
            self.pen,
            self.pen,
            self.evidence,
            self.cancel,
            self.other,
        ]
        subject, payload = self.draw.choice(kinds)(group)
        at_ns = _START_NS + len(self.records) * 700_000_000
        record = Record(len(self.records) + 1, subject, payload, at_ns)
        self.records.append(record)
        self.state.apply(record)

    # -- who ----------------------------------------------------------------------------------------------

    def someone(self, group: str) -> tuple[str, str]:
        """An instance and its incarnation, mostly one that there is."""
        view = self.state.topology.group(SERVICE, group)
        if view is not None and view.instances and self.draw.random() < 0.8:
            instance = self.draw.choice(list(view.instances.values()))
            return instance.id, instance.incarnation
        return self.draw.choice(["i1", "i2", "i3"]), self.draw.choice(["r1", "r2"])

    def holder(self, group: str) -> tuple[str, int]:
        """Who may write pen frames, mostly; and the epoch."""
        view = self.state.topology.group(SERVICE, group)
        if group != POOL_GROUP and view is not None and view.holder and self.draw.random() < 0.9:
            return view.holder, min(view.epoch, 1 << 40)
        return self.someone(group)[0], 1

    def next_number(self) -> int:
        if self.draw.random() < 0.9:
            self.number += 1
        return max(1, self.number)

    # -- events -------------------------------------------------------------------------------------------

    def own(self, group: str) -> tuple[str, bytes]:
        who, run = self.someone(group)
        names = self.draw.sample(["b", "a", "ä"], self.draw.randint(1, 3))
        offered = {
            name: ev.MethodContract(
                effect=self.draw.choice(list(ev.Effect)), arguments="a", returns="b", signature=f"{name}()"
            )
            for name in names
        }
        registered = ev.InstanceRegistered(
            incarnation=f"r{self.draw.randint(1, 3)}",
            mode="pool" if group == POOL_GROUP else "owned",
            resources=tuple(self.draw.sample(["x", "y", "z", "ä", "acc 1"], 3)),
            contract=offered,
            host="h",
            pid=self.draw.randint(1, 9),
            version="1",
            quarantined=self.draw.random() < 0.3,
            max_backlog=self.draw.choice([10, 100_000]),
            contract_seq=self.draw.randint(0, 5),
        )
        view = self.state.topology.group(SERVICE, group)
        event = self.draw.choice(
            [
                registered,
                registered,
                ev.InstanceReady(incarnation=run),
                ev.InstanceReady(incarnation=run),
                ev.InstanceDraining(incarnation=run, cause="c"),
                ev.InstanceLeft(incarnation=run, cause="c", finished=self.draw.random() < 0.5),
                ev.InstanceUnhealthy(incarnation=run, reason="no venue"),
                ev.InstanceHealthy(incarnation=run),
                ev.InstanceYielded(incarnation=run, epoch=view.epoch if view else 1, cause="c")
                if view is None or view.epoch < BEYOND
                else registered,
            ]
        )
        return S.instance(SERVICE, group, who), ev.encode_event(event)

    def watch(self, group: str) -> tuple[str, bytes]:
        who, run = self.someone(group)
        about: dict[str, Any] = {"instance": who, "incarnation": run, "decided_by": "router-1"}
        silence = {"last_pulse_ns": self.draw.randint(0, 9), "silence_ms": 2}
        odd = {"why": [1, {"b": 2.5, "a": None}], "big": (1 << 64) - 1, "ä": "ö"}
        wish: dict[str, Any] = {
            "scope": self.draw.choice(["service", "group"]),
            "author": "ann",
            "decided_by": "router-1",
        }
        event = self.draw.choice(
            [
                ev.InstanceAdmitted(**about),
                ev.InstanceAdmitted(**about),
                ev.InstanceRefused(**about, error=ev.ErrorInfo(code="c", message="m", details=odd)),
                ev.InstanceSuspected(**about, **silence),
                ev.InstanceSuspected(**about, **silence),
                ev.InstanceRecovered(**about),
                ev.InstanceLost(**about, **silence),
                ev.InstanceLost(**about, **silence),
                ev.InstanceDrainRequested(**about, author="ann", reason="r"),
                ev.GroupPaused(**wish, reason="r"),
                ev.GroupResumed(**wish),
                ev.GroupCongested(open=12, limit=10, retry_after_ms=40, decided_by="router-1"),
                ev.GroupRelieved(open=2, decided_by="router-1"),
            ]
        )
        return S.watch(SERVICE, group), ev.encode_event(event)

    def fence(self, group: str) -> tuple[str, bytes]:
        who, run = self.someone(group)
        view = self.state.topology.group(SERVICE, group)
        epoch = view.epoch if view is not None and view.epoch < BEYOND else 0
        promoted = ev.GroupPromoted(epoch=epoch + 1, holder=who, incarnation=run, cause="c", decided_by="r")
        handover = {"cause": "c", "decided_by": "r"}
        finished = {"finished": self.draw.random() < 0.5}
        event = self.draw.choice(
            [
                promoted,
                promoted,
                promoted,
                ev.GroupVacated(epoch=epoch, cause="c", evidence=finished, decided_by="r"),
                ev.GroupHandoverStarted(
                    epoch=epoch, holder=who, to="i1", to_incarnation="r1", author="ann", **handover
                ),
                ev.GroupHandoverCancelled(epoch=epoch, **handover),
            ]
        )
        return S.fence(SERVICE, group), ev.encode_event(event)

    # -- calls --------------------------------------------------------------------------------------------

    def some_calls(self) -> list[CallId]:
        return self.draw.sample(self.known, self.draw.randint(1, 5))

    def call(self, group: str) -> tuple[str, bytes]:
        entries = [CallEntry(call_id, "place", 1000, *self._rest(group)) for call_id in self.some_calls()]
        frame = CallFrame(self.draw.randint(1, 2), self.next_number(), 1, entries, [b"b"] * len(entries))
        return S.call(SERVICE, group, self.draw.choice(["c1", "c2"])), encode_calls(frame)

    def _rest(self, group: str) -> tuple[str | None, CallOptions | None]:
        resource = self.draw.choice([None, "x", "ä"])
        again = (self.draw.randint(1, 99), "c9") if group == POOL_GROUP else None
        key = self.draw.choice([None, "key ä"])
        options = CallOptions(key, self.draw.randint(0, 2), self.draw.choice([None, again]))
        return resource, self.draw.choice([None, options])

    def pen(self, group: str) -> tuple[str, bytes]:
        writer, epoch = self.holder(group)
        marks = [self.draw.choice([Mark.CLAIMED, Mark.CLAIMED, *Mark]) for _ in range(5)]
        entries = [PenEntry(mark, call_id) for mark, call_id in zip(marks, self.some_calls(), strict=False)]
        bodies = [self.body(group, *entry) for entry in entries]
        subject = self.draw.choice([S.pen, S.dead])(SERVICE, group, writer)
        return subject, encode_pen(PenFrame(3, self.next_number(), epoch, entries, bodies))

    def body(self, group: str, mark: Mark, call_id: CallId) -> bytes | None:
        """What makes the mark count, mostly."""
        calls = self.state.calls.get((SERVICE, group))
        call = calls.open.get(call_id) if calls is not None else None
        seq, tries = (call.said_seq, call.tries) if call is not None else (0, 0)
        dead = dict(calls.letters.dump()).get(call_id, 0) if calls is not None else 0
        match mark:
            case Mark.RETRY_SCHEDULED:
                attempt = self.draw.choice([tries + 1, tries + 1, BEYOND])
                said: BaseModel = RetryScheduled(
                    attempt=attempt,
                    due_ns=self.draw.choice([5, BEYOND, -BEYOND]),
                    error=ev.ErrorInfo(code="c", message="m"),
                    claimed_seq=seq,
                )
            case Mark.REQUEUED:
                was = RequeuedCall(
                    client="c8",
                    method="place",
                    resource="x",
                    key="k",
                    priority=self.draw.choice([1, BEYOND]),
                    body=b"b",
                )
                dead_seq = dead or self.draw.choice([7, BEYOND])
                said = Requeued(
                    author="ann", dead_seq=dead_seq, timeout_ms=self.draw.choice([9, BEYOND]), call=was
                )
            case Mark.CANCELLED | Mark.DEAD_LETTERED | Mark.IN_DOUBT:
                claimed = seq if call is not None and call.claimed_by else 0
                about = {"claimed_seq": claimed, "dead_seq": call.dead_seq if call is not None else 0}
                return encode({"code": "c", "message": "m", "details": about})
            case Mark.NOT_EXECUTED | Mark.DISCARDED:
                return encode({"source": "operator", "author": "ann", "doubt_seq": seq})
            case _:
                return self.draw.choice([None, b"r"])
        return encode(said.model_dump(mode="python"))

    def evidence(self, group: str) -> tuple[str, bytes]:
        calls = self.state.calls.get((SERVICE, group))
        claimed = [c for c in calls.open.values() if c.claimed_by] if calls is not None else []
        if not claimed:
            return self.pen(group)
        call = self.draw.choice(claimed)
        marks = [Mark.EMITTED, self.draw.choice([Mark.SUCCEEDED, Mark.FAILED]), Mark.IN_DOUBT]
        entries = [PenEntry(mark, call.call_id) for mark in marks]
        frame = PenFrame(4, self.next_number(), 1, entries, [b"e", self.draw.choice([None, b"o"]), None])
        return S.evidence(SERVICE, group, call.claimed_by or "i1"), encode_pen(frame)

    def cancel(self, group: str) -> tuple[str, bytes]:
        ids = tuple(map(format_call_id, self.some_calls()))
        event = ev.CancelRequested(call_ids=ids, author="ann", reason="r")
        return S.cancel(SERVICE, group, "c1"), ev.encode_event(event)

    # -- the rest -----------------------------------------------------------------------------------------

    def other(self, group: str) -> tuple[str, bytes]:
        draw, who = self.draw, self.someone(group)[0]
        term = self.state.topology.leadership.term
        contract = pack({"a": SCHEMAS[draw.randrange(4)], "b": SCHEMAS[draw.randrange(4)]})
        elected = ev.RouterElected(term=min(term, 1 << 40) + 1, router="router-1", incarnation="r", cause="c")
        policy = {"suspect_after_ms": min(term, 1 << 40) + 500, "lost_after_ms": 3000}
        elected = elected.model_copy(update={"policy": policy})
        hostile_numbers: dict[str, Any] = elected.model_dump(mode="json") | {
            "term": str(BEYOND),
            "policy": {f"p{number}": str(BEYOND - number) for number in range(40)} | {"sane": 7},
        }
        suspicion = {"instance": who, "incarnation": "r1", "silence_ms": 1, "decided_by": "r"}
        return draw.choice(
            [
                (S.term, ev.encode_event(elected)),
                (S.term, ev.encode_event(ev.RouterResigned(term=term, router="router-1", incarnation="r")))
                if term < BEYOND
                else (S.term, b"?"),
                (S.term, msgpack.packb(["router.elected.v1", hostile_numbers])),
                (
                    S.watch(SERVICE, group),
                    msgpack.packb(["instance.suspected.v1", suspicion | {"last_pulse_ns": str(BEYOND)}]),
                ),
                (S.contract(SERVICE, group, who), ev.encode_event(contract)),
                (S.contract(SERVICE, group, who), ev.encode_event(contract)),
                (S.contract(SERVICE, group, who), b"?"),
                (S.fence(SERVICE, group), msgpack.packb([f"later.v{draw.randint(1, 3)}", {}])),
                (S.watch(SERVICE, group), draw.randbytes(8)),
                (S.pen(SERVICE, group, who), draw.randbytes(8)),
                (S.snapshot_part, b"part"),
                ("aegis.elsewhere.log.x", b""),
            ]
        )


def _schemas(number: int) -> str:
    return f'{{"arguments":{{"properties":{{"n{number}":{{"type":"string"}}}}}},"returns":{{}}}}'


SCHEMAS: Final = [_schemas(number) for number in range(4)]
FINGERPRINTS: Final = [fingerprint_of(text) for text in SCHEMAS]


def a_history(seed: int, count: int = 200) -> list[Record]:
    """A log of so many records."""
    author = _Author(seed)
    for _ in range(count):
        author.write()
    return author.records


def folded(records: list[Record], state: SystemState | None = None) -> SystemState:
    """The state after these."""
    return (state or SystemState(S)).replay(records)


def inside(value: Any) -> Any:
    """All that an object holds, attribute by attribute, in order where there is one: whatever a dump forgets
    would be missed here.
    """
    if isinstance(value, BaseModel):
        return [(name, inside(getattr(value, name))) for name in type(value).model_fields]
    if isinstance(value, dict):
        pairs = [(inside(key), inside(item)) for key, item in value.items()]
        return sorted(pairs) if isinstance(value, Counter) else pairs
    if isinstance(value, set | frozenset):
        return sorted(map(inside, value))
    if isinstance(value, list | tuple | deque):
        return [inside(item) for item in value]
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    names = (
        [field.name for field in fields(value)]
        if is_dataclass(value)
        else sorted({*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())})
    )
    assert names, f"what is in {value!r}?"
    found = {name: getattr(value, name) for name in names}
    for name in {"_schemas", "_uses"} & found.keys():  # looked up by name only
        found[name] = dict(sorted(found[name].items()))
    return [(name, inside(item)) for name, item in found.items()]
