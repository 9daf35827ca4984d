"""Failover as an operator sees it: real processes, killed and frozen, under load."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client, connect
from aegisipc.sdk.errors import CallInDoubt, DeadLettered
from tests.cli.programs import Aegis, Program, start_dev, until

CALL = ["--resource-id", "acc_1"]


class Desk:
    """The instances of one group of the service ``desk``, on a server of their own."""

    def __init__(self, aegis: Aegis, root: Path, url: str) -> None:
        self.root, self.trace, self.url = root, root / "trace", url
        self.aegis = Aegis(aegis.env | {"TRACE": str(self.trace)}, aegis.cwd, aegis.running).at(url)

    def serve(self, instance: str) -> Program:
        program = self.aegis.start(
            "serve", "desk:desk", "--group", "g1", "--resource", "acc_1", "--instance", instance
        )
        program.ready()
        return program

    def traced(self, what: str) -> list[str]:
        """The starts of a call, as the service wrote them down."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return [line for line in lines if line.startswith(what)]

    def group(self) -> dict[str, Any]:
        told = self.aegis("status", "--json").json["services"]
        found: dict[str, Any] = told["desk"]["groups"]["g1"] if "desk" in told else {"holder": None}
        return found

    def holder(self) -> str | None:
        found: str | None = self.group()["holder"]
        return found

    def hold(self, what: str) -> Path:
        """Calls of that number, or at that instance, stay where they are until the file is gone."""
        path = self.root / f"hold-{what}"
        path.touch()
        return path

    def call(self, method: str, *arguments: str) -> Any:
        done = self.aegis("call", f"desk.{method}", *arguments, *CALL, "--json", "--timeout", "20")
        assert done.code == 0, done.err
        return done.json["result"]


@pytest.fixture
def desk(aegis: Aegis, tmp_path: Path) -> Desk:
    _, told = start_dev(aegis, tmp_path / "data", "--port", "0")
    return Desk(aegis, tmp_path, told["url"])


class Load:
    """Calls at a steady rate; whatever a caller saw that is not an answer is an error."""

    def __init__(self, client: Client, rate: int) -> None:
        self._client, self._pause_s = client, 1 / rate
        self.answers: list[Any] = []
        self.errors: list[BaseException] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            task = asyncio.create_task(self._one())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            due += self._pause_s
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _one(self) -> None:
        try:
            self.answers.append(await self._client.call("desk.book", 1, resource_id="acc_1", timeout=20.0))
        except Exception as error:  # noqa: BLE001 - that is what is counted
            self.errors.append(error)

    async def finish(self) -> None:
        if self._calls:
            await asyncio.wait(list(self._calls))


@asynccontextmanager
async def load(desk: Desk, rate: int = 200) -> AsyncIterator[Load]:
    """Calls go on while the block runs; at its end all have an answer."""
    async with connect(desk.url) as client:
        found = Load(client, rate)
        running = asyncio.create_task(found.run())
        try:
            await until_more(found, 20)
            yield found
            await until_more(found, 20)
        finally:
            running.cancel()
            await found.finish()


async def until_more(found: Load, count: int) -> None:
    """Wait until so many more calls were answered."""
    wanted = len(found.answers) + count
    async with asyncio.timeout(30):
        while len(found.answers) < wanted:
            assert not found.errors, found.errors[0]
            await asyncio.sleep(0.01)


async def in_thread(work: Any, *args: Any) -> Any:
    return await asyncio.to_thread(work, *args)


async def test_a_rolling_restart_of_both_instances_is_seen_by_no_caller(desk: Desk) -> None:
    running = {name: await in_thread(desk.serve, name) for name in ("a", "b")}
    async with load(desk) as found:
        for name in ("a", "b"):
            assert await in_thread(running[name].stop) == 0
            await until_more(found, 20)
            running[name] = await in_thread(desk.serve, name)
            await until_more(found, 20)
    assert found.errors == []
    assert set(found.answers) == {"a", "b"}
    assert await in_thread(desk.call, "total") == len(found.answers)


async def test_routers_that_are_killed_one_after_the_other_and_together_fail_no_call(
    aegis: Aegis, tmp_path: Path, nats_server: EmbeddedServer
) -> None:
    desk = Desk(aegis, tmp_path, nats_server.url)

    def router(name: str) -> Program:
        program = desk.aegis.start("router", "--name", name, AEGIS_SYSTEM_URL=nats_server.system_url)
        program.ready()
        return program

    routers = {name: await in_thread(router, name) for name in ("r1", "r2")}
    for name in ("a", "b"):
        await in_thread(desk.serve, name)
    async with load(desk) as found:
        for victims in (["r1"], ["r2"], ["r1", "r2"]):
            for name in victims:
                routers[name].kill()
            await until_more(found, 20)
            for name in victims:
                routers[name] = await in_thread(router, name)
            await in_thread(
                until, lambda: desk.aegis("status", "--json").json["leader"]["router"] in routers, "a leader"
            )
            await until_more(found, 20)
    assert found.errors == []
    assert await in_thread(desk.call, "total") == len(found.answers)
    leaver = desk.holder()
    assert leaver is not None
    assert (await in_thread(desk.aegis, "drain", leaver, "--timeout", "20")).code == 0
    await in_thread(until, lambda: desk.holder() not in (None, leaver), "the other holds the pen")


