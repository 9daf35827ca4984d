"""What an incarnation says unasked: that it is unhealthy or well again, and that its pen may go elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from aegisipc.eventstore.errors import NotConnected
from aegisipc.eventstore.events import Event, InstanceHealthy, InstanceYielded
from aegisipc.sdk.announcing import Announcer
from aegisipc.sdk.core.health import HealthRecord
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.health import HealthCheck
from aegisipc.sdk.health_watch import HealthWatch
from aegisipc.sdk.hosts.base import Host, Signal
from aegisipc.sdk.yielding import Yielding
from tests.support.waiting import eventually

ME = Identity("orders", "g1", "orders-1", "first", 1)


class FakeHost:
    """A host that is told what to yield; ``held`` says why it may start nothing."""

    me = None
    group = None

    def __init__(self) -> None:
        self.signal = Signal()
        self.to_yield: int | None = None
        self.held: str | None = None

    def is_to_yield(self, epoch: int | None) -> None:
        self.to_yield = epoch
        self.signal.notify()

    def hold(self, reason: str) -> None:
        self.held = reason
        self.is_to_yield(7)  # it is quiet at once

    def release(self) -> None:
        self.held = None
        self.is_to_yield(None)


class FakeAnnouncer:
    """Takes what is said while ``log`` is set, and what is insisted on once ``patience`` is.

    ``attempts`` counts also what it could not take. So many of the next yields count for nothing as ``deaf``
    says.
    """

    def __init__(self, host: FakeHost) -> None:
        self.turn = asyncio.Lock()
        self.log = asyncio.Event()
        self.log.set()
        self.patience = asyncio.Event()
        self.patience.set()
        self.said: list[tuple[Event, int]] = []
        self.attempts = 0
        self.deaf = 0
        self._host = host

    async def say(self, event: Event, *, patience_s: float, number: int = 0) -> int:
        assert patience_s == 0.0
        self.attempts += 1
        if not self.log.is_set():
            raise NotConnected("cannot reach the log")
        return self._take(event, number)

    async def insist(self, event: Event, *, number: int) -> None:
        self.attempts += 1
        await self.patience.wait()
        self._take(event, number)
        await settled()  # the word is folded before whoever said it goes on

    def _take(self, event: Event, number: int) -> int:
        self.said.append((event, number))
        if isinstance(event, InstanceYielded) and self.deaf:
            self.deaf -= 1  # it came just when it was called off, and asked for anew
        elif isinstance(event, InstanceYielded):  # as the log tells it: it is yielded
            self._host.is_to_yield(None)
        elif isinstance(event, InstanceHealthy):  # and: whoever is well has yielded nothing
            self._host.is_to_yield(7)
        return len(self.said)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event, _ in self.said]


def parts() -> tuple[FakeHost, FakeAnnouncer, Host, Announcer]:
    host = FakeHost()
    announcer = FakeAnnouncer(host)
    return host, announcer, cast("Host", host), cast("Announcer", announcer)


@asynccontextmanager
async def doing(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def settled() -> None:
    """Whatever can happen without anything new has happened."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_each_epoch_is_yielded_once() -> None:
    host, announcer, as_host, as_announcer = parts()
    async with doing(Yielding(as_announcer, as_host, ME).run()):
        for epoch in (3, 5):
            host.is_to_yield(epoch)
            await eventually(lambda: host.to_yield is None, within_s=5)
        await settled()
    assert [event.epoch for event, _ in announcer.said if isinstance(event, InstanceYielded)] == [3, 5]


async def test_an_epoch_that_is_to_be_yielded_again_is_a_word_of_its_own() -> None:
    host, announcer, as_host, as_announcer = parts()
    async with doing(Yielding(as_announcer, as_host, ME).run()):
        for _ in range(2):
            host.is_to_yield(3)
            await eventually(lambda: host.to_yield is None, within_s=5)
            await settled()
    (_, first), (_, second) = announcer.said
    assert first != second


async def test_a_yield_is_tried_again_until_the_log_takes_it() -> None:
    host, announcer, as_host, as_announcer = parts()
    announcer.log.clear()
    async with doing(Yielding(as_announcer, as_host, ME).run()):
        host.is_to_yield(3)
        await eventually(lambda: announcer.attempts == 2, within_s=5)
        announcer.log.set()
        await eventually(lambda: announcer.said, within_s=5)


async def test_a_yield_that_is_called_off_before_it_could_be_said_is_not_said() -> None:
    host, announcer, as_host, as_announcer = parts()
    announcer.log.clear()
    async with doing(Yielding(as_announcer, as_host, ME).run()):
        host.is_to_yield(3)
        await eventually(lambda: announcer.attempts == 1, within_s=5)
        host.is_to_yield(None)
        announcer.log.set()
        host.is_to_yield(4)
        await eventually(lambda: announcer.said, within_s=5)
    assert [event.epoch for event, _ in announcer.said if isinstance(event, InstanceYielded)] == [4]


async def test_a_yield_that_counted_for_nothing_is_said_again_as_a_word_of_its_own() -> None:
    host, announcer, as_host, as_announcer = parts()
    announcer.deaf = 1
    async with doing(Yielding(as_announcer, as_host, ME).run()):
        host.is_to_yield(3)
        await eventually(lambda: host.to_yield is None, within_s=10)
    (_, first), (_, second) = announcer.said
    assert first != second


async def test_that_it_is_unhealthy_is_said_before_it_yields_and_nothing_starts_meanwhile() -> None:
    host, announcer, as_host, as_announcer = parts()
    announcer.patience.clear()
    check = HealthCheck(lambda: "no venue", every_s=0.01)
    watch = HealthWatch(check, HealthRecord(), as_announcer, as_host, ME, lambda: None)
    async with doing(watch.run(), Yielding(as_announcer, as_host, ME).run()):
        await eventually(lambda: host.held, within_s=5)
        await settled()
        assert (host.held, announcer.said) == ("unhealthy: no venue", [])
        announcer.patience.set()
        await eventually(lambda: len(announcer.said) == 2, within_s=5)
    assert announcer.kinds() == ["InstanceUnhealthy", "InstanceYielded"]


async def test_calls_start_again_only_when_the_log_knows_that_it_is_well() -> None:
    host, announcer, as_host, as_announcer = parts()
    down = ["no venue"]
    check = HealthCheck(lambda: down[0] if down else None, every_s=0.01)
    watch = HealthWatch(check, HealthRecord(), as_announcer, as_host, ME, lambda: None)
    async with doing(watch.run(), Yielding(as_announcer, as_host, ME).run()):
        await eventually(lambda: len(announcer.said) == 2, within_s=5)
        announcer.patience.clear()
        down.clear()
        await eventually(lambda: announcer.attempts == 3, within_s=5, what="the word that it is well")
        assert host.held is not None
        announcer.patience.set()
        await eventually(lambda: host.held is None, within_s=5)
        await settled()
    assert announcer.kinds() == ["InstanceUnhealthy", "InstanceYielded", "InstanceHealthy"]
