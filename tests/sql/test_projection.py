"""What records mean for the tables: the same wherever they are cut, and what another reader counts."""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.bodies import Requeued, RequeuedCall
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    decode_calls,
    decode_pen,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import CallId, CallIds, format_call_id
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.references import Reference, encode_reference
from aegisipc.eventstore.replay.redaction import Redactor
from aegisipc.eventstore.sql import writing
from aegisipc.eventstore.sql.capture import Capture
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.models import Base
from aegisipc.eventstore.sql.projecting import Level
from aegisipc.eventstore.sql.texts import big, cut, plain, small
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS
from tests.router.domain.traffic import Traffic
from tests.router.domain.world import World
from tests.sdk.kit import GROUP, NS, SERVICE
from tests.sql.kit import Model
from tests.sql.stories import Story, Tables, project, project_on

FEW = settings(max_examples=12, deadline=None)
"""Each example is a whole history, projected several times."""


@pytest.fixture(scope="module")
def memory() -> Any:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def named(tables: Tables, name: str) -> list[dict[str, Any]]:
    """The rows of a table, by columns."""
    columns = list(Base.metadata.tables[f"aegis_{name}"].columns.keys())
    return [dict(zip(columns, row, strict=True)) for row in tables[f"aegis_{name}"]]


@FEW
@given(seed=st.integers(0, 1 << 32), level=st.sampled_from(Level))
def test_wherever_it_is_cut_and_begun_anew_the_tables_are_the_same(
    memory: Engine, seed: int, level: Level
) -> None:
    records = Story(seed).records(120)
    draw = random.Random(seed)
    cuts = [draw.randint(1, len(records) - 1) for _ in range(draw.randint(1, 30))]
    assert project(memory, records, cuts, level=level) == project(memory, records, level=level)


def test_batches_of_one_record_give_the_same_tables(memory: Engine) -> None:
    records = Story(17).records(150)
    for level in Level:
        cuts = range(1, len(records))
        assert project(memory, records, cuts, level=level) == project(memory, records, level=level)


async def test_both_databases_hold_the_same(memory: Engine, model: Model) -> None:
    async with open_database(model.url) as database:
        for seed in (1, 2):
            records = Story(seed).records(200)
            found = await database.write(partial(project_on, records=records, cuts=[50, 51, 120]))
            assert found == project(memory, records)


def accepted(records: list[Record]) -> dict[CallId, AcceptedCall]:
    """The calls, each as its only frame tells it. Those whose id came twice are left out, and those that were
    requeued: the fold takes the holder's word for it that there was a dead letter.
    """
    found: dict[CallId, AcceptedCall] = {}
    times: Counter[CallId] = Counter()
    seen: set[tuple[str, int, int]] = set()
    for record in records:
        place = NS.parse(record.subject)
        if place.kind in CONCLUSIONS:
            entries = decode_pen(record.payload, bodies=False).entries
            times.update({call_id: 2 for mark, call_id in entries if mark is Mark.REQUEUED})
        if place.kind != CALL:
            continue
        frame = decode_calls(record.payload, bodies=False)
        is_new = all(not (s == record.subject and n >= frame.number) for s, _, n in seen)
        seen.add((record.subject, frame.session, frame.number))
        for entry in frame.entries:
            times[entry.call_id] += 1
            if entry.options and entry.options.requeue:
                times[entry.call_id] += 1
            if is_new:
                deadline_ns = record.timestamp_ns + entry.timeout_ms * 1_000_000
                found.setdefault(
                    entry.call_id,
                    AcceptedCall(
                        entry.call_id,
                        place.service,
                        place.group,
                        place.who,
                        entry.method,
                        entry.resource,
                        record.seq,
                        record.timestamp_ns,
                        deadline_ns,
                        frame.epoch,
                        b"",
                    ),
                )
    return {call_id: call for call_id, call in found.items() if times[call_id] == 1}


@FEW
@given(seed=st.integers(0, 1 << 32))
@example(seed=123532)
@example(seed=1000010)
def test_the_history_of_each_call_comes_to_its_status(memory: Engine, seed: int) -> None:
    """The history of single calls is folded by other code."""
    records = Story(seed, repeats=False).records(150)
    tables = project(memory, records)
    rows = {row["call_id"]: row for row in named(tables, "calls")}
    for call_id, call in accepted(records).items():
        history = CallHistory(NS, call)
        for record in records:
            history.apply(record)
        row = rows[format_call_id(call_id)]
        assert row["status"] == history.state.value
        assert (row["accepted_seq"], row["accepted_ns"]) == (call.seq, call.at_ns)
        assert (row["service"], row["group_name"], row["client"]) == (call.service, call.group, call.client)


