"""Running a plan, and what comes of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from aegisipc.chaos.checking import Bounds, judge
from aegisipc.chaos.history import Evidence, to_line
from aegisipc.chaos.log_facts import LogFacts, facts_of
from aegisipc.chaos.sim.aftermath import Aftermath
from aegisipc.chaos.sim.clock import virtual
from aegisipc.chaos.sim.loop import EPOCH_NS, Stuck, TooLong
from aegisipc.chaos.sim.plan import Plan
from aegisipc.chaos.sim.sampling import watched
from aegisipc.chaos.sim.services import perform_on
from aegisipc.chaos.sim.world import World
from aegisipc.chaos.verdicts import Finding, Judgement, Verdict
from aegisipc.chaos.workload import MAX_ATTEMPTS
from aegisipc.eventstore.log import Record

BOUNDS: Final = Bounds(clock_offset_ns=EPOCH_NS, clock_error_ns=0, slack_s=0.05, attempts=MAX_ATTEMPTS)
"""Of simulated runs: there is one clock, and handlers begin when they are due."""


@dataclass(slots=True)
class Result:
    """What came of a run. ``trace`` is a digest of everything that was stored and told: equal for equal
    plans. ``events`` counts what happened: messages and requests that the server took, and what clients,
    handlers and faults did.
    """

    plan: Plan
    judgement: Judgement
    evidence: Evidence
    facts: LogFacts
    trace: str
    events: int
    steps: int
    virtual_s: float
    records: list[Record] = field(repr=False, default_factory=list)
    """The log."""
    pulses: list[Record] = field(repr=False, default_factory=list)
    """The heartbeats."""


def simulate(plan: Plan) -> Result:
    """Run a plan to its end, and judge it."""
    world = World(plan)
    failure: Exception | None = None
    with virtual(world.loop, plan.seed):
        perform_on(world.stage)
        try:
            world.loop.run(_run(world))
        except (Stuck, TooLong) as error:
            failure = error
        finally:
            perform_on(None)
            world.loop.close()
    return _judged(world, failure)


async def _run(world: World) -> None:
    await world.begin()
    with watched(world):
        await asyncio.sleep(world.plan.until_s)
        await world.heal()
        await Aftermath(world).run()


def _judged(world: World, failure: Exception | None) -> Result:
    evidence, records = world.recorder.evidence, world.records()
    evidence.unhandled += world.loop.unhandled
    evidence.ended_at_ns = world.recorder.now_ns
    facts = facts_of(records, world.subjects)
    judgement = judge(evidence, facts, bounds=BOUNDS)
    if failure is not None:
        said = Verdict("ends", "a run comes to its end", 1, (Finding(str(failure)),))
        judgement = Judgement((*judgement.verdicts, said), judgement.numbers)
    told = len(evidence.operations) + len(evidence.effects) + len(evidence.faults)
    return Result(
        plan=world.plan,
        judgement=judgement,
        evidence=evidence,
        facts=facts,
        trace=_trace(evidence, records, world.loop.steps),
        events=world.server.handled + told,
        steps=world.loop.steps,
        virtual_s=world.loop.now_s,
        records=records,
        pulses=world.pulses(),
    )


def _trace(evidence: Evidence, records: Iterable[Record], steps: int) -> str:
    digest = hashlib.sha256(b"%d" % steps)
    for record in records:
        digest.update(b"%d %d %s " % (record.seq, record.timestamp_ns, record.subject.encode()))
        digest.update(record.payload)
    for entries in (evidence.operations, evidence.effects, evidence.faults, evidence.probes):
        for entry in entries:
            digest.update(to_line(entry))
    return digest.hexdigest()[:16]
