"""Clients from end to end: connections that break, clients that are closed, arguments that cannot be used."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from aegisipc.eventstore.errors import AckUnknown, LogFailed
from aegisipc.eventstore.log import Following
from aegisipc.sdk import Client, Service, connect
from aegisipc.sdk.errors import CallTimeout, InvalidName, NotConnected, ServiceDefinitionError
from tests.e2e.kit import Place, Running
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually


class Gate:
    """A service whose calls wait until they are let through."""

    def __init__(self) -> None:
        self.service = Service("gate", max_running=10_000)
        self.opened = asyncio.Event()
        self.started = 0

        @self.service.method(effect="idempotent")
        async def passing(number: int, size: int = 0) -> tuple[int, bytes]:
            self.started += 1
            await self.opened.wait()
            return number, b"x" * size

    async def let_through_unheard(self, proxy: FaultyProxy, running: Running, place: Place) -> None:
        """Every call gets its outcome while the client has no connection."""
        await proxy.refuse()
        await proxy.reset()
        self.opened.set()
        await eventually(lambda: running.host.is_quiet, within_s=20, what="every outcome is in the log")
        assert not (await place.recount()).without
        await proxy.listen()


def open_calls(client: Client) -> list[Any]:
    return list(client._dispatcher.open_calls.values())


async def test_after_a_broken_connection_every_one_of_thousands_of_callers_gets_the_logs_outcome(
    place: Place,
) -> None:
    gate = Gate()
    running = await place.serve(gate.service, "x")
    async with (
        FaultyProxy(place.url) as proxy,
        connect(proxy.url, namespace=place.namespace) as client,
    ):
        calls = [asyncio.create_task(client.call("gate.passing", n, timeout=15)) for n in range(8000)]
        await eventually(lambda: gate.started == 8000, within_s=20, what="all calls run")
        await eventually(
            lambda: all(call.seq for call in open_calls(client)), within_s=5, what="all accepted"
        )
        await gate.let_through_unheard(proxy, running, place)
        assert [number for number, _ in await asyncio.gather(*calls)] == list(range(8000))


async def test_outcomes_that_fit_in_no_one_answer_are_all_told_after_a_broken_connection(
    place: Place,
) -> None:
    gate = Gate()
    running = await place.serve(gate.service, "x")
    async with (
        FaultyProxy(place.url) as proxy,
        connect(proxy.url, namespace=place.namespace) as client,
    ):
        size = client._dispatcher._event_log.max_record_bytes * 2 // 5
        calls = [asyncio.create_task(client.call("gate.passing", n, size, timeout=20)) for n in range(24)]
        await eventually(lambda: gate.started == 24, within_s=10, what="all calls run")
        await eventually(
            lambda: all(call.seq for call in open_calls(client)), within_s=5, what="all accepted"
        )
        await gate.let_through_unheard(proxy, running, place)
        results = await asyncio.gather(*calls)
        assert [(number, len(body)) for number, body in results] == [(n, size) for n in range(24)]


async def test_who_waits_when_the_client_is_closed_is_told_so_and_attaches_from_another_client(
    place: Place,
) -> None:
    gate = Gate()
    await place.serve(gate.service, "x")
    client = await place.client()
    waiting = asyncio.create_task(client.call("gate.passing", 1, timeout=30))
    await eventually(lambda: gate.started == 1, within_s=5)
    await eventually(lambda: all(call.seq for call in open_calls(client)), within_s=5)
    await client.close()
    with pytest.raises(CallTimeout, match="this client was closed before its outcome came") as caught:
        await waiting
    gate.opened.set()
    attached = await (await place.client()).attach(caught.value.call_id)
    assert await attached.result(10) == (1, b"")


async def test_closing_that_was_cancelled_midway_is_finished_by_closing_again(own_place: Place) -> None:
    gate = Gate()
    await own_place.serve(gate.service, "x")
    client = await own_place.client()
    waiting = asyncio.create_task(client.call("gate.passing", 1, timeout=30))
    await eventually(lambda: gate.started == 1, within_s=5)
    own_place.server.freeze()
    try:
        closing = asyncio.create_task(client.close())
        await asyncio.wait({waiting})
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
    finally:
        own_place.server.thaw()
    await client.close()
    assert client._connection.is_closed
    with pytest.raises(CallTimeout, match="client was closed"):
        await waiting
    with pytest.raises(NotConnected, match="the client is closed"):
        await client.call("gate.passing", 2)


async def test_what_cannot_be_used_is_refused_before_anything_is_submitted(place: Place) -> None:
    gate = Gate()
    await place.serve(gate.service, "x")
    client = await place.client()
    unusable: Any
    for unusable in (object(), lambda: 1):
        for use in (client.call, client.submit):
            with pytest.raises(ServiceDefinitionError, match="cannot read results as returns="):
                await use("gate.passing", 1, returns=unusable)
    for unusable in ("1", [1], 0, -1, float("nan")):
        with pytest.raises(ServiceDefinitionError, match="it is a number above 0"):
            await client.call("gate.passing", 1, timeout=unusable)
    for unusable in (["x"], {}, 5, "\ud800"):
        with pytest.raises(InvalidName, match="as a resource id"):
            await client.call("gate.passing", 1, resource_id=unusable)
    assert client.open_calls == 0
    assert gate.started == 0
    assert not (await place.recount()).accepted


async def test_rereading_the_routes_stops_each_following_that_came_to_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    gate.opened.set()
    await place.serve(gate.service, "x")
    client = await place.client()
    dispatcher = client._dispatcher
    routes = dispatcher.routes
    first = routes._following
    assert first is not None
    made: list[Watched] = []
    follow = dispatcher._event_log.follow

    async def watched(*args: Any, **kwargs: Any) -> Following:
        made.append(Watched(await follow(*args, **kwargs), fails=not made))
        return made[-1]

    monkeypatch.setattr(dispatcher._event_log, "follow", watched)
    monkeypatch.setattr(first, "_failure", LogFailed("the log was replaced"))
    before = dispatcher.topology
    await eventually(lambda: routes._following is not None and len(made) == 2, within_s=5)
    assert [following.is_stopped for following in made] == [True, False]
    assert routes._following is made[1]
    assert dispatcher.topology is not before
    assert await client.call("gate.passing", 7) == (7, b"")


class Watched:
    """A following that knows whether it was stopped, and may never catch up."""

    def __init__(self, following: Following, *, fails: bool) -> None:
        self._following, self._fails = following, fails
        self.is_stopped = False

    @property
    def position(self) -> int:
        return self._following.position

    @property
    def failure(self) -> BaseException | None:
        return self._following.failure

    async def caught_up(self, timeout_s: float) -> None:
        if self._fails:
            raise AckUnknown("cannot read the log to its end")
        await self._following.caught_up(timeout_s)

    async def reached(self, seq: int, timeout_s: float) -> None:
        await self._following.reached(seq, timeout_s)

    async def stop(self) -> None:
        self.is_stopped = True
        await self._following.stop()
