"""Subjects: where things are, and reading them back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import InvalidName, MalformedPayload
from aegisipc.eventstore.memory import matches
from aegisipc.eventstore.subjects import Place, PulsePlace, may_answer, subjects_of
from tests.eventstore.test_names import names

S = subjects_of("trading")


def test_subjects_are_laid_out_as_documented() -> None:
    assert {
        "log": S.everything,
        "topology": S.topology,
        "group": S.group("orders", "acc"),
        "kind": S.of_kind("orders", "acc", "call"),
        "fence": S.fence("orders", "acc"),
        "watch": S.watch("orders", "acc"),
        "instance": S.instance("orders", "acc", "i1"),
        "call": S.call("orders", "acc", "c1"),
        "pen": S.pen("orders", "acc", "i1"),
        "term": S.term,
        "pulse": S.pulse("instance", "i1"),
        "reply": S.reply("c1"),
        "ask": S.ask("orders", "acc"),
        "find": S.find_key("orders", "acc"),
        "dead": S.dead("orders", "acc", "i1"),
        "keys": S.keys("orders", "acc", "i1"),
        "contract": S.contract("orders", "acc", "i1"),
        "cancel": S.cancel("orders", "acc", "c1"),
        "flow": S.flow("orders", "acc"),
        "conclusions": " ".join(S.conclusions("orders", "acc")),
        "api": S.api("status"),
        "streams": f"{S.stream} {S.pulse_stream}",
    } == {
        "log": "aegis.trading.log.>",
        "topology": "aegis.trading.log.*.*.ha.*",
        "group": "aegis.trading.log.orders.acc.>",
        "kind": "aegis.trading.log.orders.acc.call.*",
        "fence": "aegis.trading.log.orders.acc.ha._group",
        "watch": "aegis.trading.log.orders.acc.ha._watch",
        "instance": "aegis.trading.log.orders.acc.ha.i1",
        "call": "aegis.trading.log.orders.acc.call.c1",
        "pen": "aegis.trading.log.orders.acc.pen.i1",
        "term": "aegis.trading.log._router._.term",
        "pulse": "aegis.trading.pulse.instance.i1",
        "reply": "aegis.trading.reply.c1",
        "ask": "aegis.trading.ask.orders.acc",
        "find": "aegis.trading.find.orders.acc",
        "dead": "aegis.trading.log.orders.acc.dead.i1",
        "keys": "aegis.trading.log.orders.acc.keys.i1",
        "contract": "aegis.trading.log.orders.acc.contract.i1",
        "cancel": "aegis.trading.log.orders.acc.cancel.c1",
        "flow": "aegis.trading.flow.orders.acc",
        "conclusions": "aegis.trading.log.orders.acc.dead.* aegis.trading.log.orders.acc.pen.*",
        "api": "aegis.trading.api.status",
        "streams": "AEGIS_trading AEGIS_trading_PULSE",
    }


@given(names, names, names)
def test_what_was_written_into_a_subject_is_read_back(service: str, group: str, who: str) -> None:
    assert S.parse(S.call(service, group, who)) == Place(service, group, "call", who)
    assert S.parse(S.pen(service, group, who)) == Place(service, group, "pen", who)
    assert S.parse(S.instance(service, group, who)) == Place(service, group, "ha", who)
    assert S.parse(S.fence(service, group)) == Place(service, group, "ha", "_group")
    assert S.parse_pulse(S.pulse("instance", who)) == PulsePlace("instance", who)


def test_a_subject_without_a_writer_has_an_empty_one() -> None:
    assert S.parse(S.term) == Place("_router", "_", "term", "")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "aegis.other.log.orders.acc.call.c1",
        "aegis.trading.pulse.instance.i1",
        "aegis.trading.log.orders.acc",
        "aegis.trading.log.orders.acc.call.c1.more",
        "aegis.trading.log..acc.call.c1",
        "aegis.trading.log.orders.acc.call.",
    ],
)
def test_a_foreign_subject_is_malformed(subject: str) -> None:
    with pytest.raises(MalformedPayload, match="namespace 'trading'"):
        S.parse(subject)


@pytest.mark.parametrize("subject", ["", "aegis.other.pulse.instance.i1", "aegis.trading.pulse.instance."])
def test_a_foreign_pulse_is_malformed(subject: str) -> None:
    with pytest.raises(MalformedPayload, match="not a pulse"):
        S.parse_pulse(subject)


@given(st.text())
def test_parsing_raises_nothing_but_malformed_payload(subject: str) -> None:
    for parse in (S.parse, S.parse_pulse):
        try:
            parse(subject)
        except MalformedPayload:
            continue


@pytest.mark.parametrize("namespace", ["", "_x", "a.b", "x" * 64, "prod_PULSE"])
def test_a_namespace_that_cannot_name_its_streams_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidName, match="namespace"):
        subjects_of(namespace)


@given(names.filter(lambda n: not n.endswith("_PULSE")), names.filter(lambda n: not n.endswith("_PULSE")))
def test_no_two_namespaces_share_a_stream(one: str, other: str) -> None:
    if one != other:
        a, b = subjects_of(one), subjects_of(other)
        assert not {a.stream, a.pulse_stream} & {b.stream, b.pulse_stream}


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("a.b", "a.b.c", False),
    ],
)
def test_filters_match_as_the_server_does(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("_INBOX.abc.1", True),
        ("_INBOX_alice.abc.1", True),
        ("tenants.a.inbox.1", True),
        ("_R_.abc.1", True),  # as an asker in another account is known
        ("_GR_.cluster.hash._INBOX.abc", True),
        ("inbox", True),
        ("aegis2.prod.log", True),
        ("Aegis.prod.log", True),  # subjects are case-sensitive
        ("x.aegis.prod.log", True),
        ("", False),
        ("aegis", False),
        ("aegis.", False),
        ("aegis.prod.log.orders.g1.ha._group", False),
        ("aegis.another.log.orders.g1.pen.i", False),
        ("aegis.prod.reply.c", False),
        ("aegis._INBOX.abc", False),
        ("$JS.API.STREAM.INFO.AEGIS_prod", False),
        ("$JS.ACK.AEGIS_prod.c.1.2.3.4.5", False),
        ("$O.AEGIS_prod_OBJECTS.C.x", False),
        ("$SYS.REQ.SERVER.PING", False),
        ("$", False),
        (".aegis.prod.log", False),
    ],
)
def test_answers_go_to_inboxes_only(reply: str, expected: bool) -> None:
    assert may_answer(reply) is expected


@given(names.filter(lambda n: not n.endswith("_PULSE")), names, names, names)
def test_no_subject_of_the_system_is_an_inbox(namespace: str, service: str, group: str, who: str) -> None:
    at = subjects_of(namespace)
    of_writers = (
        at.call,
        at.pen,
        at.dead,
        at.keys,
        at.cancel,
        at.evidence,
        at.contract,
        at.state,
        at.instance,
    )
    of_groups = (at.fence, at.watch, at.flow, at.ask, at.tell, at.find_key, at.peers)
    subjects = [
        *(make(service, group, who) for make in (*of_writers, at.probe)),
        *(make(service, group) for make in of_groups),
        *(at.term, at.snapshot_index, at.snapshot_part),
        *(at.reply(who), at.api(who), at.pulse("instance", who)),
    ]
    assert not any(may_answer(subject) for subject in subjects)
