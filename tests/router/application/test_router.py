"""A running router: what it refuses, what it survives, and that it never keeps a lead that it cannot use."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore.errors import LimitExceeded, LogMisconfigured, NotConnected
from aegisipc.eventstore.events import Event, InstanceRefused, encode_event
from aegisipc.eventstore.lifecycles import RouterState
from aegisipc.eventstore.streams import LogOptions
from aegisipc.router.application import router as module
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.domain import decide as decisions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Service
from aegisipc.sdk.errors import AegisError, ContractConflict
from tests.e2e.kit import Place
from tests.support.waiting import eventually


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    """A fresh namespace on the shared server, without a router."""
    async with AsyncExitStack() as stack:
        yield Place(shared_server, stack)


def offering(name: str, *methods: str) -> Service:
    service = Service(name)
    for method in methods:

        async def answer() -> int:
            return 1

        service.method(effect="pure", name=method)(answer)
    return service


async def until_leading(router: Router) -> None:
    await eventually(lambda: router.phase is RouterState.LEADING, within_s=10, what=f"{router.me.id} leads")


def break_decisions(monkeypatch: pytest.MonkeyPatch, broken: Router) -> None:
    """Let this router's decisions raise what nobody expects; others go on."""
    sound = decisions.decide

    def decide(state: Any, board: Any, me: Any, *rest: Any) -> Any:
        if me == broken.me:
            raise ZeroDivisionError("a defect")
        return sound(state, board, me, *rest)

    monkeypatch.setattr(module, "decide", decide)


async def test_a_contract_that_differs_in_a_thousand_methods_is_refused_and_the_router_goes_on(
    place: Place,
) -> None:
    router = await place.router()
    await place.serve(offering("wide", *(f"a_rather_long_name_{n}" for n in range(1000))), instance="one")
    with pytest.raises(ContractConflict, match="and 992 more") as caught:
        await place.serve(offering("wide", *(f"another_name_{n}" for n in range(1000))), instance="two")
    assert (len(caught.value.differences), caught.value.more) == (8, 992)
    await place.serve(offering("other", "get"))
    assert (router.failure, router.skipped) == (None, 0)


async def test_a_decision_that_cannot_be_appended_keeps_no_other_from_being_made(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(event: Event) -> bytes:
        if isinstance(event, InstanceRefused):
            raise LimitExceeded("cannot encode it")
        return encode_event(event)

    monkeypatch.setattr(module, "encode_event", encode)
    router = await place.router()
    await place.serve(offering("narrow", "get"))
    with pytest.raises(AegisError, match="nobody admitted the instance"):
        await place.serve(offering("narrow", "put"), instance="odd", join_timeout_s=0.5)
    assert router.skipped > 0
    await place.serve(offering("other", "get"))
    assert router.failure is None
    assert router.status()["skipped"] == router.skipped


async def test_a_router_that_cannot_decide_gives_up_the_lead(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await place.router(id="broken")
    await until_leading(broken)
    other = await place.router(id="other")
    break_decisions(monkeypatch, broken)
    await until_leading(other)
    assert isinstance(broken.failure, ZeroDivisionError)
    await place.serve(offering("orders", "get"))


async def test_a_router_that_cannot_decide_and_cannot_resign_falls_silent_and_is_replaced(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await place.router(id="broken")
    await until_leading(broken)
    other = await place.router(id="other")

    async def append(decision: object) -> int:
        raise NotConnected("cannot append")

    monkeypatch.setattr(broken, "_append", append)
    break_decisions(monkeypatch, broken)
    await until_leading(other)
    assert other.state.topology.leadership.router == "other"


async def test_status_answers_whatever_a_pulse_says(place: Place) -> None:
    router = await place.router()
    connection = router._connection
    assert connection is not None
    hostile = {
        "service": "s",
        "group": "g",
        "incarnation": "i",
        "running": b"\xff",
        "waiting": {"a": {"b": 1}},
        "open": 3,
        "epoch": "x" * 2000,
        "fenced": 2,
        "healthy": True,
    }
    connection.publish_nowait(router.subjects.pulse("instance", "odd"), msgpack.packb(hostile))
    await eventually(lambda: ("s", "g", "odd") in router.board.instances, within_s=5)
    answer = await connection.request(router.subjects.api("status"), b"", timeout_s=5)
    shown = json.loads(answer.payload)["pulses"]["s/g/odd"]
    del shown["age_ms"]
    assert shown == {
        "running": None,
        "waiting": None,
        "open": 3,
        "epoch": None,
        "fenced": 2,
        "doubts": None,
        "healthy": True,
        "incarnation": "i",
    }


async def test_a_router_refuses_a_log_whose_records_are_to_age_out(place: Place) -> None:
    options = RouterOptions(place.url, place.namespace, log=LogOptions(max_age_s=60))
    with pytest.raises(LogMisconfigured, match="records age out"):
        await Router(options).start()
