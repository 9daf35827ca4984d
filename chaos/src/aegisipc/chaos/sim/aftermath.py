"""What happens once everything was healed: calls come to their ends, and every node is asked how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import replace
from itertools import count
from typing import Any, Final

from aegisipc.chaos.history import Deed
from aegisipc.chaos.log_facts import facts_of
from aegisipc.chaos.sim.cast import NAMESPACE, URL, InstanceProcess, RouterProcess
from aegisipc.chaos.sim.loop import ACTOR, Actor
from aegisipc.chaos.sim.operating import about_letters, resolutions
from aegisipc.chaos.sim.plan import CallPlan, Plan
from aegisipc.chaos.sim.world import UP_WITHIN_S, World
from aegisipc.chaos.workload import BOOK, DESK, receipt_of
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import digest_of
from aegisipc.sdk import connect
from aegisipc.sdk.client import Client
from aegisipc.sdk.pending import Pending

SETTLE_WITHIN_S: Final = 90.0
"""How long after the last fault everything accepted must have concluded, in virtual seconds."""

_LOOK_S: Final = 0.05
_OPERATE_EVERY_S: Final = 0.5
_PATIENT_S: Final = 3.0
"""How long after healing an operator leaves doubts to the service."""
_LEVEL_WITHIN_S: Final = 5.0
_EFFECT_S: Final = 0.5
_NEWCOMER: Final = "9"
_READ_S: Final = 20.0
READER: Final = "reader"
_FIRST_READ: Final = 1_000_000
"""Numbers of a reader's operations begin here."""
_FIRST_FOUND: Final = 4_000_000
"""And here those by which it follows keys."""


