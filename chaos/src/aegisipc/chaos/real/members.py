"""Who takes part in a run, and in which shape: the processes, and what each is told."""

from __future__ import annotations

import random
import signal
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.real.loads import LoadOptions
from aegisipc.chaos.real.zygote import Child
from aegisipc.chaos.workload import BOOK, DESK

LIFE_NUMBERS: Final = 10_000_000
"""So many operations has one life of a client at most: numbers of another one begin there."""


class Role(StrEnum):
    """What a process is."""

    CLIENT = "client"
    INSTANCE = "instance"
    ROUTER = "router"
    SERVER = "server"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is run. ``nodes`` servers, 1 or 3, of the version ``server`` (default: the installed one), with
    their data on a disk of ``disk_bytes`` if that is not 0. ``proxied``: each process reaches the server
    through a proxy of its own; ``namespaces``: each is in a network namespace of its own; ``skewed``: each
    has a wall clock of its own. ``system_account``: routers hear of connections that end. Meanwhile an
    operator does something once in ``operator_gap_s`` seconds, drawn between these two.
    """

    nodes: int = 1
    server: str = ""
    disk_bytes: int = 0
    proxied: bool = False
    namespaces: bool = False
    skewed: bool = False
    system_account: bool = True
    operator_gap_s: tuple[float, float] = (0.5, 2.0)
    routers: int = 2
    client_processes: int = 2
    load: LoadOptions = field(default_factory=LoadOptions)
    pulse_ms: int = 200
    suspect_after_ms: int = 800
    lost_after_ms: int = 2500
    snapshot_every: int = 2000
    max_running: int = 64
    max_backlog: int = 20_000

    @property
    def instances(self) -> dict[str, tuple[str, str | None]]:
        """Service and group (``None``: the pool) of each instance."""
        return {
            "i1": (BOOK, "g1"),
            "i2": (BOOK, "g1"),
            "i3": (BOOK, "g2"),
            "w1": (DESK, None),
            "w2": (DESK, None),
        }


@dataclass(slots=True)
class Member:
    """One of the processes, over all its lives. ``is_wanted``: it should run now; if it does not, it ended by
    itself. ``began_ns`` is when its present life began. ``is_asked_to_leave``: an operator asked for that in
    this life, and may not have heard that it was decided.
    """

    name: str
    role: Role
    index: int
    child: Child | None = None
    lives: int = 0
    is_wanted: bool = False
    is_frozen: bool = False
    began_ns: int = 0
    is_asked_to_leave: bool = False

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self.child.pid if self.child is not None and self.child.code is None else None

    def has_said(self, event: str) -> bool:
        """Whether its present life printed that."""
        child = self.child
        return child is not None and any(
            line.get("event") == event or line.get(event) for line in child.said()
        )

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.child is not None:
            self.child.send(signal.SIGSTOP)
            self.is_frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        if self.child is not None:
            self.child.send(signal.SIGCONT)
        self.is_frozen = False

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        self.is_wanted = False
        if self.child is not None:
            self.child.kill()
        self.is_frozen = False


def cast(shape: Shape) -> list[Member]:
    """Return all members of a run, none of them started, in the order in which they are started."""
    names = [(f"router{n}", Role.ROUTER) for n in range(1, shape.routers + 1)]
    names += [(name, Role.INSTANCE) for name in shape.instances]
    names += [(f"caller{n}", Role.CLIENT) for n in range(1, shape.client_processes + 1)]
    return [Member(name, role, index) for index, (name, role) in enumerate(names)]


def orders_for(folder: Path, name: str) -> Path:
    """Return the file that says where a member is to die."""
    return folder / f"{name}.orders"


def function_of(role: Role) -> str:
    """Return what the zygote runs for it."""
    return f"aegisipc.chaos.real.roles:{role}"


def arguments_of(
    member: Member,
    shape: Shape,
    *,
    url: str,
    system_url: str | None,
    namespace: str,
    folder: Path,
    seed: str,
) -> dict[str, Any]:
    """Return what the present life of a member is told."""
    orders = str(orders_for(folder, member.name))
    if member.role is Role.ROUTER:
        words = _router_words(member.name, shape, url, system_url, namespace)
        return {"words": words, "namespace": namespace, "orders": orders}
    where = {"url": url, "namespace": namespace, "folder": str(folder), "name": member.name, "orders": orders}
    if member.role is Role.INSTANCE:
        service, group = shape.instances[member.name]
        return {
            **where,
            "service": service,
            "group": group,
            "pulse_ms": shape.pulse_ms,
            "max_running": shape.max_running,
            "max_backlog": shape.max_backlog,
            "resources": shape.load.resources,
        }
    base = (member.index * 1000 + member.lives) * LIFE_NUMBERS
    drawn = random.Random(f"{seed}:{member.name}:{member.lives}")  # noqa: S311 - it is to be repeated
    return {**where, "seed": str(drawn.getrandbits(64)), "base": base, "options": asdict(shape.load)}


def _router_words(name: str, shape: Shape, url: str, system_url: str | None, namespace: str) -> list[str]:
    words = ["router", "--json", "--name", name, "--url", url, "--namespace", namespace]
    words += ["--replicas", str(shape.nodes)]
    words += ["--suspect-after-ms", str(shape.suspect_after_ms), "--lost-after-ms", str(shape.lost_after_ms)]
    words += ["--snapshot-every", str(shape.snapshot_every)]
    return words if system_url is None else [*words, "--system-url", system_url]
