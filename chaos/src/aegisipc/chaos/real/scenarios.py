"""The scenarios: what runs, what is broken, and when."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aegisipc.chaos.real.crashing import OF_CLIENT, OF_INSTANCE, OF_ROUTER
from aegisipc.chaos.real.loads import LoadOptions
from aegisipc.chaos.real.members import Shape
from aegisipc.chaos.real.plans import Draw, again_and_again, in_turn, once, one_of_each, together
from aegisipc.eventstore.errors import AegisError

_INSTANCES: Final = ("i1", "i2", "i3", "w1", "w2")
_ROUTERS: Final = ("router1", "router2")
_CALLERS: Final = ("caller1", "caller2")
_EVERYBODY: Final = (*_INSTANCES, *_ROUTERS, *_CALLERS)
_NODES: Final = ("server1", "server2", "server3")
_OLD_SERVER: Final = "2.12.2"
_DISK_BYTES: Final = 192 << 20


class UnknownScenario(AegisError):
    """There is no scenario of that name. Field: ``known``."""

    code = "unknown_scenario"


def _possible() -> str:
    return ""


def _needs_root() -> str:
    return "" if os.geteuid() == 0 else "it needs root"


def _needs_namespaces() -> str:
    return _needs_root() or ("" if shutil.which("ip") else "it needs the program ip (iproute2)")


def _needs_strace() -> str:
    return "" if shutil.which("strace") else "it needs the program strace"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is broken while clients call. ``draw`` draws the steps; ``why_not`` says why it cannot be run on
    this machine, or nothing.
    """

    name: str
    about: str
    draw: Draw
    shape: Shape = field(default_factory=Shape)
    why_not: Callable[[], str] = _possible

    def to_plain(self) -> dict[str, Any]:
        """Return what there is to say of it, for JSON."""
        return {
            "name": self.name,
            "about": self.about,
            "nodes": self.shape.nodes,
            "skipped": self.why_not() or None,
        }


def _towards_either(fault: str, *, gap_s: tuple[float, float], for_s: tuple[float, float]) -> Draw:
    """Break what goes to the server, and apart from that what comes from it."""
    return together(
        *(
            again_and_again(fault, _EVERYBODY, gap_s=gap_s, for_s=for_s, towards=side)
            for side in ("server", "client")
        )
    )


_PROCESSES: Final = (
    Scenario(
        "kill-instance",
        "SIGKILL of instances: active ones, standbys and pool workers; each is started again",
        again_and_again("kill", _INSTANCES),
    ),
    Scenario(
        "kill-router",
        "SIGKILL of routers, leading or following, and of instances, so that there is something to decide",
        together(
            again_and_again("kill", _ROUTERS),
            again_and_again("kill", ("i1", "i2"), gap_s=(2.0, 4.0)),
        ),
    ),
    Scenario(
        "kill-client",
        "SIGKILL of client processes with calls in flight; each is started again under its name",
        again_and_again("kill", _CALLERS, for_s=(0.1, 0.8)),
    ),
    Scenario(
        "freeze-instance",
        "SIGSTOP of instances for longer than it takes to suspect them: a standby takes over, and the "
        "former holder comes back as a zombie",
        again_and_again("freeze", _INSTANCES, gap_s=(1.5, 3.0), for_s=(1.2, 3.5)),
        Shape(system_account=False),
    ),
    Scenario(
        "freeze-router",
        "SIGSTOP of routers, and SIGKILL of instances meanwhile",
        together(
            again_and_again("freeze", _ROUTERS, gap_s=(1.5, 3.0), for_s=(0.8, 3.0)),
            again_and_again("kill", ("i1", "i2"), gap_s=(2.0, 4.0)),
        ),
    ),
    Scenario(
        "crash-points",
        "each role kills itself at named points: before an append and before its acknowledgement, around a "
        "claim, an effect, an outcome, a decision, and within a snapshot",
        one_of_each(
            "crash",
            [
                *((_CALLERS, {"point": str(point)}) for point in OF_CLIENT),
                *((("i1", "i2", "i3"), {"point": str(point)}) for point in OF_INSTANCE),
                *((("w1", "w2"), {"point": str(point)}) for point in OF_INSTANCE),
                *((_ROUTERS, {"point": str(point)}) for point in OF_ROUTER),
            ],
            for_s=0.3,
            every_s=1.0,
        ),
        Shape(snapshot_every=300),
    ),
)