def failover() -> World:
    world = World()
    world.joined("a", "b")
    traffic = Traffic(world)
    traffic.call(3)
    first, second, third = traffic.open
    world.log.now_ns += 5_000_000
    world.marks("a", (Mark.CLAIMED, first), (Mark.CLAIMED, second))
    world.log.now_ns += 7_000_000
    world.marks("a", (Mark.SUCCEEDED, first))
    world.pulse("a", "b")
    world.silence(1500, "b")
    world.settle()
    world.marks("b", (Mark.IN_DOUBT, second), (Mark.SUCCEEDED, third))
    return world


def test_a_failover_is_told_in_full(memory: Engine) -> None:
    tables = project(memory, failover().log.records)
    first, second = named(tables, "promotions")
    assert (first["event"], first["holder"], first["former_holder"], first["kind"]) == (
        "promoted",
        "a",
        None,
        "first",
    )
    assert (second["event"], second["holder"], second["former_holder"], second["epoch"]) == (
        "promoted",
        "b",
        "a",
        2,
    )
    assert second["cause"]
    assert second["decided_by"] == "r1"
    (group,) = named(tables, "groups")
    assert (group["state"], group["holder"], group["epoch"], group["paused"]) == ("held", "b", 2, False)
    told = [(row["instance"], row["event"]) for row in named(tables, "instance_events")]
    assert ("a", "suspected") in told
    assert told.count(("a", "demoted")) == 1
    assert told.count(("b", "promoted")) == 1
    one, two, three = named(tables, "calls")
    assert (one["status"], one["latency_us"], one["concluded_by"]) == ("succeeded", 12_000, "a")
    assert one["started_ns"] - one["accepted_ns"] == 5_000_000
    assert (two["status"], two["claimed_by"], two["claimed_epoch"]) == ("in_doubt", "a", 1)
    assert (three["status"], three["claimed_by"], three["concluded_by"]) == ("succeeded", None, "b")
    (doubt,) = named(tables, "doubts")
    assert (doubt["call_id"], doubt["claimed_by"], doubt["resolution"]) == (two["call_id"], "a", None)


def test_at_level_failures_only_trouble_has_rows(memory: Engine) -> None:
    records = failover().log.records
    tables = project(memory, records, level=Level.FAILURES)
    (row,) = named(tables, "calls")
    assert (row["status"], row["method"], row["client"]) == ("in_doubt", "get", "c1")
    assert row["started_ns"] - row["accepted_ns"] == 5_000_000
    off = project(memory, records, level=Level.OFF)
    assert off["aegis_calls"] == []
    assert off["aegis_doubts"] == tables["aegis_doubts"]
    assert off["aegis_promotions"] == tables["aegis_promotions"]


def test_a_run_that_is_followed_by_another_is_over(memory: Engine) -> None:
    world = World()
    world.joined("a")
    world.register("a", "2")
    rows = {row["incarnation"]: row for row in named(project(memory, world.log.records), "instances")}
    assert rows["1"]["ended_ns"] is not None
    assert rows["1"]["ended_cause"].startswith("followed by incarnation 2")
    assert rows["2"]["ended_ns"] is None


def test_a_promotion_that_is_only_written_again_is_none(memory: Engine) -> None:
    world = World()
    world.joined("a")
    before = project(memory, world.log.records)
    world.log.promote("a", 1, kind="first")
    assert project(memory, world.log.records)["aegis_promotions"] == before["aegis_promotions"]


async def test_hostile_names_and_numbers_fit_their_columns(model: Model) -> None:
    world = World()
    world.joined("a")
    huge = (1 << 64) - 1
    odd = "\0" + "ä" * 5000
    event = ev.GroupPromoted(epoch=huge, holder=odd, incarnation=odd, cause=odd, author=odd, decided_by=odd)
    world.log.say(NS.fence(SERVICE, GROUP), event)
    said = ev.InstanceLeft(incarnation="1", cause=odd)
    world.log.say(NS.instance(SERVICE, GROUP, "a"), said)
    async with open_database(model.url) as database:
        tables = await database.write(partial(project_on, records=world.log.records))
    last = named(tables, "promotions")[-1]
    assert last["epoch"] == (1 << 63) - 1
    assert len(last["holder"]) == 255
    assert "\0" not in last["cause"]


