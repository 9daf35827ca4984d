"""The simulated network: order, silence, and what is lost when a session breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

import pytest

from aegisipc.chaos.sim.loop import Actor, SimLoop
from aegisipc.chaos.sim.network import DOWN, UP, Network, Pieces, Session
from aegisipc.chaos.sim.wire import ModelWire
from aegisipc.eventstore.nats.options import ConnectOptions, Endpoint, ServerInfo

_URL: Final = "nats://sim:4222"
_HERE: Final = Endpoint.parse(_URL)


class Listener:
    """A server that writes down what it hears, and answers nothing."""

    def __init__(self) -> None:
        self.is_up, self.is_frozen = True, False
        self.heard: list[bytes] = []
        self.closed: list[int] = []

    def info(self, number: int) -> ServerInfo:
        return ServerInfo.from_info(_URL, {})

    def on_connected(self, session: Session) -> None:
        pass

    def on_pieces(self, session: Session, pieces: Pieces) -> None:
        if pieces[0] != b"PING":  # wires ask by themselves whether anybody is there
            self.heard.append(pieces[0])

    def on_closed(self, session: Session) -> None:
        self.closed.append(session.number)


class Scene:
    """A client with one session."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimLoop()
        self.network = Network(self.loop, Random(seed))
        self.server = Listener()
        self.network.servers["sim"] = self.server
        self.client = Actor("c-1")
        self.wire: ModelWire

    @property
    def session(self) -> Session:
        return self.network.of("c-1")[0]

    def play(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def connect() -> None:
            self.wire = ModelWire(ConnectOptions(_URL), lambda *_: None)
            await self.wire.dial(_HERE)

        async def main() -> None:
            await self.loop.start_actor(self.client, connect())
            await story()

        try:
            self.loop.run(main())
        finally:
            self.loop.close()

    def send(self, *words: bytes) -> None:
        for word in words:
            self.session.send_up([(word,)])

    def get(self, *words: bytes, into: list[bytes]) -> None:
        for word in words:
            self.session.send_down((into.append, (word,)))


_WORDS = [b"%d" % number for number in range(40)]


def test_what_is_sent_arrives_in_its_order_whatever_the_delays() -> None:
    scene, down = Scene(), list[bytes]()

    async def story() -> None:
        scene.network.extra_s["c-1"] = 0.4
        scene.send(*_WORDS)
        scene.get(*_WORDS, into=down)
        scene.network.extra_s.clear()
        scene.send(b"last")
        assert scene.server.heard == []
        await asyncio.sleep(2.0)

    scene.play(story)
    assert scene.server.heard == [*_WORDS, b"last"]
    assert down == _WORDS


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_what_is_held_up_in_one_direction_waits_and_keeps_its_order(direction: int) -> None:
    scene, down = Scene(), list[bytes]()

    async def story() -> None:
        scene.network.hold("c-1", direction)
        scene.send(*_WORDS)
        scene.get(*_WORDS, into=down)
        await asyncio.sleep(1.0)
        held, free = (scene.server.heard, down) if direction == UP else (down, scene.server.heard)
        assert held == []
        assert free == _WORDS
        scene.network.release("c-1")
        await asyncio.sleep(1.0)

    scene.play(story)
    assert scene.server.heard == down == _WORDS


def test_a_reset_loses_a_part_of_what_is_on_its_way_and_both_sides_hear_of_it() -> None:
    kept = set[int]()
    for seed in range(12):
        scene, down = Scene(seed), list[bytes]()

        async def story(scene: Scene = scene, down: list[bytes] = down) -> None:
            scene.send(*_WORDS)
            scene.get(*_WORDS, into=down)
            scene.session.broken()
            await asyncio.sleep(1.0)

        scene.play(story)
        for arrived in (scene.server.heard, down):
            assert arrived == _WORDS[: len(arrived)]  # the end is lost, never the middle
            kept.add(len(arrived))
        assert scene.wire.ended.done()
        assert len(scene.server.closed) == 1
    assert len(kept) > 5


def test_a_half_open_session_is_over_for_the_server_only() -> None:
    scene = Scene()

    async def story() -> None:
        scene.session.broken(told=False)
        await asyncio.sleep(1.0)
        assert not scene.wire.ended.done()
        assert len(scene.server.closed) == 1
        scene.wire.send([b"into the void"])
        await asyncio.sleep(600.0)

    scene.play(story)
    assert b"into the void" not in scene.server.heard
    assert scene.wire.ended.result() == "stale connection"  # its own pings went unanswered


def test_a_killed_process_hears_nothing_and_its_server_does() -> None:
    scene, down = Scene(), list[bytes]()

    async def story() -> None:
        scene.get(*_WORDS, into=down)
        scene.loop.kill(scene.client)
        scene.network.process_died(scene.client)
        await asyncio.sleep(1.0)

    scene.play(story)
    assert down == []
    assert len(scene.server.closed) == 1
    assert not scene.wire.ended.done()


def test_a_server_that_is_down_refuses_and_a_silent_network_lets_wait() -> None:
    scene = Scene()

    async def story() -> None:
        scene.server.is_up = False
        wire = ModelWire(ConnectOptions(_URL), lambda *_: None)
        with pytest.raises(ConnectionRefusedError):
            await wire.dial(_HERE)
        scene.server.is_up = True
        scene.network.hold(wire.actor.name, UP, DOWN)
        with pytest.raises(TimeoutError):
            await wire.dial(_HERE)

    scene.play(story)
