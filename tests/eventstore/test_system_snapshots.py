"""A dump of the system's state is all of it: whoever goes on from it comes, byte for byte, to the same."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import contracts, known_schemas
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import MalformedPayload, NotEncodable
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.lifecycles import CallState, GroupState, InstanceState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import (
    FOLD_VERSION,
    digest_of,
    digest_of_dump,
    dump_state,
    load_state,
    pack_dump,
)
from tests.eventstore.system_histories import FINGERPRINTS, S, a_history, folded, inside
from tests.router.domain.test_any_history import Histories
from tests.sdk.kit import NS

FEW = settings(max_examples=15, deadline=None)
SEEDS = st.integers(0, 1 << 32)


def taken_up(state: SystemState) -> SystemState:
    """What another process makes of the packed dump."""
    return load_state(msgpack.unpackb(pack_dump(dump_state(state))), state.subjects)


# -- equality -----------------------------------------------------------------------------------------------


@FEW
@given(SEEDS, st.integers(0, 200))
def test_going_on_from_a_dump_gives_what_folding_everything_gives(seed: int, cut: int) -> None:
    records = a_history(seed)
    whole = folded(records)
    state = taken_up(folded(records[:cut]))
    assert inside(state) == inside(folded(records[:cut]))
    folded(records[cut:], state)
    assert inside(state) == inside(whole)
    assert state.to_plain() == whole.to_plain()
    assert pack_dump(dump_state(state)) == pack_dump(dump_state(whole))


def test_so_it_does_at_every_cut_of_one_history() -> None:
    records = a_history(11, 80)
    digests = [digest_of(folded(records[:cut])) for cut in range(len(records) + 1)]
    for cut in range(len(records)):
        state = taken_up(folded(records[:cut]))
        assert digest_of(state) == digests[cut]
        state.apply(records[cut])
        assert digest_of(state) == digests[cut + 1]
        assert digest_of(folded(records[cut + 1 :], state)) == digests[-1]


@FEW
@given(SEEDS, st.integers(0, 150))
def test_a_dump_stays_as_it_is_when_the_state_goes_on(seed: int, cut: int) -> None:
    records = a_history(seed, 150)
    state = folded(records[:cut])
    plain = dump_state(state)
    packed = pack_dump(plain)
    folded(records[cut:], state)
    assert pack_dump(plain) == packed


def test_a_loaded_state_shares_nothing_with_the_dump() -> None:
    records = a_history(5)
    plain = dump_state(folded(records[:100]))
    packed = pack_dump(plain)
    folded(records[100:], load_state(plain, S))
    assert pack_dump(plain) == packed


def test_packing_in_pieces_gives_the_very_bytes_of_packing_at_once() -> None:
    plain = dump_state(folded(a_history(1)))
    assert pack_dump(plain) == msgpack.packb(plain)
    assert digest_of(folded(a_history(1))) == hashlib.sha256(msgpack.packb(plain)).hexdigest()


def test_an_empty_state_has_a_dump_too() -> None:
    assert inside(taken_up(SystemState(S))) == inside(SystemState(S))


class DumpedHistories(Histories):
    """Whatever a group of instances, operators and routers do."""

    def teardown(self) -> None:
        super().teardown()
        records = self.world.log.records
        digest = digest_of(self.world.state)
        assert digest_of(SystemState(NS).replay(records)) == digest
        for cut in {0, len(records) // 3, len(records) // 2, len(records) - 1, len(records)}:
            state = taken_up(SystemState(NS).replay(records[:cut]))
            assert digest_of(state.replay(records[cut:])) == digest


DumpedHistories.TestCase.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)
TestDumpedHistories = DumpedHistories.TestCase


# -- nothing is left out ------------------------------------------------------------------------------------


def test_the_histories_reach_every_corner_of_the_state() -> None:
    """Else the tests above would compare what never differs."""
    seen: set[str] = set()
    for seed in range(10):
        records = a_history(seed, 300)
        for cut in range(50, 301, 50):
            seen |= _corners(folded(records[:cut]))
    states = {f"call {state}" for state in CallState if state in _OPEN} | {f"group {s}" for s in GroupState}
    states |= {f"instance {state}" for state in InstanceState}
    assert seen >= states | _NAMED, sorted((states | _NAMED) - seen)


_OPEN = {CallState.ACCEPTED, CallState.STARTED, CallState.IN_DOUBT, CallState.RETRY_WAIT}
_NAMED = {
    "requeueing",
    "letters",
    "came back",
    "evidence",
    "emitted",
    "cancel",
    "key",
    "attempts",
    "tries",
    "is_requeued",
    "big deadline",
    "big priority",
    "big pulse",
    "big term",
    "refusal",
    "unhealthy",
    "quarantined",
    "drain",
    "has_finished",
    "handover",
    "congestion",
    "yielded",
    "paused service",
    "paused group",
    "schemas",
    "rates",
    "finished",
    "anomalies",
    "unreadable",
}


def _corners(state: SystemState) -> set[str]:
    far = 1 << 64
    found = {
        "unreadable": state.unreadable,
        "rates": state.rates,
        "finished": state.finished,
        "schemas": state.schemas,
        "anomalies": state.topology.anomalies,
        "big term": state.topology.leadership.term >= far,
        "big pulse": any(pulse >= far for _, pulse in state.suspected.values()),
        "paused service": any(service.paused for service in state.topology.services.values()),
    }
    for calls in state.calls.values():
        found |= {"requeueing": calls.requeueing or found.get("requeueing")}
        found |= {"letters": calls.letters.dump() or found.get("letters")}
        for call in calls.open.values():
            marks: dict[str, Any] = {
                f"call {call.state}": True,
                "came back": call.dead_seq,
                "evidence": call.evidence,
                "emitted": call.evidence is not None and call.evidence.emitted,
                "cancel": call.cancel,
                "key": call.key,
                "attempts": call.attempts,
                "tries": call.tries,
                "is_requeued": call.is_requeued,
                "big deadline": call.deadline_ns >= far,
                "big priority": call.priority >= far,
            }
            found |= {name: True for name, value in marks.items() if value}
    for group in state.topology.groups():
        marks = {
            f"group {group.state}": True,
            "handover": group.handover,
            "congestion": group.congestion,
            "yielded": group.yielded_epoch,
            "paused group": group.paused,
        }
        for instance in group.instances.values():
            marks |= {f"instance {instance.state}": True}
            kept = {
                "refusal": instance.refusal,
                "unhealthy": instance.unhealthy,
                "quarantined": instance.quarantined,
                "drain": instance.drain_requested_by,
                "has_finished": instance.has_finished,
            }
            marks |= {name: True for name, value in kept.items() if value}
        found |= {name: True for name, value in marks.items() if value}
    return {name for name, value in found.items() if value}


def test_what_is_forgotten_next_is_part_of_the_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_schemas, "MAX_KEPT_METHODS", 3)
    records = a_history(4, 400)
    states = [folded(records[:cut], SystemState(S)) for cut in (150, 250)]
    assert all(0 < len(state.schemas) <= 3 for state in states)
    for cut, state in zip((150, 250), states, strict=True):
        again = taken_up(state)
        for record in records[cut:]:
            again.apply(record)
            state.apply(record)
            assert dict(again.schemas) == dict(state.schemas)
    assert set(states[0].schemas) <= set(FINGERPRINTS)


def test_details_that_only_a_hostile_record_holds_are_kept() -> None:
    details = {
        "raw": b"\xff",
        "ext": msgpack.ExtType(7, b"x"),
        "at": msgpack.Timestamp(1, 2),
        "nan": float("inf"),
    }
    refused = {
        "instance": "i1",
        "incarnation": "r1",
        "error": {"code": "c", "message": "m", "details": details},
        "decided_by": "r",
    }
    registered = ev.InstanceRegistered(
        incarnation="r1", mode="owned", contract={}, host="h", pid=1, version="1"
    )
    records = [
        Record(1, S.instance("orders", "g", "i1"), ev.encode_event(registered), 1),
        Record(2, S.watch("orders", "g"), msgpack.packb(["instance.refused.v1", refused]), 2),
    ]
    state = taken_up(folded(records))
    instance = state.topology.instance("orders", "g", "i1")
    assert instance is not None
    assert instance.refusal is not None
    assert instance.refusal.details == details
    assert digest_of(state) == digest_of(folded(records))


# -- records that some interpreters could read and others not ------------------------------------------------


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_an_event_that_is_nested_too_deep_is_malformed_for_everybody() -> None:
    about = {"instance": "i", "incarnation": "r", "decided_by": "r"}
    for depth, counted in ((ev.MAX_EVENT_DEPTH - 3, 0), (ev.MAX_EVENT_DEPTH, 1), (900, 1)):
        error = {"code": "c", "message": "m", "details": {"deep": 1}}
        packed = msgpack.packb(["instance.refused.v1", about | {"error": error}])
        payload = packed.replace(b"\xa4deep\x01", b"\xa4deep" + b"\x91" * depth + b"\x01")
        state = folded([Record(1, S.watch("orders", "g"), payload, 1)])
        assert state.topology.anomalies["malformed"] == counted
        assert inside(taken_up(state)) == inside(state)


def test_an_event_that_is_nested_too_deep_is_not_written() -> None:
    event = ev.GroupVacated(epoch=1, cause="c", evidence={"deep": _nested(200)}, decided_by="r")
    with pytest.raises(NotEncodable, match="nested deeper than 128"):
        ev.encode_event(event)


def test_schemas_that_are_nested_too_deep_are_unreadable_for_everybody() -> None:
    for depth, unreadable in (
        (contracts.MAX_SCHEMA_DEPTH - 2, 0),
        (contracts.MAX_SCHEMA_DEPTH, 1),
        (50_000, 1),
    ):
        text = f'{{"arguments":{{"x":{"[" * depth}{"]" * depth}}}}}'
        payload = ev.encode_event(contracts.pack({"a": text}))
        state = folded([Record(1, S.contract("orders", "g", "i"), payload, 1)])
        assert (state.schemas.unreadable, len(state.schemas)) == (unreadable, 1 - unreadable)
        assert digest_of(taken_up(state)) == digest_of(state)


# -- dumps that do not hold together ------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [None, 1, b"x", [], {}, [FOLD_VERSION], ["1"] * 10, [FOLD_VERSION] * 10])
def test_what_is_no_dump_is_refused(plain: Any) -> None:
    with pytest.raises(MalformedPayload, match="cannot read a dump of the system's state"):
        load_state(plain, S)


def test_a_dump_of_another_version_of_the_fold_is_refused() -> None:
    plain = dump_state(folded(a_history(2)))
    plain[0] = FOLD_VERSION + 1
    with pytest.raises(MalformedPayload, match=f"of version {FOLD_VERSION + 1} of the fold"):
        load_state(plain, S)


def _places(plain: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    if type(plain) is not list:
        return [path]
    return [path, *itertools.chain.from_iterable(_places(item, (*path, n)) for n, item in enumerate(plain))]


DAMAGED = dump_state(folded(a_history(9, 250)))
PLACES = _places(DAMAGED)[1:]


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(PLACES),
    st.sampled_from([None, True, -1, 1 << 63, "x", "0x1", b"x", [], ["x"], [[]], 1.5, {}]),
)
def test_a_dump_with_a_wrong_part_is_refused_or_read_for_what_it_says(
    path: tuple[int, ...], other: Any
) -> None:
    plain = msgpack.unpackb(msgpack.packb(DAMAGED))
    *way, last = path
    part = plain
    for step in way:
        part = part[step]
    was, part[last] = part[last], other
    try:
        state = load_state(plain, S)
    except MalformedPayload:
        return
    assert type(was) is type(other) or other is None or was is None or isinstance(was, int | str)
    again = msgpack.unpackb(pack_dump(dump_state(state)))
    assert digest_of_dump(msgpack.packb(again)) == digest_of(load_state(again, S))


def test_a_part_that_is_there_twice_is_refused() -> None:
    for place in (5, 7, 8, 9):
        plain = dump_state(folded(a_history(9, 250)))
        plain[place] = [*plain[place], plain[place][0]] if plain[place] else [["a", "b", []]] * 2
        with pytest.raises(MalformedPayload):
            load_state(plain, S)


def test_schemas_that_are_not_what_their_digest_says_are_refused() -> None:
    plain = dump_state(folded(a_history(9, 250)))
    _, kept = plain[6]
    assert kept
    kept[0][0] = "0" * 64
    with pytest.raises(MalformedPayload, match="not what the digest says"):
        load_state(plain, S)


def test_counts_of_marks_are_checked() -> None:
    plain = dump_state(folded(a_history(9, 250)))
    plain[5][0][2][3] = [[max(Mark) + 1, 1]]
    with pytest.raises(MalformedPayload, match="not a valid Mark"):
        load_state(plain, S)
