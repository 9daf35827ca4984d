"""Plans bent towards what a mutant needs to show itself. The seed decides everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from aegisipc.chaos.sim.plan import Break, CallPlan, FaultPlan, GroupPlan, OrderPlan, Plan
from aegisipc.chaos.workload import BOOK, DESK

_GROUP: Final = GroupPlan("g1", ("a1x", "a1y"), 2)
_MEMBERS: Final = ("g1-1", "g1-2")
_WORKERS: Final = ("w-1", "w-2")


def _chance(plan: Plan, what: str) -> Random:
    return Random(f"{what} {plan.seed}")  # noqa: S311 - reproducible on purpose


def _bare(plan: Plan) -> Plan:
    """One client, one router, no orders, no faults, nobody in quarantine."""
    bare = replace(plan, routers=1, clients=1, faults=(), orders=(), quarantined=())
    return replace(bare, until_s=4.0, snapshot_entries=0)


def _calls(
    chance: Random,
    places: Sequence[tuple[str, str | None]],
    methods: Sequence[str],
    *,
    count: int,
    works_s: Sequence[float] = (0.0, 0.02, 0.3),
    until_s: float = 2.5,
    timeouts_s: Sequence[float] = (10.0,),
) -> tuple[CallPlan, ...]:
    made = []
    for number in range(1, count + 1):
        service, resource = chance.choice(places)
        made.append(
            CallPlan(
                number,
                chance.uniform(0.0, until_s),
                "c-1",
                service,
                chance.choice(methods),
                number,
                resource,
                chance.choice(timeouts_s),
                work_s=chance.choice(works_s),
                is_submitted=chance.random() < 0.5,
            )
        )
    return tuple(sorted(made, key=lambda call: (call.at_s, call.number)))


_OWNED: Final = ((BOOK, "a1x"), (BOOK, "a1y"))
_POOLED: Final = ((DESK, None),)


def owned(
    *methods: str,
    kinds: Sequence[Break] = (),
    times: int = 2,
    count: int = 16,
    works_s: Sequence[float] = (0.0, 0.02, 0.3),
    timeouts_s: Sequence[float] = (10.0,),
    for_s: Sequence[float] = (0.3, 2.5),
    victims: Sequence[str] = _MEMBERS,
) -> Callable[[Plan], Plan]:
    """One group of two instances, calls of `methods`, and `times` faults of some `kinds`."""

    def steer(plan: Plan) -> Plan:
        chance = _chance(plan, "owned")
        calls = _calls(chance, _OWNED, methods, count=count, works_s=works_s, timeouts_s=timeouts_s)
        faults = _faults(chance, kinds, victims, times, for_s)
        return replace(_bare(plan), groups=(_GROUP,), workers=0, calls=calls, faults=faults)

    return steer


def pooled(
    *methods: str,
    kinds: Sequence[Break] = (),
    times: int = 2,
    count: int = 16,
    works_s: Sequence[float] = (0.0, 0.02, 0.3),
    timeouts_s: Sequence[float] = (10.0,),
    for_s: Sequence[float] = (0.3, 2.5),
) -> Callable[[Plan], Plan]:
    """A pool of two workers, calls of `methods`, and `times` faults of some `kinds`."""

    def steer(plan: Plan) -> Plan:
        chance = _chance(plan, "pooled")
        calls = _calls(chance, _POOLED, methods, count=count, works_s=works_s, timeouts_s=timeouts_s)
        faults = _faults(chance, kinds, _WORKERS, times, for_s)
        return replace(_bare(plan), groups=(), workers=2, calls=calls, faults=faults)

    return steer


def _faults(
    chance: Random, kinds: Sequence[Break], victims: Sequence[str], times: int, for_s: Sequence[float]
) -> tuple[FaultPlan, ...]:
    made = []
    for _ in range(times if kinds else 0):
        kind = chance.choice(kinds)
        amount = {Break.ACKS_LOST: 0.5, Break.CRASH: float(chance.randint(0, 60))}.get(kind, 0.0)
        victim = "server" if kind in _OF_SERVER else chance.choice(victims)
        made.append(FaultPlan(chance.uniform(0.1, 2.5), kind, victim, chance.choice(for_s), amount))
    return tuple(sorted(made, key=lambda fault: fault.at_s))


_OF_SERVER: Final = frozenset(
    {Break.ACKS_LOST, Break.AMNESIA, Break.SERVER_KILL, Break.SERVER_FREEZE, Break.ELECTION, Break.BAD_DISK}
)


def zombie(plan: Plan) -> Plan:
    """Holders that are cut off for about as long as it takes to be replaced, and come back with a frame on
    its way. Nothing is emitted: a member whose state is ahead of the log gives up before it hears of it.
    """
    lengths_s = (1.05, 1.15, 1.25, 1.35, 1.45)
    away = (Break.ONE_WAY_UP, Break.PARTITION, Break.FREEZE)
    inner = owned("peek", "place", kinds=away, times=4, count=24, works_s=(0.3,), for_s=lengths_s)
    return replace(inner(plan), suspect_after_ms=1000, pulse_ms=250)


def keyed(
    inner: Callable[[Plan], Plan], *, keys: int = 3, other_arguments: float = 0.0
) -> Callable[[Plan], Plan]:
    """As `inner`, with few idempotency keys for all calls: the later ones of a key repeat its first one, or
    ask for something else at that rate.
    """

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        chance = _chance(plan, "keyed")
        firsts: dict[str, CallPlan] = {}
        made = []
        for call in bent.calls:
            key = f"k{chance.randrange(keys)}"
            first = firsts.setdefault(key, call)
            argument = call.number if chance.random() < other_arguments else first.argument
            again = replace(call, key=key, argument=argument, method=first.method, work_s=first.work_s)
            made.append(replace(again, service=first.service, resource=first.resource))
        return replace(bent, calls=tuple(made))

    return steer


def failing(inner: Callable[[Plan], Plan], failures: int) -> Callable[[Plan], Plan]:
    """As `inner`, with calls that fail for so many attempts."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        return replace(bent, calls=tuple(replace(call, failures=failures) for call in bent.calls))

    return steer


