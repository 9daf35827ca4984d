"""What one seed expands to: who is there, what is asked for, what breaks, and when.

A plan is data: it can be printed, compared and cut down. Swarm testing: each plan takes a random subset of
the faults at random rates, since a run in which everything breaks at once reaches less than many in which few
things do. Times are virtual seconds from the moment at which the system is up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any, Final

from aegisipc.chaos.workload import BOOK, DESK, EFFECTS


class Break(StrEnum):
    """What can be broken. The victim is an actor, or the server where it says so."""

    KILL = "kill"
    """SIGKILL; started again later."""
    GONE = "gone"
    """SIGKILL, and not started again before everything else has ended: the others have to do without it."""
    CRASH = "crash"
    """Killed after so many more of its steps: between any two awaits."""
    STOP = "stop"
    """Asked to stop in good order, as by SIGTERM, and started again."""
    FREEZE = "freeze"
    PARTITION = "partition"
    ONE_WAY_UP = "one-way-up"
    ONE_WAY_DOWN = "one-way-down"
    RESET = "reset"
    HALF_OPEN = "half-open"
    DELAY = "delay"
    SKEW = "skew"
    """Its wall clock jumps."""
    SERVER_KILL = "server-kill"
    SERVER_POWER = "server-power"
    """As a kill, and what was not synced is gone."""
    SERVER_FREEZE = "server-freeze"
    ELECTION = "election"
    """Nobody answers for the streams for a while."""
    ACKS_LOST = "acks-lost"
    """Stored, and the acknowledgement never comes."""
    GHOSTS = "ghosts"
    """Writes that are stored long after whoever sent them gave up."""
    FULL = "full"
    """Nothing more is stored."""
    REDELIVERY = "redelivery"
    """After its next start the server hands out again what it does not know the fate of, at once."""
    SLOW_DISK = "slow-disk"
    BAD_DISK = "bad-disk"
    """Writes are refused until the server is started again."""
    AMNESIA = "amnesia"
    """The server forgets the message ids it has seen."""
    NO_CONSUMERS = "no-consumers"
    """Consumers are deleted behind everybody's back."""
    HOSTILE = "hostile"
    """Somebody sends nonsense on every subject that may be reached."""


OF_ACTORS: Final = (
    Break.KILL,
    Break.GONE,
    Break.CRASH,
    Break.STOP,
    Break.FREEZE,
    Break.PARTITION,
    Break.ONE_WAY_UP,
    Break.ONE_WAY_DOWN,
    Break.RESET,
    Break.HALF_OPEN,
    Break.DELAY,
    Break.SKEW,
)
OF_SERVER: Final = tuple(kind for kind in Break if kind not in OF_ACTORS)


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A group of the owned service: what it serves, and by how many instances."""

    name: str
    resources: tuple[str, ...]
    instances: int


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call. ``argument`` is the number that the handler gets: its own ``number``, or that of the earlier
    call whose ``key`` it repeats. The handler takes ``work_s``, and fails for its first ``failures`` attempts
    (-1: refuses for good).
    """

    number: int
    at_s: float
    client: str
    service: str
    method: str
    argument: int
    resource: str | None
    timeout_s: float
    key: str | None = None
    priority: str = "normal"
    work_s: float = 0.0
    failures: int = 0
    is_submitted: bool = False
    cancel_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One fault: it begins ``at_s``, and is healed (or what was killed is started again) after ``for_s``.
    ``amount`` is what the kind of fault makes of it: steps, seconds, a rate.
    """

    at_s: float
    kind: Break
    victim: str
    for_s: float
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class OrderPlan:
    """What an operator wants: ``promote`` or ``drain`` an instance, ``pause`` and ``resume`` a group."""

    at_s: float
    verb: str
    service: str
    group: str
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run is given beside its seed, which decides the order of what is ready and all
    delays.
    """

    seed: int
    routers: int
    groups: tuple[GroupPlan, ...]
    workers: int
    clients: int
    replicas: int
    syncs: bool
    pulse_ms: int
    suspect_after_ms: int
    snapshot_entries: int
    has_system: bool
    until_s: float
    calls: tuple[CallPlan, ...]
    faults: tuple[FaultPlan, ...] = ()
    orders: tuple[OrderPlan, ...] = ()

    @property
    def instances(self) -> list[tuple[str, GroupPlan | None]]:
        """Every instance, with its group (``None``: a worker of the pool)."""
        owned = [(f"{group.name}-{n + 1}", group) for group in self.groups for n in range(group.instances)]
        return [*owned, *((f"w-{n + 1}", None) for n in range(self.workers))]

    @property
    def actors(self) -> list[str]:
        """The names of all who may be a victim, but the server."""
        return [
            *(f"r-{n + 1}" for n in range(self.routers)),
            *(name for name, _ in self.instances),
            *(f"c-{n + 1}" for n in range(self.clients)),
        ]

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


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
    return replace(plan, faults=faults, orders=_orders(plan, chance))


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
