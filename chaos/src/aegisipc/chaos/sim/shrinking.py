"""Cutting a failing plan down to a small one that fails in the same way.

Delta debugging over the lists of a plan (faults, orders, calls), and then over everything that can be
simpler: fewer processes, fewer options, shorter times. A change counts if the same invariant is broken
afterwards. Whatever is taken away also moves all random delays, so that a plan may hold by luck; so when
nothing helps any more, each change is tried again with a few other seeds for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from aegisipc.chaos.sim.plan import OF_ACTORS, CallPlan, FaultPlan, GroupPlan, OrderPlan, Plan
from aegisipc.chaos.workload import BOOK, DESK
from aegisipc.eventstore.names import POOL_GROUP

type Fails = Callable[[Plan], bool]
"""Whether a plan is broken in the way that is looked for."""

OTHER_SEEDS: Final = (1, 4)
"""With how many seeds each change is tried, pass by pass."""

_STRIDE: Final = 1_000_003
"""From one seed for the delays to the next one tried; far from those that somebody counts through."""

_LISTS: Final = ("faults", "orders", "calls")
_DIGITS: Final = (1, 2, 3)

_TAIL_S: Final = 0.05
"""How much longer than its last fault or call a plan lasts at least."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What came of it. ``is_smallest``: no single change makes it smaller; otherwise the bound was met."""

    plan: Plan
    runs: int
    is_smallest: bool


class _Spent(Exception):
    """The bound was met."""


def shrink(plan: Plan, fails: Fails, *, max_runs: int = 1500, max_s: float = 120.0) -> Shrunk:
    """Return the smallest plan that is found and fails. `plan` itself is taken to fail, and not tried.

    The same arguments give the same plan, unless `max_s` seconds are over before `max_runs` runs.
    """
    search = _Search(plan, fails, max_runs, time.monotonic() + max_s)
    try:
        for seeds in OTHER_SEEDS:
            search.seeds = seeds
            search.until_nothing_helps()
    except _Spent:
        return Shrunk(search.best, search.runs, is_smallest=False)
    return Shrunk(search.best, search.runs, is_smallest=True)


class _Search:
    def __init__(self, plan: Plan, fails: Fails, max_runs: int, until_s: float) -> None:
        self.best = plan
        self.runs = 0
        self.seeds = 1
        self._fails, self._max_runs, self._until_s = fails, max_runs, until_s
        self._first_seed = plan.seed
        self._tried: set[str] = set()

    def until_nothing_helps(self) -> None:
        """Try all changes, again and again."""
        while True:
            before = self.best
            for name in _LISTS:
                self._cut(name)
            for simpler in _SIMPLER:
                self._simplify(simpler)
            if self.best == before:
                return

    def _take(self, candidate: Plan | None) -> bool:
        """Try a plan; if it fails it is the best so far."""
        if candidate is None:
            return False
        for number in range(self.seeds):
            tried = replace(candidate, seed=self._seed(number))
            if tried == self.best:
                return False
            if self._is_failing(tried):
                self.best = tried
                return True
        return False

    def _seed(self, number: int) -> int:
        return self.best.seed if number == 0 else self._first_seed + number * _STRIDE

    def _is_failing(self, plan: Plan) -> bool:
        key = repr(plan)
        if key in self._tried:  # it was not taken then, and it would not be now
            return False
        if self.runs >= self._max_runs or time.monotonic() >= self._until_s:
            raise _Spent
        self._tried.add(key)
        self.runs += 1
        return self._fails(plan)

    def _cut(self, name: str) -> None:
        """Take as many items from a list as possible: first large parts of it, then single ones."""
        size = len(getattr(self.best, name))
        while size:
            at = 0
            while at < len(getattr(self.best, name)):
                items = getattr(self.best, name)
                if not self._take(_pruned(_with_items(self.best, name, items[:at] + items[at + size :]))):
                    at += size
            size //= 2

    def _simplify(self, simpler: Callable[[Plan], Iterator[Plan]]) -> None:
        """Take what is simpler for as long as something is."""
        while any(self._take(_pruned(candidate)) for candidate in simpler(self.best)):
            pass


def _pruned(plan: Plan) -> Plan | None:
    """Leave out what refers to nobody any more; ``None`` if nobody is left to call."""
    if not plan.groups and not plan.workers:
        return None
    actors = set(plan.actors)
    places = {(BOOK, group.name) for group in plan.groups} | ({(DESK, POOL_GROUP)} if plan.workers else set())
    served = {resource for group in plan.groups for resource in group.resources}
    return replace(
        plan,
        faults=tuple(f for f in plan.faults if f.kind not in OF_ACTORS or f.victim in actors),
        quarantined=tuple(name for name in plan.quarantined if name in actors),
        orders=tuple(
            o
            for o in plan.orders
            if (o.service, o.group) in places and (not o.instance or o.instance in actors)
        ),
        calls=tuple(
            c
            for c in plan.calls
            if c.client in actors and (c.resource in served if c.service == BOOK else plan.workers)
        ),
    )


