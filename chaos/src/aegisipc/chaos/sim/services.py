"""The services of a simulation: ``book``, owned and with shared state, and ``desk``, a pool.

They are made once; what a process remembers belongs to its actor, so that each life begins with nothing.
Every handler tells the ledger of the run before it begins and after it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aegisipc.chaos.history import Phase
from aegisipc.chaos.sim.loop import ACTOR, Actor
from aegisipc.chaos.workload import BOOK, DESK, EFFECTS, LEFT_TO_PEOPLE, RETRY, Added, Trouble
from aegisipc.sdk import Context, Doubt, Executed, NotExecuted, Service, ServiceError


@dataclass(slots=True)
class _Memory:
    """What one process remembers."""

    totals: dict[str, list[int]] = field(default_factory=dict)
    """The numbers added to each resource, in their order: the shared state."""
    failed: dict[int, int] = field(default_factory=dict)


type Note = Callable[[int, Phase, Context, str, Actor], None]


@dataclass(slots=True)
class Stage:
    """What the handlers of the present run write to, and ask."""

    note: Note
    number_of: Callable[[str], int | None]
    """The number that the handler of a call began with, by its id: what a venue would say."""
    memories: dict[int, _Memory] = field(default_factory=dict)

    def memory(self) -> _Memory:
        """What the process that runs now remembers."""
        actor = ACTOR.get()
        found = self.memories.get(id(actor))
        if found is None:
            actor.keeps.append(actor)  # its id stays its own
            found = self.memories[id(actor)] = _Memory()
        return found


_stage: list[Stage] = []


def perform_on(stage: Stage | None) -> None:
    """Let handlers write to `stage` from now on; ``None``: to nothing."""
    _stage[:] = [] if stage is None else [stage]


async def _run(number: int, work_s: float, failures: int, ctx: Context) -> None:
    stage, actor = _stage[0], ACTOR.get()
    stage.note(number, Phase.BEGAN, ctx, EFFECTS[ctx.method], actor)
    if work_s:
        await asyncio.sleep(work_s)
    if failures < 0:
        raise ServiceError("refused", f"number {number} is refused, as it was asked to be")
    failed = stage.memory().failed
    if failed.get(number, 0) < failures:
        failed[number] = failed.get(number, 0) + 1
        raise Trouble(f"number {number} fails for the {failed[number]}. time")
    stage.note(number, Phase.ENDED, ctx, EFFECTS[ctx.method], actor)


def _said(number: int) -> dict[str, int | str]:
    """A result that tells one run of a call from another: if both came out, one can see which was told."""
    actor = ACTOR.get()
    return {"number": number, "by": f"{actor.name}/{actor.life}"}


def _service(name: str) -> Service:
    service = Service(name, max_running=8, max_backlog=64)

    @service.method(effect="once")
    async def place(number: int, work_s: float, failures: int, ctx: Context) -> int:
        await _run(number, work_s, failures, ctx)
        return number

    @service.method(effect="pure", retry=RETRY)
    async def peek(number: int, work_s: float, failures: int, ctx: Context) -> dict[str, int | str]:
        await _run(number, work_s, failures, ctx)
        return _said(number)

    @service.method(effect="idempotent", retry=RETRY)
    async def add(number: int, work_s: float, failures: int, ctx: Context) -> dict[str, int | str]:
        await _run(number, work_s, failures, ctx)
        actor = ACTOR.get()
        said: dict[str, int | str] = {
            "number": number,
            "by": f"{actor.name}/{actor.life}",
        }  # tells one run of the call from another
        if ctx.resource_id is None:
            return said
        ctx.emit(Added(resource=ctx.resource_id, number=number))
        return said | {"seen": len(_stage[0].memory().totals.get(ctx.resource_id, []))}

    @service.reconcile
    async def find_out(doubt: Doubt) -> Executed | NotExecuted | None:
        number = int(doubt.arguments["number"])
        if number % LEFT_TO_PEOPLE == 0:
            return None  # an operator has to look
        has_begun = _stage[0].number_of(doubt.call_id) is not None
        return Executed(number) if has_begun else NotExecuted("it is not in the ledger")

    if name == BOOK:
        _share(service)
    return service


def _share(service: Service) -> None:
    """Give it state that the instances of a group share."""

    @service.on(Added)
    def added(event: Added) -> None:
        _stage[0].memory().totals.setdefault(event.resource, []).append(event.number)

    @service.snapshot
    def taken() -> dict[str, list[int]]:
        return _stage[0].memory().totals

    @service.restore
    def restored(state: dict[str, list[int]] | None) -> None:
        _stage[0].memory().totals = {key: list(value) for key, value in (state or {}).items()}


SERVICES: Final[dict[str, Service]] = {name: _service(name) for name in (BOOK, DESK)}


def totals_of(stage: Stage, actor: Actor) -> dict[str, list[int]]:
    """What a process has as shared state."""
    memory = stage.memories.get(id(actor))
    return {} if memory is None else memory.totals
