"""A service is down while its calls gather; and a call that kills whoever runs it, among a thousand."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from aegisipc.chaos.real.zygote import Child, Zygote, running_zygote
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.dead_letters import DeadLetter, Wanted, read_dead_letters
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import Client, Context, Service
from aegisipc.sdk.errors import CallExpired, CallTimeout, DeadLettered
from aegisipc.sdk.pending import Pending
from tests.battery.judging import Counted, count
from tests.battery.roles import IMPORTED, POISON
from tests.e2e.kit import Place
from tests.support.waiting import eventually

CALLS: Final = 10_000
RESOURCES: Final = [f"r{number}" for number in range(50)]
SHORT_EVERY: Final = 17
SHORT_S: Final = 3.0
BATCH: Final = 500
PATIENT_S: Final = 100.0

type Line = tuple[str, int, str]
"""A line of the ledger: resource, number, call id."""


# -- a service that was down -----------------------------------------------------------------------------


def ledger_service(ledger: list[Line]) -> Service:
    """A service of which each start of a method writes a line."""
    service = Service("store")

    @service.method(effect="once")
    async def pay(number: int, ctx: Context) -> int:
        ledger.append((str(ctx.resource_id), number, ctx.call_id))
        return number

    @service.method(effect="idempotent")
    async def put(number: int, ctx: Context) -> int:
        ledger.append((str(ctx.resource_id), number, ctx.call_id))
        return number

    return service


def is_short(number: int) -> bool:
    return number % SHORT_EVERY == 0


async def gather_backlog(client: Client) -> list[Pending]:
    """Make all calls durable, in the order of their numbers."""

    def submitting(number: int) -> Any:
        return client.submit(
            f"store.{'pay' if number % 3 else 'put'}",
            number,
            resource_id=RESOURCES[number % len(RESOURCES)],
            timeout=SHORT_S if is_short(number) else PATIENT_S,
        )

    pending: list[Pending] = []
    for begin in range(0, CALLS, BATCH):
        pending += await asyncio.gather(*(submitting(number) for number in range(begin, begin + BATCH)))
    return pending


async def until_all_are_over(place: Place) -> Counted:
    """Wait until each accepted call has an outcome in the log; return what it holds."""
    async with asyncio.timeout(60):
        while True:
            counted = await count(place.url, place.namespace)
            if not counted.without:
                return counted
            await asyncio.sleep(0.05)


async def test_ten_thousand_calls_to_a_service_that_is_down_are_concluded_in_order_when_it_comes(
    place: Place,
) -> None:
    ledger: list[Line] = []
    first = await place.serve(ledger_service(ledger), *RESOURCES, instance="a", group="g1")
    client = await place.client(max_open=2 * CALLS)
    assert await client.call("store.put", -1, resource_id=RESOURCES[0], timeout=20.0) == -1
    await first.kill()
    ledger.clear()

    pending = await gather_backlog(client)
    patient = [number for number in range(CALLS) if not is_short(number)]
    short = [pending[number].result() for number in range(CALLS) if is_short(number)]
    given_up = await asyncio.gather(*short, return_exceptions=True)
    assert {type(error) for error in given_up} == {CallTimeout}  # their deadlines have passed
    assert ledger == []

    await place.serve(ledger_service(ledger), *RESOURCES, instance="a", group="g1")
    assert await asyncio.gather(*(pending[number].result() for number in patient)) == patient
    counted = await until_all_are_over(place)

    assert sorted(number for _, number, _ in ledger) == patient, "some ran twice, or not, or too late"
    lines: dict[str, list[int]] = defaultdict(list)
    for resource, number, call_id in ledger:
        assert pending[number].call_id == call_id
        lines[resource].append(number)
    assert lines == {r: [n for n in patient if RESOURCES[n % len(RESOURCES)] == r] for r in RESOURCES}

    for number, call in enumerate(pending):
        outcomes = [outcome.mark for outcome in counted.outcomes[call.call_id]]
        assert outcomes == [Mark.EXPIRED if is_short(number) else Mark.SUCCEEDED]
    assert len(counted.calls) == CALLS + 1
    assert set(counted.claims.values()) == {1}
    with pytest.raises(CallExpired) as expired:
        await (await client.attach(pending[SHORT_EVERY].call_id)).result()
    assert expired.value.details["may_have_started"] is False  # it would have been claimed


# -- a call that kills -----------------------------------------------------------------------------------


class Supervisor:
    """Starts an instance again whenever it dies."""

    def __init__(self, zygote: Zygote, folder: Path, **args: Any) -> None:
        self._zygote, self._folder, self._args = zygote, folder, args
        self.deaths: list[int | None] = []
        self.child = self._start()
        self._task = asyncio.create_task(self._watch())

    def _start(self) -> Child:
        output = self._folder / f"worker.{len(self.deaths)}.out"
        return self._zygote.fork("tests.battery.roles:poisoned", output, self._args)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            if not self.child.is_alive:
                self.deaths.append(self.child.code)
                self.child = self._start()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.child.kill()


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with running_zygote(tmp_path_factory.mktemp("zygote"), first=IMPORTED) as zygote:
        yield zygote


async def dead_letters(place: Place) -> list[DeadLetter]:
    subjects = subjects_of(place.namespace)
    async with await Connection.open(ConnectOptions(place.url, name="operator")) as connection:
        return await read_dead_letters(await open_log(connection, subjects), subjects, Wanted())


@pytest.mark.parametrize("pool", [False, True], ids=["owned", "pool"])
async def test_a_poison_call_among_a_thousand_is_a_dead_letter_and_the_others_succeed(
    pool: bool, shared_server: EmbeddedServer, forking: Zygote, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        place = Place(shared_server, stack)
        await place.router()
        resources = [] if pool else RESOURCES[:10]
        where = {"url": place.url, "namespace": place.namespace, "name": "w", "resources": resources}
        supervisor = Supervisor(forking, tmp_path, **where)
        stack.push_async_callback(supervisor.close)
        client = await place.client()
        await eventually(supervisor.child.said, within_s=30, what="the instance is ready")

        def submitting(number: int) -> Any:
            resource = resources[number % 10] if resources else None
            what = POISON if number == 500 else number
            return client.submit("bank.work", what, resource_id=resource, timeout=PATIENT_S)

        pending = await asyncio.gather(*(submitting(number) for number in range(1000)))
        found = await asyncio.gather(*(call.result() for call in pending), return_exceptions=True)

        assert isinstance(found[500], DeadLettered), f"{found[500]!r}"
        assert [n for n, value in enumerate(found) if value != n] == [500]
        (letter,) = await dead_letters(place)
        assert format_call_id(letter.call_id) == pending[500].call_id
        assert (letter.method, letter.detail("reason"), letter.detail("attempts")) == (
            "bank.work",
            "poison",
            3,
        )
        assert set(supervisor.deaths) == {1}, "it died of something else than the poison"
        assert 3 <= len(supervisor.deaths) <= 5
        again = await client.call("bank.work", 7, resource_id=resources[0] if resources else None)
        assert (again, supervisor.child.is_alive) == (7, True)
        counted = await count(place.url, place.namespace)
        assert {len(outcomes) for outcomes in counted.outcomes.values()} == {1}
