"""Plans as data in files: read back with every mistake named, for a plan may have been written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from aegisipc.chaos.sim.plan import OF_ACTORS, TEND, CallPlan, FaultPlan, OrderPlan, Plan
from aegisipc.chaos.workload import BOOK, DESK, EFFECTS
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.names import POOL_GROUP

MOST: Final = 9
"""Of each kind of process; names have one digit."""

LONGEST_S: Final = 600.0
"""The longest time that a plan may name, in virtual seconds."""

SERVER: Final = "server"
"""The victim of faults that are no process's."""

_VERBS: Final = ("promote", "drain", "pause", "resume", TEND)
_PRIORITIES: Final = ("low", "normal", "high")


class BadPlan(AegisError):
    """That is no plan that could be run. Fields: ``where``, ``why``."""

    code = "bad_plan"


def read_json(path: str | Path) -> Any:
    """Return what a file of JSON holds.

    Raises:
        BadPlan: it holds no JSON.
        OSError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise _bad(str(path), f"it is no JSON ({error})") from error


def read_plan(path: str | Path) -> Plan:
    """Return the plan that a file holds.

    Raises:
        BadPlan: it holds none.
        OSError: it cannot be read.
    """
    return plan_from_plain(read_json(path), where=str(path))


def plan_from_plain(plain: Any, *, where: str = "the plan") -> Plan:
    """Return the plan that :meth:`Plan.to_plain` made data of; `where` names it in messages.

    Raises:
        BadPlan: it is none, or one that could not be run.
    """
    try:
        plan = _adapter().validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "Plan") or "it"
        raise _bad(where, f"{place}: {first['msg']}") from error
    unknown = next(_unknown(plain, plan.to_plain()), None)
    if unknown is not None:
        raise _bad(where, f"{unknown}: there is no such field")
    check_plan(plan, where=where)
    return plan


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def _unknown(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Iterate over the fields that a plan does not have: a misspelt one would mean nothing."""
    if isinstance(given, dict):
        for name, value in given.items():
            here = f"{path}.{name}" if path else str(name)
            if name in known:
                yield from _unknown(value, known[name], here)
            else:
                yield here
    elif isinstance(given, (list, tuple)):
        for place, (value, same) in enumerate(zip(given, known, strict=True)):
            yield from _unknown(value, same, f"{path}.{place}")


def check_plan(plan: Plan, *, where: str = "the plan") -> None:
    """Refuse a plan that names what is not there, or what would take for ever.

    Raises:
        BadPlan: it does.
    """
    for why in _wrong(plan):
        raise _bad(where, why)


def _wrong(plan: Plan) -> Iterator[str]:
    """Iterate over what is wrong with a plan."""
    yield from _wrong_cast(plan)
    served = {resource for group in plan.groups for resource in group.resources}
    actors = set(plan.actors)
    if len({call.number for call in plan.calls}) != len(plan.calls):
        yield "calls: each has a number of its own"
    for place, call in enumerate(plan.calls):
        for why in _wrong_call(call, actors, {*served, None} if plan.workers else {*served}):
            yield f"calls.{place}{why}"
    for place, fault in enumerate(plan.faults):
        for why in _wrong_fault(fault, actors if fault.kind in OF_ACTORS else {SERVER}):
            yield f"faults.{place}{why}"
    places = {(BOOK, group.name) for group in plan.groups} | {(DESK, POOL_GROUP)}
    for place, order in enumerate(plan.orders):
        for why in _wrong_order(order, actors, places):
            yield f"orders.{place}{why}"
    unknown = set(plan.quarantined) - {name for name, _ in plan.instances}
    if unknown:
        yield f"quarantined: there is no instance {min(unknown)!r}"


def _wrong_call(call: CallPlan, actors: set[str], served: set[str | None]) -> Iterator[str]:
    if call.client not in actors or not call.client.startswith("c-"):
        yield f".client: there is no client {call.client!r}"
    if call.method not in EFFECTS:
        yield f".method: there is no method {call.method!r}; choose one of {', '.join(EFFECTS)}"
    if call.service not in (BOOK, DESK):
        yield f".service: there is no service {call.service!r}"
    elif (call.resource is None) != (call.service == DESK):
        yield f".resource: calls of {BOOK!r} have one, those of {DESK!r} have none"
    elif call.resource not in served:
        yield (
            f".resource: nobody serves {call.resource!r}"
            if call.resource
            else ".service: there are no workers"
        )
    if call.priority not in _PRIORITIES:
        yield f".priority: {call.priority!r} is none of {', '.join(_PRIORITIES)}"
    yield from _wrong_times("", (call.at_s, call.work_s, call.timeout_s, call.cancel_after_s or 0.0))


def _wrong_fault(fault: FaultPlan, victims: set[str]) -> Iterator[str]:
    if fault.victim not in victims:
        yield f".victim: {fault.kind} cannot strike {fault.victim!r}"
    if not math.isfinite(fault.amount):
        yield ".amount: that is no number"
    yield from _wrong_times("", (fault.at_s, fault.for_s))


def _wrong_order(order: OrderPlan, actors: set[str], places: set[tuple[str, str]]) -> Iterator[str]:
    if order.verb not in _VERBS:
        yield f".verb: {order.verb!r} is none of {', '.join(_VERBS)}"
    if (order.service, order.group) not in places:
        yield f".group: there is no group {order.service}/{order.group}"
    if order.instance and order.instance not in actors:
        yield f".instance: there is no instance {order.instance!r}"
    yield from _wrong_times("", (order.at_s,))


def _wrong_cast(plan: Plan) -> Iterator[str]:
    counts = {
        "routers": (plan.routers, 1),
        "clients": (plan.clients, 1),
        "workers": (plan.workers, 0),
        "replicas": (plan.replicas, 1),
        **{f"groups.{n}.instances": (group.instances, 1) for n, group in enumerate(plan.groups)},
    }
    for name, (count, least) in counts.items():
        if not least <= count <= MOST:
            yield f"{name}: {count} is not between {least} and {MOST}"
    if not plan.groups and not plan.workers:
        yield "groups: there is nobody to call; name a group, or workers"
    if len({group.name for group in plan.groups}) != len(plan.groups):
        yield "groups: each has a name of its own"
    named = [resource for group in plan.groups for resource in group.resources]
    if len(set(named)) != len(named) or not all(group.resources for group in plan.groups):
        yield "groups: each serves resources of its own"
    if plan.pulse_ms < 1 or plan.suspect_after_ms < 1 or plan.snapshot_entries < 0:
        yield "pulse_ms and suspect_after_ms are above 0, and snapshot_entries is not below"
    yield from _wrong_times("until_s", (plan.until_s,))


def _wrong_times(where: str, times: Iterable[float]) -> Iterator[str]:
    for time_s in times:
        if not 0.0 <= time_s <= LONGEST_S:  # which no NaN is, either
            yield f"{where}: a time of {time_s} s is not between 0 and {LONGEST_S:g} s"


def _bad(where: str, why: str) -> BadPlan:
    return BadPlan(f"cannot run {where!r}: {why}; correct it", where=where, why=why)