async def test_an_active_that_is_killed_is_replaced_at_once_and_nothing_is_lost(desk: Desk) -> None:
    active = await in_thread(desk.serve, "a")
    await in_thread(desk.serve, "b")
    async with load(desk) as found:
        active.kill()
        await until_more(found, 50)
    assert found.errors == []
    assert await in_thread(desk.call, "total") == len(found.answers)
    cause = await in_thread(lambda: desk.group()["cause"])
    assert "its connection ended" in cause


async def test_a_zombie_changes_nothing_and_is_a_healthy_standby_again(desk: Desk) -> None:
    zombie = await in_thread(desk.serve, "a")
    await in_thread(desk.serve, "b")
    async with load(desk) as found:
        zombie.popen.send_signal(signal.SIGSTOP)
        try:
            await in_thread(until, lambda: desk.holder() == "b", "the standby took over")
            await until_more(found, 50)
        finally:
            zombie.popen.send_signal(signal.SIGCONT)
        await in_thread(until, lambda: _is_standby(desk, "a"), "the zombie is a standby again")
    assert found.errors == []
    checked = await in_thread(desk.aegis, "verify", "desk", "--json")
    assert checked.code == 0, checked.out
    assert await in_thread(desk.call, "total") == len(found.answers)


def _is_standby(desk: Desk, name: str) -> bool:
    found: bool = desk.group()["instances"][name]["state"] == "standby"
    return found


async def test_a_once_call_whose_instance_is_killed_is_in_doubt_until_an_operator_resolves_it(
    desk: Desk,
) -> None:
    active = await in_thread(desk.serve, "a")
    await in_thread(desk.serve, "b")
    async with connect(desk.url) as client:
        desk.hold("1")
        first = await client.submit("desk.order", 1, resource_id="acc_1", timeout=30.0)
        behind = await client.submit("desk.order", 2, resource_id="acc_1", timeout=30.0)
        await in_thread(until, lambda: desk.traced("order 1"), "the first order runs")
        active.kill()
        with pytest.raises(CallInDoubt):
            await first.result()
        assert await behind.result() == "2 by b"
        assert desk.traced("order") == ["order 1 a 1", "order 2 b 2"]
        listed = (await in_thread(desk.aegis, "doubt", "list", "--json")).json
        assert [doubt["call_id"] for doubt in listed["doubts"]] == [first.call_id]
        answer = asyncio.ensure_future(first.settled(30.0))
        resolve = ["doubt", "resolve", first.call_id, "--reason", "seen at the venue"]
        wrong = await in_thread(desk.aegis, *resolve, "--executed", "17", "--json")
        assert (wrong.code, wrong.error["code"]) == (1, "invalid_result")
        done = await in_thread(desk.aegis, *resolve, "--executed", json.dumps("1 by hand"))
        assert done.code == 0, done.err
        assert await answer == "1 by hand"
        again = await in_thread(desk.aegis, *resolve, "--not-executed", "--json")
        assert (again.code, again.error["code"]) == (1, "not_in_doubt")
    assert (await in_thread(desk.aegis, "doubt", "list", "--json")).json["doubts"] == []
    assert desk.traced("order 1") == ["order 1 a 1"]


async def test_a_call_that_kills_every_instance_that_runs_it_is_given_up(desk: Desk) -> None:
    supervised = asyncio.create_task(_supervise(desk, "a"))
    async with connect(desk.url) as client:
        try:
            await in_thread(until, lambda: desk.group()["holder"] == "a", "it serves")
            poison = await client.submit("desk.poison", resource_id="acc_1", timeout=120.0)
            harmless = [client.call("desk.book", 1, resource_id="acc_1", timeout=120.0) for _ in range(5)]
            with pytest.raises(DeadLettered):
                await poison.result()
            assert await asyncio.gather(*harmless) == ["a"] * 5
        finally:
            supervised.cancel()
            desk.aegis.kill_all()
    assert 3 <= len(desk.traced("poison")) <= 6


async def _supervise(desk: Desk, name: str) -> None:
    """Start the instance again whenever it dies, as a supervisor does."""
    while True:
        program = desk.aegis.start(
            "serve", "desk:desk", "--group", "g1", "--resource", "acc_1", "--instance", name
        )
        await in_thread(program.popen.wait)
