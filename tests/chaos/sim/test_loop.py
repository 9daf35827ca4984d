"""The simulated event loop: virtual time, and actors that are killed and frozen."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from aegisipc.chaos.sim.loop import Actor, SimLoop, Stuck, TooLong, current


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    made = SimLoop(max_steps=10_000)
    yield made
    made.close()


def test_sleeping_takes_virtual_time_only(loop: SimLoop) -> None:
    async def main() -> float:
        await asyncio.sleep(3600.0)
        return current().time()

    assert loop.run(main()) == 3600.0


def test_timers_fire_in_the_order_of_their_times_and_of_their_making(loop: SimLoop) -> None:
    fired: list[str] = []

    async def main() -> None:
        loop.call_later(0.2, fired.append, "late")
        loop.call_later(0.1, fired.append, "first")
        loop.call_later(0.1, fired.append, "second")
        loop.call_later(0.15, fired.append, "cancelled").cancel()
        await asyncio.sleep(0.3)

    loop.run(main())
    assert fired == ["first", "second", "late"]


def test_a_timeout_ends_what_takes_too_long(loop: SimLoop) -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.Event().wait()
        return loop.now_s

    assert loop.run(main()) == 5.0


def test_work_for_a_thread_is_done_at_once_and_its_error_is_the_waiters(loop: SimLoop) -> None:
    def divide(by: int) -> float:
        return 1 / by

    async def main() -> float:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divide, 0)
        return await asyncio.to_thread(divide, 4)

    assert loop.run(main()) == 0.25
    assert loop.now_s == 0.0


def test_nothing_of_a_killed_actor_runs_any_more_not_even_a_finally(loop: SimLoop) -> None:
    told: list[str] = []
    victim = Actor("victim")

    async def live() -> None:
        try:
            told.append("began")
            await asyncio.sleep(1.0)
            told.append("went on")
        finally:
            told.append("finally")

    async def main() -> None:
        loop.start_actor(victim, live())
        await asyncio.sleep(0.5)
        loop.kill(victim)
        await asyncio.sleep(5.0)

    loop.run(main())
    gc.collect()
    assert told == ["began"]


def test_what_a_killed_actor_started_is_dead_too_and_others_go_on(loop: SimLoop) -> None:
    told: list[str] = []
    victim, other = Actor("victim"), Actor("other")

    async def child(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1.0)
            told.append(name)

    async def live(name: str) -> None:
        await asyncio.gather(child(name), child(name))

    async def main() -> None:
        loop.start_actor(victim, live("victim"))
        loop.start_actor(other, live("other"))
        await asyncio.sleep(1.5)
        loop.kill(victim)
        await asyncio.sleep(5.0)

    loop.run(main())
    assert told.count("victim") == 2
    assert told.count("other") == 6


def test_a_frozen_actor_misses_nothing_and_keeps_the_order(loop: SimLoop) -> None:
    told: list[tuple[str, float]] = []
    victim = Actor("victim")

    async def live() -> None:
        for number in range(3):
            loop.call_later(0.1 * (3 - number), lambda n=number: told.append((str(n), loop.now_s)))
        await asyncio.sleep(0.05)
        told.append(("slept", loop.now_s))

    async def main() -> None:
        loop.start_actor(victim, live())
        await asyncio.sleep(0.01)
        loop.freeze(victim)
        await asyncio.sleep(10.0)
        assert told == []
        loop.thaw(victim)
        await asyncio.sleep(1.0)

    loop.run(main())
    names, times = zip(*told, strict=True)
    assert names == ("2", "1", "0", "slept")  # its sleep's timer came first, and woke its task then
    assert set(times) == {10.01}


def test_an_actor_can_be_killed_between_two_steps(loop: SimLoop) -> None:
    told: list[int] = []
    victim = Actor("victim")

    def on_step(actor: Actor) -> None:
        if actor.steps == 3:
            loop.kill(actor)

    async def live() -> None:
        for number in range(10):
            told.append(number)
            await asyncio.sleep(0)

    async def main() -> None:
        loop.on_step = on_step
        loop.start_actor(victim, live())
        await asyncio.sleep(1.0)

    loop.run(main())
    assert told == [0, 1, 2]


def test_waiting_for_what_cannot_come_is_an_error(loop: SimLoop) -> None:
    async def main() -> None:
        await asyncio.sleep(2.0)
        await asyncio.Event().wait()

    with pytest.raises(Stuck) as stuck:
        loop.run(main())
    assert stuck.value.at_s == 2.0


def test_running_in_circles_is_an_error(loop: SimLoop) -> None:
    async def main() -> None:
        while current().now_s < 1.0:  # noqa: ASYNC110 - time stands still
            await asyncio.sleep(0)

    with pytest.raises(TooLong) as long:
        loop.run(main())
    assert long.value.at_s == 0.0


def test_what_nobody_handles_is_gathered_but_not_of_the_dead(loop: SimLoop) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    async def live() -> None:
        loop.call_later(1.0, fail)

    living, dead = Actor("living"), Actor("dead")

    async def main() -> None:
        loop.start_actor(living, live())
        loop.start_actor(dead, live())
        await asyncio.sleep(0.5)
        loop.kill(dead)
        await asyncio.sleep(1.0)

    loop.run(main())
    assert len(loop.unhandled) == 1
    assert "on purpose" in loop.unhandled[0]


def test_the_loop_of_the_caller_is_back_afterwards(loop: SimLoop) -> None:
    async def nothing() -> None:
        return None

    loop.run(nothing())
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


async def test_code_that_is_in_no_simulation_says_so() -> None:
    with pytest.raises(TypeError):
        current()
