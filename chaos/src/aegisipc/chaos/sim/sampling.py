"""How much processes hold: the sizes of their tables and queues, beside the limits that production sets them.

A table that only grows shows in no outcome, and a simulated run is too short to run out of memory. So sizes
are looked at while it goes on, and the largest ones are kept: :func:`watched` notes them for the checker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from aegisipc.chaos.history import Sample
from aegisipc.chaos.sim.cast import InstanceProcess, RouterProcess
from aegisipc.eventstore.calls import _MAX_REQUEUEING, GroupCalls
from aegisipc.eventstore.memories import MAX_SESSIONS
from aegisipc.router.application.router import Router
from aegisipc.sdk.client import Client
from aegisipc.sdk.core.flow import MAX_GROUPS
from aegisipc.sdk.core.key_lookups import MAX_ANSWERS
from aegisipc.sdk.core.pool_cancels import MAX_REMEMBERED
from aegisipc.sdk.core.pool_facts import MAX_SEEN
from aegisipc.sdk.core.pool_frames import MAX_PARKED
from aegisipc.sdk.hosts.key_reading import MAX_SEGMENTS_KEPT
from aegisipc.sdk.hosts.owned import OwnedHost
from aegisipc.sdk.hosts.pool import PoolHost
from aegisipc.sdk.hosts.questions import _MAX_IN_VAIN
from aegisipc.sdk.hosts.resolving import MAX_WAITING
from aegisipc.sdk.instance import Instance

if TYPE_CHECKING:
    from aegisipc.chaos.sim.world import World

EVERY_S: Final = 0.1
"""How often sizes are looked at, in virtual seconds."""


def tables_of(held: Router | Instance | Client) -> dict[str, int]:
    """Return the sizes of what a process holds, each by its name and, behind a slash, its limit.

    It looks into the parts of production code, wherever they keep what they keep.
    """
    if isinstance(held, Router):
        return _of_router(held)
    if isinstance(held, Client):
        return _of_client(held)
    incarnation = held.incarnation
    host = None if incarnation is None else incarnation.host
    if isinstance(host, OwnedHost):
        return _of_member(host, held.service.max_backlog)
    return _of_worker(host) if isinstance(host, PoolHost) else {}


def _of_router(router: Router) -> dict[str, int]:
    tables: dict[str, int] = {}
    for (service, group), calls in router.state.calls.items():
        tables |= _of_fold(calls, f"{service}/{group} ")
    return tables


def _of_fold(calls: GroupCalls, of: str = "") -> dict[str, int]:
    """Sizes of a fold of calls. What is open is bounded by those who accept and turn away, not here."""
    tables = {
        f"{of}sessions/{MAX_SESSIONS}": len(calls.sessions._last),
        f"{of}requeueing/{_MAX_REQUEUEING}": len(calls.requeueing),
        f"{of}open": len(calls.open),
    }
    outcomes = calls.outcomes
    if outcomes is not None:
        tables[f"{of}outcomes/{outcomes._max_count}"] = len(outcomes._kept)
        tables[f"{of}outcome bytes/{outcomes._max_bytes}"] = outcomes._bytes
    return tables


def _of_client(client: Client) -> dict[str, int]:
    caller = client._dispatcher._caller
    most = caller._max_open
    return {
        f"open/{most}": len(caller.open),
        f"queued/{most}": sum(len(lane.queue) for lane in caller.lanes.values()),
        f"hints/{MAX_GROUPS}": len(caller._hints._heard),
    }


def _of_member(host: OwnedHost, max_backlog: int) -> dict[str, int]:
    member = host.member
    holding, commands = member.holding, host._commands
    schedule = holding.schedule
    return _of_fold(member.calls) | {
        f"running/{schedule._max_running}": schedule.running,
        f"waiting/{2 * max_backlog}": schedule.waiting,
        f"key answers/{MAX_ANSWERS}": len(holding.keys._answers._kept),
        f"segments/{MAX_SEGMENTS_KEPT}": len(host._keys._kept),
        f"resolving/{MAX_WAITING}": len(commands._resolving),
        f"checking/{MAX_WAITING}": sum(map(len, commands._checking.values())),
        **_of_questions(host),
    }


def _of_worker(host: PoolHost) -> dict[str, int]:
    worker = host._worker
    hand = worker._hand
    return {
        f"running/{hand.max_running}": hand.running,
        # What is in hand is never forgotten.
        f"facts/{MAX_SEEN + len(hand.calls)}": len(worker.facts._seen),
        f"fact sessions/{MAX_SESSIONS}": len(worker.facts._sessions._last),
        f"parked/{MAX_PARKED}": len(worker.frames._parked),
        f"cancels/{MAX_REMEMBERED}": len(hand.cancels._wanted),
        f"operators/{MAX_WAITING}": len(host.operators._waiting),
        "in hand": len(hand.calls) + len(hand.watched) + len(hand.doubts),
        **_of_questions(host),
    }


def _of_questions(host: Any) -> dict[str, int]:
    questions = getattr(host, "questions", None)  # not before it serves
    return {} if questions is None else {f"asked in vain/{_MAX_IN_VAIN}": len(questions._in_vain)}


class _Watch:
    """The largest sizes that were seen, by process."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._most: dict[str, dict[str, int]] = {}
        self._next = world.loop.call_later(EVERY_S, self._tick)

    def _tick(self) -> None:
        self._look()
        self._next = self._world.loop.call_later(EVERY_S, self._tick)

    def _look(self) -> None:
        for name, process in self._world.processes.items():
            held = _held_by(process)
            if held is None:
                continue
            most = self._most.setdefault(name, {})
            for table, size in tables_of(held).items():
                most[table] = max(size, most.get(table, 0))

    def end(self) -> None:
        self._next.cancel()
        self._look()
        recorder = self._world.recorder
        for name, tables in self._most.items():
            recorder.evidence.take(Sample(name, recorder.now_ns, tables=tables))


def _held_by(process: object) -> Router | Instance | Client | None:
    if isinstance(process, RouterProcess):
        return process.router
    if isinstance(process, InstanceProcess):
        return process.instance
    client = getattr(process, "client", None)
    return client if isinstance(client, Client) else None


@contextmanager
def watched(world: World) -> Iterator[None]:
    """Meanwhile look at the sizes of what all processes of a world hold, and note the largest ones for the
    checker at the end. What processes held in earlier lives counts, too.
    """
    watch = _Watch(world)
    try:
        yield
    finally:
        watch.end()
