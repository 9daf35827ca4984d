"""Asking routers: what is asked again, what is not, and what is said when nobody answers."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from aegisipc.eventstore.errors import InvalidName, MalformedPayload
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli import draining, promoting
from aegisipc.router.cli.asking import (
    NoLeader,
    Refused,
    ask,
    ask_leader,
    check_group,
)
from aegisipc.router.infrastructure.embedded import EmbeddedServer

SILENT = b""
DONE = json.dumps({"ok": True, "seq": 7}).encode()


def error(code: str, **details: Any) -> bytes:
    return json.dumps({"error": {"code": code, "message": f"cannot: {code}", "details": details}}).encode()


class Router:
    """Answers with what it is given, one after the other; the last one for ever."""

    def __init__(self, connection: Connection, answers: Sequence[bytes]) -> None:
        self._connection, self._answers = connection, list(answers)
        self.asked: list[Any] = []

    def take(self, message: Message) -> None:
        self.asked.append(json.loads(message.payload))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer != SILENT:
            self._connection.publish_nowait(message.reply, answer)


class Place:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.subjects: Subjects = subjects_of(f"ask-{uuid4().hex[:12]}")

    async def router(self, *answers: bytes, verb: str = "drain") -> Router:
        router = Router(self.connection, answers)
        await self.connection.subscribe(self.subjects.api(verb), router.take)
        return router

    async def ask_leader(self, timeout_s: float = 20.0) -> dict[str, Any]:
        return await ask_leader(self.connection, self.subjects, "drain", {"instance": "a"}, timeout_s)


@asynccontextmanager
async def opened(server: EmbeddedServer) -> AsyncIterator[Place]:
    async with await Connection.open(ConnectOptions(server.url)) as connection:
        yield Place(connection)


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    async with opened(shared_server) as found:
        yield found


async def test_the_answer_of_a_leader_is_returned_at_once(place: Place) -> None:
    router = await place.router(DONE)
    assert await place.ask_leader() == {"ok": True, "seq": 7}
    assert router.asked == [{"instance": "a"}]


@pytest.mark.parametrize("passing", [SILENT, error("cannot_decide"), error("overloaded")])
async def test_what_time_heals_is_asked_again(passing: bytes, place: Place) -> None:
    router = await place.router(passing, passing, DONE)
    assert (await place.ask_leader())["seq"] == 7
    assert len(router.asked) == 3


async def test_a_refusal_is_final_and_keeps_code_and_details(place: Place) -> None:
    router = await place.router(error("last_instance", open_calls=3))
    with pytest.raises(Refused) as refused:
        await place.ask_leader()
    assert (refused.value.code, refused.value.message) == ("last_instance", "cannot: last_instance")
    assert (refused.value.details, refused.value.unanswered) == ({"open_calls": 3}, 0)
    assert len(router.asked) == 1
    again = pickle.loads(pickle.dumps(refused.value))
    assert again.to_plain() == refused.value.to_plain()


async def test_a_refusal_tells_that_earlier_requests_may_have_been_the_reason(place: Place) -> None:
    await place.router(SILENT, error("already_active", epoch=2))
    with pytest.raises(Refused) as refused:
        await place.ask_leader()
    assert (refused.value.code, refused.value.unanswered) == ("already_active", 1)


async def test_routers_of_which_none_leads_are_told_from_no_router_at_all(place: Place) -> None:
    with pytest.raises(NoLeader) as nobody:
        await place.ask_leader(0.3)
    assert "no router runs; start one with aegis router" in nobody.value.message
    await place.router(SILENT)
    with pytest.raises(NoLeader) as silent:
        await place.ask_leader(0.3)
    assert "wait until one of those that run leads" in silent.value.message
    assert silent.value.waited_s == 0.3


async def test_the_last_refusal_that_time_did_not_heal_is_raised(place: Place) -> None:
    await place.router(error("cannot_decide", reason="timeout"))
    with pytest.raises(Refused) as refused:
        await place.ask_leader(0.3)
    assert refused.value.code == "cannot_decide"


@pytest.mark.parametrize(
    "answer", [b"rubbish", b"[1]", b"7", b'{"error": "no"}', b'{"error": {"code": "x"}}', b"[" * 100_000]
)
async def test_an_answer_that_makes_no_sense_is_an_error_of_ours(answer: bytes, place: Place) -> None:
    await place.router(answer)
    with pytest.raises(MalformedPayload):
        await ask(place.connection, place.subjects.api("drain"), {}, 5.0)


@pytest.mark.parametrize(("name", "fine"), [("g1", True), ("_pool", True), ("_x", False), ("a.b", False)])
def test_groups_have_names_and_pools_have_theirs(name: str, *, fine: bool) -> None:
    if fine:
        assert check_group(name) == name
    else:
        with pytest.raises(InvalidName):
            check_group(name)


# -- when only the answer was lost -------------------------------------------------------------------------


async def test_an_instance_that_left_while_nobody_answered_was_drained(place: Place) -> None:
    await place.router(SILENT, error("instance_gone", state="left"))
    assert await draining.decided(place.connection, place.subjects, {"instance": "a"}, 20.0) is None


@pytest.mark.parametrize(
    "answers", [[error("instance_gone", state="left")], [SILENT, error("instance_gone", state="lost")]]
)
async def test_an_instance_that_had_left_before_or_was_lost_was_not(
    answers: list[bytes], place: Place
) -> None:
    await place.router(*answers)
    with pytest.raises(Refused):
        await draining.decided(place.connection, place.subjects, {"instance": "a"}, 20.0)


async def test_an_instance_that_holds_the_pen_since_nobody_answered_was_promoted(place: Place) -> None:
    command = {"service": "desk", "group": "g1", "instance": "b"}
    await place.router(SILENT, error("already_active", instance="b", epoch=2), verb="promote")
    told = await promoting.decided(place.connection, place.subjects, command, 20.0)
    assert (told["instance"], told["epoch"], told["seq"]) == ("b", 2, 0)


async def test_an_instance_that_held_the_pen_before_was_not_promoted(place: Place) -> None:
    command = {"service": "desk", "group": "g1", "instance": "b"}
    await place.router(error("already_active", instance="b", epoch=2), verb="promote")
    with pytest.raises(Refused):
        await promoting.decided(place.connection, place.subjects, command, 20.0)
