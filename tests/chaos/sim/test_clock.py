"""The virtual clocks and the randomness, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import time

import pytest

from aegisipc.chaos.sim.clock import virtual
from aegisipc.chaos.sim.loop import EPOCH_NS, Actor, SimLoop
from aegisipc.eventstore.nats import dialing

_REPLACED = (
    (time, "monotonic"),
    (time, "monotonic_ns"),
    (time, "perf_counter"),
    (time, "time"),
    (time, "time_ns"),
    (secrets, "token_bytes"),
    (secrets, "randbits"),
    (os, "urandom"),
    (os, "getpid"),
    (socket, "gethostname"),
    (dialing, "Wire"),
)


def _now() -> list[object]:
    return [getattr(module, name) for module, name in _REPLACED]


def test_everything_is_as_it_was_afterwards_even_after_an_error() -> None:
    before, state = _now(), random.getstate()
    loop = SimLoop()

    def fail() -> None:
        with virtual(loop, 1):
            assert all(real is not seen for real, seen in zip(before, _now(), strict=True))
            random.random()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _now() == before
    assert random.getstate() == state


def test_wall_clocks_are_wrong_by_actor_and_monotonic_ones_never() -> None:
    loop = SimLoop()
    late = Actor("late")
    late.skew_ns = -3_600_000_000_000
    seen: dict[str, tuple[int, float]] = {}

    async def look(name: str) -> None:
        seen[name] = (time.time_ns(), time.monotonic())

    async def main() -> None:
        await asyncio.sleep(2.5)
        await loop.start_actor(late, look("late"))
        await loop.start_actor(Actor("right"), look("right"))

    with virtual(loop, 1):
        loop.run(main())
    assert seen["right"] == (EPOCH_NS + 2_500_000_000, 2.5)
    assert seen["late"] == (EPOCH_NS + 2_500_000_000 - 3_600_000_000_000, 2.5)


def test_one_seed_is_one_sequence_of_random_numbers() -> None:
    def draw(seed: int) -> list[object]:
        with virtual(SimLoop(), seed):
            return [os.urandom(8), secrets.token_hex(4), secrets.randbits(30), random.random()]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