def cancelled(inner: Callable[[Plan], Plan]) -> Callable[[Plan], Plan]:
    """As `inner`, with calls that are cancelled while they run, most of them."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        chance = _chance(plan, "cancelled")
        return replace(
            bent,
            calls=tuple(
                replace(call, is_submitted=True, cancel_after_s=chance.choice((0.05, 0.1, None)))
                for call in bent.calls
            ),
        )

    return steer


def in_bursts(inner: Callable[[Plan], Plan], times_s: Sequence[float] = (1.0, 0.1)) -> Callable[[Plan], Plan]:
    """As `inner`, with calls made in bursts, at these times."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        calls = [replace(call, at_s=times_s[call.number % len(times_s)]) for call in bent.calls]
        return replace(bent, calls=tuple(sorted(calls, key=lambda call: (call.at_s, call.number))))

    return steer


def paused(inner: Callable[[Plan], Plan]) -> Callable[[Plan], Plan]:
    """As `inner`, with the group paused for most of the time."""

    def steer(plan: Plan) -> Plan:
        orders = (OrderPlan(0.2, "pause", BOOK, _GROUP.name), OrderPlan(2.5, "resume", BOOK, _GROUP.name))
        return replace(inner(plan), orders=orders)

    return steer


def two_routers(inner: Callable[[Plan], Plan], *kinds: Break) -> Callable[[Plan], Plan]:
    """As `inner`, with two routers, which suffer, too."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        chance = _chance(plan, "routers")
        faults = (*bent.faults, *_faults(chance, kinds, ("r-1", "r-2"), 3, (1.2, 2.5)))
        return replace(bent, routers=2, faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))

    return steer


def with_snapshots(inner: Callable[[Plan], Plan], *kinds: Break) -> Callable[[Plan], Plan]:
    """As `inner`, with routers that write snapshots often, and are started again."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        chance = _chance(plan, "snapshots")
        faults = (*bent.faults, *_faults(chance, kinds, ("r-1",), 2, (0.02, 0.3)))
        return replace(bent, snapshot_entries=8, faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))

    return steer