class Aftermath:
    """What is done with a world after it was healed, now."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._loop, self._recorder = world.loop, world.recorder
        self._healed_at_s = world.loop.now_s
        world.recorder.evidence.healed_at_ns = world.recorder.now_ns

    async def run(self) -> None:
        """Let it settle, and look at everything."""
        world, recorder = self._world, self._recorder
        is_settled = await self._settle()
        if is_settled and await self._deal_with_dead_letters():
            is_settled = await self._settle()
        after_s = self._loop.now_s - self._healed_at_s
        recorder.probe("system", "system", serves=is_settled, after_s=after_s)
        world.bring_back()
        await world.until(world.is_up, UP_WITHIN_S)
        context = copy_context()
        context.run(ACTOR.set, Actor(READER))
        try:
            await self._loop.create_task(self._attach_to_all(), context=context)
        except AegisError as error:
            recorder.probe(READER, "client", serves=False, after_s=after_s, detail=error.message)
        await self._ask_nodes(after_s)
        await self._compare_states(after_s)
        recorder.evidence.leaks += world.left_over()

    # -- settling ---------------------------------------------------------------------------------------

    async def _settle(self) -> bool:
        """Wait until all clients are done and all calls concluded; an operator decides what nobody else can.
        Tells whether that came about.
        """
        world = self._world
        next_look_s = self._healed_at_s + _PATIENT_S
        while self._loop.now_s < self._healed_at_s + SETTLE_WITHIN_S:
            state = world.folded()
            is_open = any(calls.open for calls in state.calls.values())
            is_quiet = not world.server.jetstream.has_waiting and not is_open
            if is_quiet and all(client.is_done for client in world.clients):
                return True
            if self._loop.now_s >= next_look_s:
                world.release()
                await self._end_doubts(state)
                next_look_s = self._loop.now_s + _OPERATE_EVERY_S
            await asyncio.sleep(_LOOK_S)
        return False

    async def _end_doubts(self, state: SystemState) -> None:
        for told in resolutions(state, self._recorder):
            await self._world.operator.tell(*told)

    async def _deal_with_dead_letters(self) -> bool:
        """Let half of the dead letters run again, and put the others away; tells whether there were any."""
        world = self._world
        letters = about_letters(facts_of(world.records(), world.subjects).calls.values())
        for told in letters:
            await world.operator.tell(*told)
        await asyncio.sleep(_EFFECT_S if letters else 0.0)
        return bool(letters)

    # -- looking ----------------------------------------------------------------------------------------

    async def _attach_to_all(self) -> None:
        """A reader that was not there before asks for the outcome of every call in the log, by its id, and
        for whoever has each key, in each group.
        """
        world = self._world
        asked = {call.number: call for call in world.plan.calls}
        facts = facts_of(world.records(), world.subjects)
        async with connect(URL, namespace=NAMESPACE, name=READER, connect_timeout_s=_READ_S) as client:
            for number, (call_id, fact) in enumerate(facts.calls.items(), start=_FIRST_READ):
                call = asked.get(fact.number or 0)
                if call is not None:  # else of somebody hostile
                    await self._read(call, call_id, number, client.attach(call_id))
            numbers = count(_FIRST_FOUND)
            for call in _keyed_in(world.plan):
                await self._find(call, client, numbers)

    async def _read(self, call: CallPlan, call_id: str, number: int, attaching: Awaitable[Pending]) -> None:
        """Ask for the outcome of a call, and take down what is told."""
        recorder, told = self._recorder, dict[str, Any]()
        recorder.invoked(call, Deed.ATTACH, READER, number)
        try:
            attached = await attaching
            told["receipt"] = receipt_of(attached)
            told["value"] = await attached.settled(_READ_S)
        except AegisError as error:
            told["error"] = error
        recorder.told(call, Deed.ATTACH, READER, call_id=call_id, number=number, **told)

    async def _find(self, call: CallPlan, client: Client, numbers: Iterator[int]) -> None:
        """Ask which call has a key where that of `call` is looked for, and then for its outcome."""
        recorder, number = self._recorder, next(numbers)
        finding = client.attach(
            idempotency_key=call.key, service=call.service, resource_id=call.resource, timeout=_READ_S
        )
        recorder.invoked(call, Deed.FIND, READER, number)
        try:
            found = await finding
        except AegisError as error:
            recorder.told(call, Deed.FIND, READER, error=error, number=number)
            return
        recorder.told(call, Deed.FIND, READER, call_id=found.call_id, number=number)
        await self._read(call, found.call_id, next(numbers), _at_once(found))

    async def _ask_nodes(self, after_s: float) -> None:
        """Compare what every router believes with the log replayed from its beginning."""
        world = self._world
        routers = {n: p for n, p in world.processes.items() if isinstance(p, RouterProcess)}

        def is_level() -> bool:
            end = world.folded().position
            return all(p.router is not None and p.router.state.position == end for p in routers.values())

        await world.until(is_level, _LEVEL_WITHIN_S)
        replayed = SystemState(world.subjects)
        for record in world.records():
            replayed.fold(record)
        digest = digest_of(replayed)
        for name, process in routers.items():
            router, digests = process.router, {"replayed": digest}
            if router is not None and router.state.position == replayed.position:
                digests["live"] = digest_of(router.state)
            self._recorder.probe(name, "router", serves="live" in digests, after_s=after_s, digests=digests)
        await world.until(world.is_up, _LEVEL_WITHIN_S)  # an order that came late may have sent one away
        for name, instance in world.processes.items():
            if isinstance(instance, InstanceProcess):
                self._recorder.probe(name, "instance", serves=instance.serves, after_s=after_s)

    async def _compare_states(self, after_s: float) -> None:
        """Compare the shared state of every member of a group with that of one which joins only now, and so
        has it from the log alone.
        """
        world = self._world
        for group in world.plan.groups:
            newcomer = world.join(group, f"{group.name}-{_NEWCOMER}")
            await world.until(lambda process=newcomer: process.serves, _LEVEL_WITHIN_S)  # type: ignore[misc]
            members = [name for name, of in world.plan.instances if of is group]

            def is_level(names: Sequence[str] = (newcomer.name, *members)) -> bool:
                return len({world.state_of(name) for name in names}) == 1

            await world.until(is_level, _LEVEL_WITHIN_S)
            expected = world.state_of(newcomer.name)
            for name in members:
                state = world.state_of(name)
                if state is not None and expected is not None:
                    digests = {"live": state, "replayed": expected}
                    self._recorder.probe(name, "instance", serves=True, after_s=after_s, digests=digests)


def _keyed_in(plan: Plan) -> Iterator[CallPlan]:
    """Return a call for each key and each group of a plan: whether the key was used there or not."""
    places: list[tuple[str, str | None]] = [(BOOK, group.resources[0]) for group in plan.groups]
    if plan.workers:
        places.append((DESK, None))
    firsts: dict[str, CallPlan] = {}
    for call in plan.calls:
        if call.key is not None:
            firsts.setdefault(call.key, call)
    for first in firsts.values():
        for service, resource in places:
            yield replace(first, service=service, resource=resource)


async def _at_once[T](value: T) -> T:
    return value