_SERVERS: Final = (
    Scenario(
        "kill-server",
        "SIGKILL of the only server, and a new start on its data (fsync always)",
        again_and_again("kill-server", ("server1",), gap_s=(2.0, 4.0), for_s=(0.1, 1.5)),
    ),
    Scenario(
        "freeze-server",
        "SIGSTOP of the only server: connections stay open, and nobody answers",
        again_and_again("freeze-server", ("server1",), gap_s=(2.5, 5.0), for_s=(0.3, 3.5)),
    ),
    Scenario(
        "server-restart-loop",
        "the only server ends and starts again, over and over, hardly up in between",
        again_and_again("restart-server", ("server1",), gap_s=(0.4, 1.2), for_s=(0.05, 0.3)),
    ),
    Scenario(
        "cluster-node-loss",
        "three servers, three replicas: one at a time is killed and comes back; elections take their time",
        again_and_again("kill-server", _NODES, gap_s=(6.0, 9.0), for_s=(1.0, 4.0)),
        Shape(nodes=3),
    ),
    Scenario(
        "cluster-rolling-restart",
        "three servers, three replicas: each ends in order and starts again, one after the other",
        in_turn("restart-server", _NODES, for_s=(0.5, 1.5), rest_s=3.0),
        Shape(nodes=3),
    ),
    Scenario(
        "server-upgrade",
        f"nats-server {_OLD_SERVER} ends under load, and the installed version starts on its data",
        once("upgrade", "server1"),
        Shape(server=_OLD_SERVER),
    ),
)

_NETWORK: Final = (
    Scenario(
        "partition-instance",
        "nothing arrives from or at an instance, and nobody is told; what was sent arrives later, or never",
        together(
            again_and_again("partition", _INSTANCES, gap_s=(2.0, 4.0), for_s=(0.3, 3.0)),
            again_and_again("partition", _INSTANCES, gap_s=(3.0, 6.0), for_s=(0.3, 3.0), lossy=True),
        ),
        Shape(proxied=True, system_account=False),
    ),
    Scenario(
        "partition-router",
        "the same with routers, and SIGKILL of instances meanwhile",
        together(
            again_and_again("partition", _ROUTERS, gap_s=(1.5, 3.5), for_s=(0.5, 3.0)),
            again_and_again("kill", ("i1", "i2"), gap_s=(2.0, 4.0)),
        ),
        Shape(proxied=True),
    ),
    Scenario(
        "one-way-loss",
        "what a process sends arrives and nothing comes back, or the other way round",
        _towards_either("one-way", gap_s=(2.0, 4.0), for_s=(0.5, 2.5)),
        Shape(proxied=True),
    ),
    Scenario(
        "half-open",
        "one side of a connection is closed and the other is not told",
        _towards_either("half-open", gap_s=(1.5, 3.0), for_s=(0.5, 2.0)),
        Shape(proxied=True),
    ),
    Scenario(
        "delay",
        "everything from and to a process arrives later, by up to half a second",
        again_and_again("delay", _EVERYBODY, gap_s=(1.0, 2.0), for_s=(1.0, 3.0), mean_s=0.25, jitter_s=0.25),
        Shape(proxied=True),
    ),
    Scenario(
        "reset",
        "connections are reset, also in the middle of a message",
        together(
            again_and_again("reset", _EVERYBODY, gap_s=(0.8, 1.6), for_s=(0.05, 0.1)),
            again_and_again("reset-mid-frame", _EVERYBODY, gap_s=(0.8, 1.6), for_s=(0.2, 0.5)),
        ),
        Shape(proxied=True),
    ),
    Scenario(
        "duplicate-delivery",
        "messages of core NATS are delivered twice, late, in another order, or not at all",
        again_and_again(
            "deliver",
            _EVERYBODY,
            gap_s=(0.5, 1.0),
            for_s=(1.0, 3.0),
            duplicate=0.2,
            late=0.1,
            reorder=0.1,
            drop=0.03,
            by_s=0.3,
        ),
        Shape(proxied=True),
    ),
    Scenario(
        "namespaces",
        "each process in a network namespace of its own; packets of one are lost in silence",
        again_and_again("isolate", _EVERYBODY, gap_s=(1.5, 3.5), for_s=(0.3, 3.0)),
        Shape(namespaces=True),
        _needs_namespaces,
    ),
)

