"""What one seed expands to: who is there, what is asked for, what breaks, and when.

A plan is data: it can be printed, compared and cut down. Swarm testing: each plan takes a random subset of
the faults at random rates, since a run in which everything breaks at once reaches less than many in which few
things do. Times are virtual seconds from the moment at which the system is up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from aegisipc.chaos.sim.plan_shapes import (
    OF_ACTORS,
    OF_SERVER,
    TEND,
    Break,
    CallPlan,
    FaultPlan,
    GroupPlan,
    OrderPlan,
    Plan,
)
from aegisipc.chaos.workload import BOOK, DESK, EFFECTS

__all__ = [
    "OF_ACTORS",
    "OF_SERVER",
    "TEND",
    "Break",
    "CallPlan",
    "FaultPlan",
    "GroupPlan",
    "OrderPlan",
    "Plan",
    "expand",
]


@dataclass(frozen=True, slots=True)
class _Size:
    """How much there is of everything: ranges, and choices. Most plans are small, since those are quick."""

    groups: tuple[tuple[int, ...], ...]
    workers: tuple[int, ...]
    others: tuple[int, ...]
    """How many routers, and how many clients."""
    until_s: tuple[float, float]
    calls: tuple[int, int]
    faults: tuple[int, ...]


_SMALL: Final = _Size(((1,), (2,), (2,), (2,), ()), (0, 0, 0, 1), (1,), (0.6, 1.8), (3, 8), (1, 1, 2, 3))
_LARGE: Final = _Size(
    ((1,), (2,), (2,), (3,), (1, 2), (2, 2), ()),
    (0, 0, 1, 2),
    (1, 1, 2),
    (2.0, 5.0),
    (6, 24),
    (1, 2, 3, 4, 6, 9),
)
_SMALL_RATE: Final = 0.75


def expand(seed: int) -> Plan:
    """Return the plan of a seed."""
    chance = Random(f"plan {seed}")  # noqa: S311 - reproducible on purpose
    size = _SMALL if chance.random() < _SMALL_RATE else _LARGE
    groups = tuple(
        GroupPlan(
            f"g{n + 1}", tuple(f"a{n + 1}{letter}" for letter in "xyz"[: chance.randint(1, 3)]), instances
        )
        for n, instances in enumerate(chance.choice(size.groups))
    )
    plan = Plan(
        seed=seed,
        routers=chance.choice(size.others),
        groups=groups,
        workers=chance.choice(size.workers) if groups else chance.choice((1, 2, 2, 3)),
        clients=chance.choice(size.others),
        replicas=chance.choice((1, 1, 3)),
        syncs=True,
        pulse_ms=chance.choice((250, 500)),
        suspect_after_ms=chance.choice((1000, 1500)),
        snapshot_entries=chance.choice((0, 0, 10, 20)),
        has_system=chance.random() < 0.5,
        until_s=chance.uniform(*size.until_s),
        calls=(),
    )
    plan = replace(plan, calls=_calls(plan, size, chance))
    faults = (
        _zombie(plan, chance) if groups and chance.random() < _ZOMBIE_RATE else _faults(plan, size, chance)
    )
    plan = _doubtful(replace(plan, faults=faults, orders=_orders(plan, chance)))
    return replace(plan, orders=_with_tending(plan), quarantined=_quarantined(plan))


def _calls(plan: Plan, size: _Size, chance: Random) -> tuple[CallPlan, ...]:
    made: list[CallPlan] = []
    count = chance.randint(*size.calls)
    methods = chance.sample(sorted(EFFECTS), chance.randint(1, len(EFFECTS)))
    key_rate, cancel_rate, short_rate, fail_rate = (chance.choice((0.0, 0.0, 0.15, 0.4)) for _ in range(4))
    burst = chance.random() < 0.3
    for number in range(1, count + 1):
        resource, service = _place(plan, chance)
        timeout_s = chance.choice((0.05, 0.3)) if chance.random() < short_rate else chance.choice((4.0, 10.0))
        call = CallPlan(
            number=number,
            at_s=0.0 if burst and number % 2 else chance.uniform(0.0, plan.until_s * 0.9),
            client=f"c-{chance.randint(1, plan.clients)}",
            service=service,
            method=chance.choice(methods),
            argument=number,
            resource=resource,
            timeout_s=timeout_s,
            priority=chance.choice(("normal", "normal", "high", "low")),
            work_s=chance.choice((0.0, 0.001, 0.02, 0.3)),
            failures=chance.choice((-1, 1, 1, 4)) if chance.random() < fail_rate else 0,
            is_submitted=chance.random() < 0.4,
            cancel_after_s=chance.choice((0.0, 0.01, 0.1)) if chance.random() < cancel_rate else None,
        )
        made.append(_keyed(call, made, chance) if chance.random() < key_rate else call)
    return tuple(sorted(made, key=lambda call: (call.at_s, call.number)))


def _place(plan: Plan, chance: Random) -> tuple[str | None, str]:
    """Draw a resource of an owned group, or the pool."""
    if plan.groups and (not plan.workers or chance.random() < 0.7):
        return chance.choice(chance.choice(plan.groups).resources), BOOK
    return None, DESK


def _keyed(call: CallPlan, before: Sequence[CallPlan], chance: Random) -> CallPlan:
    """Give a call a key of its own, or repeat an earlier one; now and then with other arguments."""
    earlier = [made for made in before if made.key is not None]
    if not earlier or chance.random() < 0.4:
        return replace(call, key=f"k{call.number}")
    first = chance.choice(earlier)
    repeated = replace(
        call,
        service=first.service,
        method=first.method,
        resource=first.resource,
        key=first.key,
        argument=first.argument,
        work_s=first.work_s,
        failures=first.failures,
    )
    return replace(repeated, argument=call.number) if chance.random() < 0.2 else repeated


_ZOMBIE_RATE: Final = 0.08


def _faults(plan: Plan, size: _Size, chance: Random) -> tuple[FaultPlan, ...]:
    kinds = chance.sample(list(Break), chance.randint(1, 6))
    made = []
    for _ in range(chance.choice(size.faults)):
        kind = chance.choice(kinds)
        victim = chance.choice(plan.actors) if kind in OF_ACTORS else "server"
        if kind is Break.GONE and victim not in _spare(plan):
            continue
        made.append(
            FaultPlan(
                at_s=chance.uniform(0.0, plan.until_s),
                kind=kind,
                victim=victim,
                for_s=chance.choice((0.02, 0.3, 1.2, 2.5)),
                amount=_AMOUNTS.get(kind, _no_amount)(chance),
            )
        )
    return tuple(sorted(made, key=lambda fault: fault.at_s))


def _spare(plan: Plan) -> list[str]:
    """Who may be gone for good: the first of several, so that one is left."""
    spare = [f"{group.name}-1" for group in plan.groups if group.instances > 1]
    if plan.workers > 1:
        spare.append("w-1")
    if plan.routers > 1:
        spare.append("r-1")
    return spare


def _zombie(plan: Plan, chance: Random) -> tuple[FaultPlan, ...]:
    """Cut holders off for about as long as it takes to replace them: they come back with frames under way."""
    suspicion_s = plan.suspect_after_ms / 1000
    made = []
    for _ in range(chance.randint(1, 3)):
        kind = chance.choice((Break.ONE_WAY_UP, Break.PARTITION, Break.FREEZE))
        group = chance.choice(plan.groups)
        victim = f"{group.name}-{chance.randint(1, min(2, group.instances))}"
        for_s = suspicion_s + chance.uniform(0.0, 0.5)
        made.append(FaultPlan(chance.uniform(0.0, plan.until_s), kind, victim, for_s))
    return tuple(sorted(made, key=lambda fault: fault.at_s))


def _no_amount(chance: Random) -> float:  # noqa: ARG001 - as the others
    return 0.0


_AMOUNTS: Final[dict[Break, Callable[[Random], float]]] = {
    Break.CRASH: lambda chance: chance.randint(0, 60),
    Break.DELAY: lambda chance: chance.choice((0.005, 0.05, 0.4)),
    Break.SKEW: lambda chance: chance.choice((-3600.0, -5.0, 5.0, 86_400.0)),
    Break.GHOSTS: lambda chance: chance.choice((0.1, 0.4)),
    Break.REDELIVERY: lambda chance: chance.choice((0.5, 1.0)),
    Break.HALF_OPEN: lambda chance: chance.choice((0.0, 1.0)),
    Break.ACKS_LOST: lambda chance: chance.choice((0.1, 0.5, 1.0)),
    Break.SLOW_DISK: lambda chance: chance.choice((0.01, 0.1)),
    Break.HOSTILE: lambda chance: chance.randint(1, 1 << 30),
}


def _orders(plan: Plan, chance: Random) -> tuple[OrderPlan, ...]:
    if chance.random() < 0.6:
        return ()
    made = []
    for _ in range(chance.randint(1, 3)):
        at_s = chance.uniform(0.0, plan.until_s)
        name, group = chance.choice(plan.instances)
        service, group_name = (BOOK, group.name) if group is not None else (DESK, "_pool")
        verb = chance.choice(
            ("promote", "promote", "drain", "pause") if group is not None else ("drain", "pause")
        )
        made.append(OrderPlan(at_s, verb, service, group_name, "" if verb == "pause" else name))
        if verb == "pause":
            made.append(OrderPlan(at_s + chance.choice((0.1, 1.0)), "resume", service, group_name))
    return tuple(sorted(made, key=lambda order: order.at_s))


_DOUBTFUL_RATE: Final = 0.2
_TENDED_RATE: Final = 0.5
_QUARANTINE_RATE: Final = 0.08
_TENDS_AFTER_S: Final = 2.5


def _doubtful(plan: Plan) -> Plan:
    """Bend a few plans towards doubts: calls that must not run twice and take long, while holders are gone
    for about as long as it takes to replace them. All else of a seed stays as it is; so it does below.
    """
    chance = Random(f"doubts {plan.seed}")  # noqa: S311 - reproducible on purpose
    if not plan.groups or chance.random() >= _DOUBTFUL_RATE:
        return plan
    calls = tuple(
        replace(call, method="place", work_s=0.3, failures=0)
        if call.key is None and chance.random() < 0.8
        else call
        for call in plan.calls
    )
    gone = (Break.KILL, Break.FREEZE, Break.PARTITION, Break.ONE_WAY_DOWN)
    more = tuple(
        FaultPlan(
            chance.choice(calls).at_s + chance.uniform(0.02, 0.3),
            chance.choice(gone),
            f"{chance.choice(plan.groups).name}-1",
            plan.suspect_after_ms / 1000 + chance.uniform(0.0, 1.0),
        )
        for _ in range(chance.randint(1, 2))
    )
    faults = tuple(sorted((*plan.faults, *more), key=lambda fault: fault.at_s))
    return replace(plan, calls=calls, faults=faults)


def _with_tending(plan: Plan) -> tuple[OrderPlan, ...]:
    """Add times at which an operator ends doubts and dead letters, some after all is healed."""
    chance = Random(f"tending {plan.seed}")  # noqa: S311 - reproducible on purpose
    if chance.random() >= _TENDED_RATE:
        return plan.orders
    places = [(BOOK, g.name) for g in plan.groups] + ([(DESK, "_pool")] if plan.workers else [])
    tends = [
        OrderPlan(chance.uniform(0.3, plan.until_s + _TENDS_AFTER_S), TEND, *chance.choice(places))
        for _ in range(chance.randint(1, 3))
    ]
    return tuple(sorted((*plan.orders, *tends), key=lambda order: order.at_s))


def _quarantined(plan: Plan) -> tuple[str, ...]:
    """Draw who is started in quarantine: in few plans, since calls wait for it."""
    chance = Random(f"quarantine {plan.seed}")  # noqa: S311 - reproducible on purpose
    if chance.random() >= _QUARANTINE_RATE:
        return ()
    return tuple(name for name, _ in plan.instances if chance.random() < 0.6)
