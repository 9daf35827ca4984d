"""What happens once everything was healed: calls come to their ends, and every node is asked how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any, Final

from aegisipc.chaos.history import Deed
from aegisipc.chaos.log_facts import facts_of
from aegisipc.chaos.log_words import CallState as WhereItStands
from aegisipc.chaos.sim.cast import NAMESPACE, URL, InstanceProcess, RouterProcess
from aegisipc.chaos.sim.loop import ACTOR, Actor
from aegisipc.chaos.sim.world import UP_WITHIN_S, World
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import digest_of
from aegisipc.sdk import connect

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
_FIRST_READ: Final = 1_000_000
"""Numbers of a reader's operations begin here."""


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
        context.run(ACTOR.set, Actor("reader"))
        try:
            await self._loop.create_task(self._attach_to_all(), context=context)
        except AegisError as error:
            recorder.probe("reader", "client", serves=False, after_s=after_s, detail=error.message)
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
                await self._end_doubts(state)
                next_look_s = self._loop.now_s + _OPERATE_EVERY_S
            await asyncio.sleep(_LOOK_S)
        return False

    async def _end_doubts(self, state: SystemState) -> None:
        """Look into the ledger, as an operator would look at the venue."""
        for (service, group), calls in state.calls.items():
            for call in list(calls.open.values()):
                if call.state is not CallState.IN_DOUBT:
                    continue
                shown = format_call_id(call.call_id)
                number = self._recorder.number_of(shown)
                command: dict[str, Any] = {"command": "resolve", "call_id": shown, "author": "operator"}
                if number is None:
                    command |= {"executed": False}
                else:
                    command |= {"executed": True, "result": number}
                await self._world.operator.tell(service, group, command)

    async def _deal_with_dead_letters(self) -> bool:
        """Let half of the dead letters run again, and put the others away; tells whether there were any."""
        world = self._world
        letters = [
            call
            for call in facts_of(world.records(), world.subjects).calls.values()
            if call.state is WhereItStands.DEAD
        ]
        for call in letters:
            command = "requeue" if call.number is None or call.number % 2 else "discard"
            body = {"command": command, "call_id": call.call_id, "author": "operator"}
            await world.operator.tell(call.service, call.group, body)
        await asyncio.sleep(_EFFECT_S if letters else 0.0)
        return bool(letters)

    # -- looking ----------------------------------------------------------------------------------------

    async def _attach_to_all(self) -> None:
        """A reader that was not there before asks for the outcome of every call in the log."""
        world, recorder = self._world, self._recorder
        asked = {call.number: call for call in world.plan.calls}
        facts = facts_of(world.records(), world.subjects)
        async with connect(URL, namespace=NAMESPACE, name="reader", connect_timeout_s=_READ_S) as client:
            for number, (call_id, fact) in enumerate(facts.calls.items(), start=_FIRST_READ):
                call = asked.get(fact.number or 0)
                if call is None:
                    continue  # of somebody hostile
                recorder.invoked(call, Deed.ATTACH, "reader", number)
                told: dict[str, Any] = {"call_id": call_id, "number": number}
                try:
                    attached = await client.attach(call_id)
                    told["value"] = await attached.settled(_READ_S)
                except AegisError as error:
                    told["error"] = error
                recorder.told(call, Deed.ATTACH, "reader", **told)

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
