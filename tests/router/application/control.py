"""A namespace on a real server, whose instances are records that the test writes, and an operator."""

from __future__ import annotations

import itertools
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallIds
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.topology import GroupView
from aegisipc.router.application.commands import Commands, Host
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.domain.decide import Policy, leads
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.sdk.kit import GROUP, SERVICE, registered
from tests.support.waiting import eventually

PATIENT = Policy(suspect_after_ms=60_000, lost_after_ms=120_000, leader_after_ms=60_000)
"""Nobody is suspected, so that nothing moves but by commands."""

PLACE = {"service": SERVICE, "group": GROUP}
ALICE = {"author": "alice", "reason": "r"}


class Freezable(Router):
    """A router that can be made to read nothing for a while; then it catches up."""

    held: list[Record] | None = None

    def _on_record(self, record: Record) -> None:
        if self.held is None:
            super()._on_record(record)
        else:
            self.held.append(record)

    def freeze(self) -> None:
        self.held = []

    def thaw(self) -> None:
        held, self.held = self.held or [], None
        for record in held:
            super()._on_record(record)


class Control:
    """A namespace whose instances are records that the test writes, and an operator."""

    _namespaces = itertools.count(1)

    def __init__(self, server: EmbeddedServer, stack: AsyncExitStack) -> None:
        self._url, self._namespace, self._stack = server.url, f"commands{next(self._namespaces)}", stack
        self.ids = CallIds(5)
        self._frames = 0

    async def router(self, name: str) -> Freezable:
        options = RouterOptions(self._url, self._namespace, id=name, policy=PATIENT, probe_ms=0)
        return await self._stack.enter_async_context(Freezable(options))

    async def leader(self, name: str = "one") -> Freezable:
        router = await self.router(name)
        await eventually(lambda: leads(router.state, router.me), within_s=10, what=f"{name} leads")
        return router

    async def follower(self, name: str = "two") -> Freezable:
        router = await self.router(name)
        assert not leads(router.state, router.me)
        return router

    async def say(self, router: Router, instance: str, event: ev.Event, group: str = GROUP) -> None:
        await self.append(router, router.subjects.instance(SERVICE, group, instance), ev.encode_event(event))

    async def append(self, router: Router, subject: str, payload: bytes) -> None:
        assert router._log is not None
        appended = await router._log.append(subject, payload)
        if not isinstance(router, Freezable) or router.held is None:
            await router._following[1].reached(appended.seq, 5)

    async def join(self, router: Router, *instances: str, group: str = GROUP, resource: str = "x") -> None:
        for instance in instances:
            await self.say(router, instance, registered("1", group=group, resources=[resource]), group)
            await eventually(
                lambda name=instance: group_of(router, group).instances[name].admitted,  # type: ignore[misc]
                within_s=5,
            )
            await self.say(router, instance, ev.InstanceReady(incarnation="1"), group)
        await eventually(lambda: group_of(router, group).holder, within_s=5, what="somebody holds the pen")

    async def doubts(self, router: Router, count: int, resource: str) -> list[bytes]:
        """So many calls are claimed by the holder and come into doubt."""
        calls = [self.ids.next(1_800_000_000_000) for _ in range(count)]
        self._frames += 1
        frame = CallFrame(
            1, self._frames, 0, [CallEntry(c, "pay", 1000, resource) for c in calls], [b"x"] * count
        )
        await self.append(router, router.subjects.call(SERVICE, GROUP, "c"), encode_calls(frame))
        facts = [PenEntry(mark, c) for c in calls for mark in (Mark.CLAIMED, Mark.IN_DOUBT)]
        group = group_of(router)
        pen = PenFrame(2, self._frames, group.epoch, facts, [None] * len(facts))
        assert group.holder is not None
        await self.append(router, router.subjects.pen(SERVICE, GROUP, group.holder), encode_pen(pen))
        return calls


def group_of(router: Router, name: str = GROUP) -> GroupView:
    found = router.state.topology.group(SERVICE, name)
    assert found is not None
    return found


def commands_of(router: Router) -> Commands:
    assert router._commands is not None
    return router._commands


def rehost(router: Router, **changes: Any) -> None:
    """Let the router's commands use something else in place of a part of the router."""
    commands = commands_of(router)
    commands._host = replace(commands._host, **changes)


class Answers:
    """Every answer that a router gives to commands."""

    def __init__(self, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of_router: list[dict[str, Any]] = []
        connection, send = commands_of(router)._host.connection, Host.answer

        def answer(host: Host, to: str, payload: bytes) -> None:
            if host.connection is connection:
                self.of_router.append(json.loads(payload))
            send(host, to, payload)

        monkeypatch.setattr(Host, "answer", answer)


async def ask(router: Router, verb: str, request: dict[str, Any] | bytes) -> dict[str, Any]:
    assert router._connection is not None
    payload = request if isinstance(request, bytes) else json.dumps(request).encode()
    answer = await router._connection.request(router.subjects.api(verb), payload, timeout_s=10)
    told = json.loads(answer.payload)
    assert isinstance(told, dict)
    return told


async def refusal(router: Router, verb: str, request: dict[str, Any] | bytes) -> str:
    """The code of the error that answers."""
    error = (await ask(router, verb, request))["error"]
    assert error["message"].startswith("cannot ")
    assert isinstance(error["details"], dict)
    return str(error["code"])


async def recorded(router: Router, cls: type[ev.Event]) -> list[Any]:
    """All events of that kind in the log."""
    assert router._log is not None
    found = [ev.decode_event(r.payload) async for r in router._log.read([router.subjects.topology])]
    return [event for event in found if isinstance(event, cls)]


def received(router: Router, verb: str) -> int:
    subject = router.subjects.api(verb)
    return sum(s.received for s in router._subscriptions if s.subject == subject)
