"""Runs that were made up, as a runner would hand them to the report."""

from __future__ import annotations

import random

from aegisipc.chaos.history import Deed, Evidence, Fault, Operation, Probe, Sample, Stage
from aegisipc.chaos.report.model import RoleSpan, ScenarioRun
from aegisipc.chaos.verdicts import Finding, Judgement, Verdict

S = 1_000_000_000
MS = 1_000_000
BEGIN = 1_790_000_000 * S

PROMISES = {
    "G1": "A call that was accepted is in the log. It is never lost.",
    "G2": "Every accepted call gets exactly one outcome, the same for every reader, for ever.",
    "G3": "A method declared once starts at most once; if nobody can know whether it ran, it is in doubt.",
    "G4": "At most one instance of a group and epoch can write.",
    "linearizable": "The order per resource agrees with real time.",
    "bounded": "Memory, queues and tables stay within their limits.",
    "serves": "After everything was healed, every node serves within a bound.",
}


def operations(
    number: int, length_s: float, outages: list[tuple[float, float]], seed: int = 1
) -> list[Operation]:
    """Return calls of four clients, open loop, that wait while there is an outage (seconds, from, until)."""
    chance = random.Random(seed)
    found: list[Operation] = []
    for index in range(number):
        at_s = length_s * index / number
        wait_s = chance.lognormvariate(-6.5, 0.4)
        out = next(((begin, end) for begin, end in outages if begin <= at_s < end), None)
        stage, error = Stage.OK, None
        if out is not None:
            wait_s += out[1] - at_s
            if chance.random() < 0.02:
                stage, error = Stage.INFO, "call_in_doubt"
            elif wait_s > 1:
                stage, error, wait_s = (Stage.FAIL, "call_expired", 1.0)
                if chance.random() < 0.5:
                    stage, error = Stage.INFO, "call_timeout"
        asked = BEGIN + int(at_s * S)
        who = f"client-{index % 4}"
        resource, call_id = f"acc_{index % 7}", f"c{index:07}"
        found.append(Operation(index, Stage.INVOKE, Deed.CALL, who, asked, "orders.place", "once", resource))
        told = asked + int(wait_s * S)
        found.append(
            Operation(
                index,
                stage,
                Deed.CALL,
                who,
                told,
                "orders.place",
                "once",
                resource,
                call_id=call_id,
                error=error,
            )
        )
        if stage is Stage.INFO:
            later = told + 2 * S
            again = 10_000_000 + index
            found.append(Operation(again, Stage.INVOKE, Deed.ATTACH, who, later, call_id=call_id))
            found.append(
                Operation(again, Stage.OK, Deed.ATTACH, who, later + MS, call_id=call_id, value=index)
            )
    return sorted(found, key=lambda operation: operation.at_ns)


def verdicts(
    findings: dict[str, tuple[Finding, ...]] | None = None, empty: tuple[str, ...] = ()
) -> Judgement:
    """Return a verdict for each promise."""
    told = tuple(
        Verdict(name, promise, 0 if name in empty else 1000 * (index + 1), (findings or {}).get(name, ()))
        for index, (name, promise) in enumerate(PROMISES.items())
    )
    return Judgement(told, {"calls": 12_000, "doubts": 7, "expired": 3})


def roles(length_s: float, failovers: list[float]) -> list[RoleSpan]:
    """Return two routers and a group of members that become active one after another."""
    end = BEGIN + int(length_s * S)
    spans = [
        RoleSpan("router-1", "leading", BEGIN, end, 1),
        RoleSpan("router-2", "following", BEGIN, end),
    ]
    edges = [0.0, *failovers, length_s]
    names = [f"orders-{index + 1}" for index in range(len(failovers) + 1)]
    for index, name in enumerate(names):
        mine = BEGIN + int(edges[index] * S)
        over = BEGIN + int(edges[index + 1] * S)
        if index:
            spans.append(RoleSpan(name, "standby", BEGIN + index * 50 * MS, mine))
        spans.append(RoleSpan(name, "active", mine, over, index + 1))
        if over < end:
            spans.append(RoleSpan(name, "suspected", over, over + 700 * MS))
            spans.append(RoleSpan(name, "lost", over + 700 * MS, min(over + 4 * S, end)))
            spans.append(RoleSpan(name, "standby", over + 4 * S, end))
    return spans


