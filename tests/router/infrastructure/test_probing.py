"""Probes: who is asked, how often, and which silence counts."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore.log import Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.probing import MAX_AT_ONCE, Prober, Target
from aegisipc.router.infrastructure.server_config import ServerConfig
from aegisipc.router.infrastructure.server_config import render as sound
from tests.router.infrastructure.children import connected_child
from tests.support.proxy import FaultyProxy
from tests.support.waiting import eventually

A: Final = Target(("orders", "g", "a"), "1")
PROBE_MS: Final = 10
_namespaces = (f"probed{number}" for number in itertools.count(1))


class Asked:
    """A prober, its board, and the instances that it asks."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.subjects: Subjects = subjects_of(next(_namespaces))
        self.board = PulseBoard(self.subjects, gap_ms=500)
        self.targets = [A]
        self.prober = Prober(connection, self.subjects, self.board, self._targets, probe_ms=PROBE_MS)
        self.heard = 0
        self.silent = False

    def _targets(self) -> Iterator[Target]:
        yield from self.targets

    @property
    def subject(self) -> str:
        return self.subjects.probe(*A.key)

    def pulse(self) -> None:
        """The router hears somebody, be it itself."""
        report = msgpack.packb({"incarnation": "i"})
        self.board.apply(Record(1, self.subjects.pulse("router", "r"), report, time.time_ns()))

    async def answers(self, payload: bytes) -> None:
        """From now on, that is what probes are answered, unless it is ``silent``."""

        def answer(message: Message) -> None:
            self.heard += 1
            if not self.silent:
                self.connection.publish_nowait(message.reply, payload)

        await self.connection.subscribe(self.subject, answer)

    @property
    def has_failed(self) -> bool:
        return self.board.probe_failed(*A) is not None


@asynccontextmanager
async def asking(url: str, *, hears: bool = True) -> AsyncIterator[Asked]:
    """A prober that has not begun yet, whose router hears pulses all the time, or none at all."""
    async with await Connection.open(ConnectOptions(url)) as connection:
        asked = Asked(connection)
        asked.pulse()

        async def pulse_for_ever() -> None:
            while True:
                asked.pulse()
                await asyncio.sleep(0.01)

        pulsing = asyncio.create_task(pulse_for_ever()) if hears else None
        try:
            yield asked
        finally:
            if pulsing is not None:
                pulsing.cancel()
            await asked.prober.stop()


def answer_of(incarnation: str) -> bytes:
    return json.dumps({"ok": True, "instance": "a", "incarnation": incarnation, "healthy": True}).encode()


async def until(true: Callable[[], object], what: str = "") -> None:
    await eventually(true, within_s=20, what=what)


async def test_an_instance_that_answers_is_asked_again_and_again(shared_server: EmbeddedServer) -> None:
    async with asking(shared_server.url) as asked:
        await asked.answers(answer_of("1"))
        asked.prober.start()
        await until(lambda: asked.prober.answered >= 5)
        assert asked.prober.is_on
        assert (asked.prober.missed, asked.has_failed) == (0, False)


async def test_a_process_that_freezes_fails_after_three_probes_and_answers_when_it_is_thawed(
    shared_server: EmbeddedServer,
) -> None:
    async with asking(shared_server.url) as asked:
        there = {"subject": asked.subject, "answer": answer_of("1").decode()}
        async with connected_child(shared_server.url, "t", **there) as child:
            asked.prober.start()
            await until(lambda: asked.prober.answered)
            child.freeze()
            await until(lambda: asked.has_failed, "three probes without an answer")
            assert asked.prober.missed >= 3
            failure = asked.board.probe_failed(*A)
            assert failure is not None
            assert failure.cause == "3 probes in a row had no answer: nothing in 250 ms"
            child.thaw()
            await until(lambda: not asked.has_failed, "an answer")