# -- what is simpler ------------------------------------------------------------------------------------


def _fewer_processes(plan: Plan) -> Iterator[Plan]:
    for place in range(len(plan.groups)):
        yield replace(plan, groups=plan.groups[:place] + plan.groups[place + 1 :])
    if plan.workers:
        yield replace(plan, workers=0)
        yield replace(plan, workers=plan.workers - 1)
    if plan.clients > 1:
        calls = tuple(replace(call, client="c-1") for call in plan.calls)
        yield replace(plan, clients=1, calls=calls)
    if plan.routers > 1:
        yield replace(plan, routers=plan.routers - 1)
    for place, group in enumerate(plan.groups):
        if group.instances > 1:
            yield _with_group(plan, place, replace(group, instances=group.instances - 1))
        used = {call.resource for call in plan.calls}
        kept = tuple(resource for resource in group.resources if resource in used) or group.resources[:1]
        if kept != group.resources:
            yield _with_group(plan, place, replace(group, resources=kept))


def _with_group(plan: Plan, place: int, group: GroupPlan) -> Plan:
    return replace(plan, groups=(*plan.groups[:place], group, *plan.groups[place + 1 :]))


def _fewer_options(plan: Plan) -> Iterator[Plan]:
    usual: dict[str, Any] = {
        "replicas": 1,
        "snapshot_entries": 0,
        "has_system": False,
        "syncs": True,
        "quarantined": (),
    }
    for name, value in usual.items():
        if getattr(plan, name) != value:
            yield replace(plan, **{name: value})


def _plainer_calls(plan: Plan) -> Iterator[Plan]:
    usual: dict[str, Any] = {
        "key": None,
        "priority": "normal",
        "failures": 0,
        "is_submitted": False,
        "cancel_after_s": None,
        "work_s": 0.0,
        "timeout_s": 10.0,
    }
    for place, call in enumerate(plan.calls):
        for name, value in usual.items():
            if getattr(call, name) != value:
                yield _with_call(plan, place, replace(call, **{name: value}))


def _with_call(plan: Plan, place: int, call: CallPlan) -> Plan:
    return replace(plan, calls=(*plan.calls[:place], call, *plan.calls[place + 1 :]))


def _shorter_times(plan: Plan) -> Iterator[Plan]:
    times = [call.at_s for call in plan.calls] + [order.at_s for order in plan.orders]
    times += [fault.at_s for fault in plan.faults]
    last_s = max(times, default=0.0)
    if plan.until_s > last_s + _TAIL_S:
        yield replace(plan, until_s=last_s + _TAIL_S)
    first_s = min(times, default=0.0)
    if first_s > _TAIL_S:
        yield replace(
            plan,
            until_s=plan.until_s - first_s,
            calls=tuple(replace(call, at_s=call.at_s - first_s) for call in plan.calls),
            faults=tuple(replace(fault, at_s=fault.at_s - first_s) for fault in plan.faults),
            orders=tuple(replace(order, at_s=order.at_s - first_s) for order in plan.orders),
        )
    for place, fault in enumerate(plan.faults):
        for for_s in (0.02, 0.3, 1.2):
            if for_s < fault.for_s:
                yield _with_fault(plan, place, replace(fault, for_s=for_s))


def _with_fault(plan: Plan, place: int, fault: FaultPlan) -> Plan:
    return replace(plan, faults=(*plan.faults[:place], fault, *plan.faults[place + 1 :]))


def _rounder_times(plan: Plan) -> Iterator[Plan]:
    """Times with few digits: first all of them, then one by one."""
    for digits in _DIGITS:
        yield replace(
            plan,
            until_s=_up(plan.until_s, digits),
            calls=tuple(_rounded(call, digits) for call in plan.calls),
            faults=tuple(_rounded(fault, digits) for fault in plan.faults),
            orders=tuple(_rounded(order, digits) for order in plan.orders),
        )
    for name in _LISTS:
        items = getattr(plan, name)
        for place, item in enumerate(items):
            for digits in _DIGITS:
                yield _with_items(plan, name, (*items[:place], _rounded(item, digits), *items[place + 1 :]))


def _with_items(plan: Plan, name: str, items: tuple[Any, ...]) -> Plan:
    changed: dict[str, Any] = {name: items}
    return replace(plan, **changed)


def _rounded[T: (CallPlan, FaultPlan, OrderPlan)](item: T, digits: int) -> T:
    return replace(item, at_s=round(item.at_s, digits))


def _up(time_s: float, digits: int) -> float:
    rounded = round(time_s, digits)
    return rounded if rounded >= time_s else round(rounded + 10.0**-digits, digits)


_SIMPLER: Final = (_fewer_processes, _fewer_options, _shorter_times, _plainer_calls, _rounder_times)