def green(name: str = "kill the active", number: int = 12_000, length_s: float = 20.0) -> ScenarioRun:
    """Return a run in which everything holds."""
    end = BEGIN + int(length_s * S)
    evidence = Evidence(
        operations=operations(number, length_s, [(5.0, 5.3), (12.0, 13.6)]),
        faults=[
            Fault("kill", "orders-1", BEGIN + 5 * S, BEGIN + 5 * S, "SIGKILL while 64 calls were open"),
            Fault("freeze", "orders-2", BEGIN + 12 * S, BEGIN + 15 * S, "SIGSTOP"),
        ],
        probes=[
            Probe(f"orders-{n}", "instance", True, end, 0.2, {"live": "ab" * 20, "replayed": "ab" * 20})
            for n in (1, 2, 3)
        ],
        samples=[
            Sample("router-1", BEGIN + n * S, 60_000_000 + n * 1000, 20, 2, 3, {"open calls": n})
            for n in range(20)
        ],
        healed_at_ns=BEGIN + 15 * S,
        ended_at_ns=end,
    )
    return ScenarioRun(
        name,
        "The active instance is killed with SIGKILL, the next one is frozen; the standby takes over.",
        7,
        length_s,
        BEGIN,
        evidence,
        verdicts(empty=("bounded",)),
        roles(length_s, [5.1, 13.2]),
        {"bundle": "kill-the-active/log.aegis"},
        ["aegis replay --bundle kill-the-active/log.aegis --verify"],
        versions={"nats-server": "2.15.1"},
    )


def red() -> ScenarioRun:
    """Return a run that broke two promises."""
    run = green("partition & two faults at once")
    run.about = "A router is cut off while a server restarts."
    run.evidence.faults += [
        Fault("partition", "router-1 | server-2", BEGIN + 7 * S, BEGIN + 11 * S),
        Fault("partition", "orders-3", BEGIN + 8 * S, BEGIN + 9 * S),
        *(Fault("server restart", "server-1", BEGIN + n * S, BEGIN + n * S + 300 * MS) for n in range(7, 11)),
    ]
    run.evidence.probes[1] = Probe(
        "orders-2",
        "instance",
        False,
        BEGIN + 20 * S,
        9.0,
        {"live": "ab" * 9, "replayed": "cd" * 9},
        "no answer",
    )
    run.evidence.unhandled.append("RuntimeError: set changed size during iteration (router-1)")
    run.evidence.leaks.append("consumer orders-2-follow on AEGIS_default")
    twice = [
        Finding(
            f"operation {n} began twice: on orders-1 at epoch 1 and on orders-2 at epoch 2",
            (f"c{n:07}",),
            (n,),
            (4711 + n, 4790 + n),
        )
        for n in range(3000, 3012)
    ]
    one = Finding("the call c0007300 ended ok for client-0 and expired for client-2", ("c0007300",), (7300,))
    run.judgement = verdicts({"G2": (one,), "G3": tuple(twice)})
    run.shortest = {
        "G3": [
            "+5.000 s  client-0  invoke  3000 orders.place acc_4 (once)",
            "+5.001 s  orders-1  began   3000 c0003000, epoch 1",
            "+5.001 s  fault     kill    orders-1",
            "+5.113 s  orders-2  promoted, epoch 2 (record 4790)",
            "+5.114 s  orders-2  began   3000 c0003000, epoch 2      <- no claim was seen",
        ]
    }
    run.artefacts["bundle"] = "partition/log of 2 faults.aegis"
    run.replay = [
        "aegis replay --bundle 'partition/log of 2 faults.aegis' --why call c0003000",
        "aegis replay --bundle 'partition/log of 2 faults.aegis' --until 4790",
    ]
    return run


def skipped() -> ScenarioRun:
    """Return a run that could not be made."""
    return ScenarioRun(
        "network namespaces",
        "Nodes in namespaces of their own.",
        7,
        20.0,
        skipped="needs root: run it with sudo",
    )