_BELOW: Final = (
    Scenario(
        "slow-fsync",
        "each fsync of the server takes 20 ms to 300 ms",
        together(
            again_and_again("slow-fsync", ("server1",), gap_s=(2.5, 5.0), for_s=(1.0, 2.0), delay_s=0.02),
            again_and_again("slow-fsync", ("server1",), gap_s=(4.0, 8.0), for_s=(1.0, 2.0), delay_s=0.3),
        ),
        why_not=_needs_strace,
    ),
    Scenario(
        "failing-fsync",
        "fsyncs of the server fail (EIO), now and then or all of them; it is started again afterwards",
        together(
            again_and_again("failing-fsync", ("server1",), gap_s=(4.0, 7.0), for_s=(0.5, 1.5), every=7),
            again_and_again("failing-fsync", ("server1",), gap_s=(6.0, 9.0), for_s=(0.3, 1.0), every=1),
        ),
        why_not=_needs_strace,
    ),
    Scenario(
        "disk-full",
        "the disk of the server is full; then there is room again, and it is started again",
        again_and_again("disk-full", ("server1",), gap_s=(4.0, 7.0), for_s=(0.5, 2.0)),
        Shape(disk_bytes=_DISK_BYTES),
        _needs_root,
    ),
    Scenario(
        "clock-skew",
        "the wall clock of a process jumps by an hour or by seconds, and back; instances are killed as well",
        together(
            again_and_again("skew", _EVERYBODY, gap_s=(0.7, 1.5), for_s=(0.5, 3.0), offset_s=3600.0),
            again_and_again("skew", _EVERYBODY, gap_s=(0.7, 1.5), for_s=(0.5, 3.0), offset_s=-3600.0),
            again_and_again("skew", _EVERYBODY, gap_s=(0.7, 1.5), for_s=(0.5, 3.0), offset_s=7.0, drift=0.5),
            again_and_again("kill", ("i1", "i2"), gap_s=(3.0, 5.0)),
        ),
        Shape(skewed=True),
    ),
)

_LOADS: Final = (
    Scenario(
        "hostile-messages",
        "rubbish on every subject, and well-formed messages about what does not exist, while instances are "
        "killed",
        together(
            again_and_again("hostile", _INSTANCES, gap_s=(0.5, 1.5), for_s=(1.0, 2.0), per_s=300.0),
            again_and_again("kill", ("i1", "i2", "w1"), gap_s=(3.0, 5.0)),
        ),
    ),
    Scenario(
        "overload",
        "far more calls than may be open, while instances freeze: refusals are immediate and change nothing",
        again_and_again("freeze", _INSTANCES, gap_s=(1.5, 3.0), for_s=(0.5, 2.5)),
        Shape(
            system_account=False,
            load=LoadOptions(clients=2, workers=150, pause_ms=250.0, max_open=100),
            max_running=4,
            max_backlog=60,
        ),
    ),
    Scenario(
        "two-at-once",
        "two random faults at a time: kills and freezes of every role and of the server, resets, partitions",
        together(
            again_and_again("kill", _EVERYBODY, gap_s=(1.5, 3.0)),
            again_and_again("freeze", _EVERYBODY, gap_s=(1.5, 3.0), for_s=(0.3, 2.0)),
            again_and_again("partition", _EVERYBODY, gap_s=(2.0, 4.0), for_s=(0.3, 2.0)),
            again_and_again("reset", _EVERYBODY, gap_s=(2.0, 4.0), for_s=(0.05, 0.1)),
            again_and_again("kill-server", ("server1",), gap_s=(5.0, 8.0), for_s=(0.1, 1.0)),
        ),
        Shape(proxied=True),
    ),
)

SCENARIOS: Final[dict[str, Scenario]] = {
    each.name: each for each in (*_PROCESSES, *_SERVERS, *_NETWORK, *_BELOW, *_LOADS)
}
"""All of them, by name, in the order in which they are run."""


def chosen(names: str) -> list[Scenario]:
    """Return the scenarios that ``all`` or a list of names with commas between them means.

    Raises:
        UnknownScenario: one of them is none.
    """
    wanted = list(SCENARIOS) if names == "all" else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in SCENARIOS:
            raise UnknownScenario(
                f"cannot run scenario {name!r}: there is none of that name; aegis chaos scenarios lists all",
                known=list(SCENARIOS),
            )
    return [SCENARIOS[name] for name in wanted]
