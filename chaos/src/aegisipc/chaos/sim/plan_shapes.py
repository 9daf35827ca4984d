"""What a plan is made of: who is there, what is asked for, breaks, and is ordered, in virtual seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final


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


TEND: Final = "tend"


@dataclass(frozen=True, slots=True)
class OrderPlan:
    """What an operator wants: ``promote`` or ``drain`` an instance, ``pause`` and ``resume`` a group, or
    ``tend`` it, which is to end its doubts and dead letters.
    """

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
    quarantined: tuple[str, ...] = ()
    """Who is started in quarantine, before everything is healed."""

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