@pytest.mark.parametrize("level", [Level.ALL, Level.FAILURES])
async def test_a_dead_letter_that_comes_back_with_hostile_numbers_fits_its_columns(
    model: Model, level: Level
) -> None:
    world, call_id = World(), CallIds(1).next(1)
    world.joined("a")
    world.log.promote("a", 1, "1")
    huge = (1 << 63) - 1
    was = RequeuedCall(client="c1", method="pay", resource=None, key=None, priority=huge, body=b"")
    again = Requeued(author="ann", dead_seq=1, timeout_ms=huge, call=was)
    call = CallFrame(1, 1, 1, [CallEntry(call_id, "pay", 1000, None)], [b""])
    world.log.append(NS.call(SERVICE, GROUP, "c1"), encode_calls(call))
    for number, (mark, body) in enumerate([(Mark.DEAD_LETTERED, None), (Mark.REQUEUED, encode(again))], 1):
        frame = PenFrame(2, number, 1, [PenEntry(mark, call_id)], [body])
        world.log.append(NS.dead(SERVICE, GROUP, "a"), encode_pen(frame))
    async with open_database(model.url) as database:
        tables = await database.write(partial(project_on, records=world.log.records, level=level))
    [row] = named(tables, "calls")
    assert (row["status"], row["deadline_ns"]) == ("accepted", huge)


async def test_many_rows_go_in_parts_and_none_is_left_out(
    memory: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_AT_ONCE", 3)
    records = Story(21).records(80)
    async with open_database(model.url) as database:
        cut_up = await database.write(partial(project_on, records=records, cuts=[50]))
    assert cut_up == project(memory, records)


def test_what_is_cut() -> None:
    assert cut("a\0b") == "a\ufffdb"
    assert cut("x" * 300, 10) == "x" * 9 + "…"
    assert cut("\ud800") == "?"
    assert (big(1 << 70), big(-(1 << 70))) == ((1 << 63) - 1, -(1 << 63) + 1)
    assert (small(1 << 40), small(5)) == ((1 << 31) - 1, 5)
    assert plain({"a": {"b": "\0"}}) == {"a": {"b": "\ufffd"}}
    assert "inf" in plain({"a": float("inf")})["as_text"]
    assert "left_out" in plain({"a": "x" * 20_000})
    assert plain({"a": "\\u0000 \\\0"}) == {"a": "\\u0000 \\\ufffd"}  # what somebody wrote, and NUL
    assert plain({"a": {b"k": 1}}) == {"as_text": "{'a': {b'k': 1}}"}
    assert "1 fields" in plain({"a": 10**5000})["as_text"]


def test_captured_bodies_are_bounded_and_redacted() -> None:
    both = Capture(arguments=True, results=True, redact=Redactor(["iban"]), max_bytes=100)
    body = encode([[{"iban": "DE1", "to": [{"iban": 7}]}], {"n": b"\x01"}])
    assert json.loads(both.arguments_text(body) or "") == [
        [{"iban": "xxx", "to": [{"iban": 0}]}],
        {"n": "AQ=="},
    ]
    long = json.loads(both.result_text(encode("ä" * 90)) or "")
    assert long["$truncated"] is True
    assert long["beginning"].startswith('"ä')
    assert json.loads(both.result_text(encode("x" * 10_000)) or "") == {"$truncated": True, "bytes": 10_003}
    assert json.loads(both.result_text(b"\xc1") or "") == {"$unreadable": True, "bytes": 1}
    reference = encode_reference(Reference("orders.acc.x.args", 5_000_000, bytes(32)))
    assert json.loads(both.arguments_text(reference) or "")["bytes"] == 5_000_000
    hidden = Capture(arguments=True, results=True, redact=Redactor(["arguments", "results"]))
    blank = '[[{"iban":"xxx","to":[{"iban":0}]}],{"n":"eA=="}]'
    assert (hidden.arguments_text(body), hidden.result_text(body)) == (blank, blank)
    assert json.loads(both.arguments_text(encode([{"a": "\\u0000 \0"}])) or "") == [{"a": "\\u0000 \ufffd"}]
    assert (Capture().arguments_text(body), Capture().result_text(body), both.result_text(None)) == (
        None,
    ) * 3