async def test_one_whose_process_has_gone_fails_without_any_wait(shared_server: EmbeddedServer) -> None:
    async with asking(shared_server.url) as asked:
        there = {"subject": asked.subject, "answer": answer_of("1").decode()}
        async with connected_child(shared_server.url, "t", **there) as child:
            asked.prober.start()
            await until(lambda: asked.prober.answered)
            child.kill()
            await until(lambda: asked.has_failed)
            failure = asked.board.probe_failed(*A)
            assert failure is not None
            assert failure.cause == "3 probes in a row had no answer: nobody there takes them"


async def test_one_that_never_answered_is_not_judged(shared_server: EmbeddedServer) -> None:
    async with asking(shared_server.url) as asked:
        asked.prober.start()
        await until(lambda: asked.prober.missed >= 10)
        assert not asked.has_failed


async def test_a_router_that_hears_nobody_judges_nobody_by_silence(shared_server: EmbeddedServer) -> None:
    async with asking(shared_server.url, hears=False) as asked:
        asked.board = asked.prober._board = PulseBoard(asked.subjects, gap_ms=100)
        asked.pulse()
        await asked.answers(answer_of("1"))
        asked.prober.start()
        await until(lambda: asked.prober.answered)
        asked.silent = True
        await until(lambda: asked.prober.missed >= 4)
        assert not asked.has_failed


async def test_a_lost_session_is_no_miss(shared_server: EmbeddedServer) -> None:
    async with FaultyProxy(shared_server.url) as proxy, asking(proxy.url) as asked:
        asked.prober._timeout_ms = 20_000
        await asked.answers(answer_of("1"))
        asked.silent = True
        asked.prober.start()
        await until(lambda: asked.heard)
        await proxy.reset()
        asked.silent = False
        await until(lambda: asked.prober.answered)
        assert asked.prober.asked >= 2
        assert asked.prober.missed == 0


@pytest.mark.parametrize(
    "odd", [answer_of("2"), b"", b"[]", b"{}", b"\xff", b"[" * 70_000, b'{"error": {"code": "x"}}']
)
async def test_the_answer_of_another_run_or_of_nobody_known_says_nothing(
    shared_server: EmbeddedServer, odd: bytes
) -> None:
    async with asking(shared_server.url) as asked:
        await asked.answers(odd)
        asked.prober.start()
        await until(lambda: asked.heard >= 3)
        assert (asked.prober.answered, asked.prober.missed, asked.has_failed) == (0, 0, False)


async def test_only_so_many_are_asked_at_a_time_and_nobody_twice(shared_server: EmbeddedServer) -> None:
    async with asking(shared_server.url) as asked:
        most: list[int] = []
        heard: set[str] = set()

        def hear(message: Message) -> None:
            heard.add(message.subject)
            most.append(asked.connection.requests_in_flight)

        asked.targets = [Target(("orders", "g", f"i{n}"), "1") for n in range(3 * MAX_AT_ONCE)]
        await asked.connection.subscribe(asked.subjects.probe("orders", "g", "*"), hear)
        asked.prober.start()
        await until(lambda: len(heard) == 3 * MAX_AT_ONCE, "everybody to be asked")
        assert max(most) == MAX_AT_ONCE


async def test_who_has_stopped_asks_nobody(shared_server: EmbeddedServer) -> None:
    async with asking(shared_server.url) as asked:
        await asked.answers(answer_of("1"))
        asked.silent = True
        asked.prober.start()
        await until(lambda: asked.heard)
        assert asked.connection.requests_in_flight == 1
        await asked.prober.stop()
        assert asked.connection.requests_in_flight == 0
        assert not asked.prober.is_on
        await asked.prober.stop()


async def test_who_may_not_ask_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(config: ServerConfig) -> str:
        password = f"password: {json.dumps(config.password)}"
        return sound(config).replace(
            password, f'{password}, permissions: {{ publish: {{ deny: "aegis.*.probe.>" }} }}'
        )

    monkeypatch.setattr("aegisipc.router.infrastructure.embedded.render", render)
    async with EmbeddedServer(tmp_path, fsync=False) as server, asking(server.url) as asked:
        asked.prober.start()
        await until(lambda: asked.prober.asked)
        await until(lambda: not asked.prober.is_on, "the refusal")
        assert (asked.prober.missed, asked.has_failed) == (0, False)
