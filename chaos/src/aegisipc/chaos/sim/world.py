"""One simulated system: the processes of a plan, a server, and what breaks them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

from aegisipc.chaos.history import Keeping
from aegisipc.chaos.log_facts import facts_of
from aegisipc.chaos.sim.cast import NAMESPACE, URL, ClientProcess, InstanceProcess, RouterProcess
from aegisipc.chaos.sim.consumers import PushConsumer
from aegisipc.chaos.sim.faults import strike
from aegisipc.chaos.sim.loop import Actor, SimLoop
from aegisipc.chaos.sim.network import Network
from aegisipc.chaos.sim.operating import OPERATOR, OperatorProcess, about_letters, resolutions
from aegisipc.chaos.sim.plan import TEND, FaultPlan, GroupPlan, OrderPlan, Plan
from aegisipc.chaos.sim.recording import Recorder
from aegisipc.chaos.sim.server import ModelServer
from aegisipc.chaos.sim.services import Stage, totals_of
from aegisipc.chaos.workload import BOOK, DESK
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.eventstore.system import SystemState

type Process = RouterProcess | InstanceProcess | ClientProcess | OperatorProcess

UP_WITHIN_S: Final = 20.0

_LOOK_S: Final = 0.05
_MOST_CONSUMERS: Final = 3
"""Of a router, which follows the log and the heartbeats, with one that is just replaced."""


class World:
    """The system of one plan. It lives on ``loop``, which its owner runs and closes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = SimLoop()
        self.random = Random(f"world {plan.seed}")  # noqa: S311 - reproducible on purpose
        self.subjects = subjects_of(NAMESPACE)
        self.network = Network(self.loop, self.random)
        self.server = ModelServer(self.network, self.random)
        self.server.jetstream.replicas = plan.replicas
        self.server.jetstream.syncs = plan.syncs
        self.recorder = Recorder(self.loop)
        self.recorder.evidence.keeping = Keeping(plan.replicas, plan.syncs)
        self.stage = Stage(self.recorder.effect, self.recorder.number_of)
        self.actors: dict[str, Actor] = {}
        self.processes: dict[str, Process] = {}
        self.operator = OperatorProcess(URL, self.subjects, self.recorder)
        self.gone: set[str] = set()
        """Who is not started again until calls have ended without them."""
        self.quarantined = set(plan.quarantined)
        """Who is started in quarantine."""
        self.up_at_s = 0.0
        self._state = SystemState(self.subjects)
        self._lives: dict[str, int] = {}
        self._crashes: dict[str, int] = {}
        self._faults_open = 0

    # -- the log ----------------------------------------------------------------------------------------

    def records(self, after: int = 0) -> list[Record]:
        """What the log holds behind a sequence."""
        return self._stored(self.subjects.stream, after)

    def pulses(self) -> list[Record]:
        """What heartbeats are kept."""
        return self._stored(self.subjects.pulse_stream)

    def _stored(self, name: str, after: int = 0) -> list[Record]:
        stream = self.server.jetstream.streams.get(name)
        if stream is None:
            return []
        stored = stream.messages[after:]
        return [Record(m.seq, m.subject, m.payload, m.time_ns) for m in stored if m is not None]

    def folded(self) -> SystemState:
        """What the log says, folded on from the last look."""
        for record in self.records(self._state.position):
            self._state.fold(record)
        return self._state

    # -- the run ----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start everybody; once the system is up, let clients ask, operators order and things break."""
        self.start(OPERATOR)
        actors = self.plan.actors
        for name in actors:
            if not name.startswith("c-"):
                self.start(name)
        await self.until(self.is_up, UP_WITHIN_S)
        self.up_at_s = self.loop.now_s
        for name in actors:
            self.start(name)
        for order in self.plan.orders:
            self.loop.call_later(order.at_s, self._order, order)
        for fault in self.plan.faults:
            self.loop.call_later(fault.at_s, self._strike, fault)

    async def heal(self) -> None:
        """Wait until every fault was healed, and let everything run."""
        await self.until(lambda: self._faults_open == 0, UP_WITHIN_S)
        self.start_server()
        self._crashes.clear()
        self._watch_steps()
        self.quarantined.clear()
        for name, actor in list(self.actors.items()):
            if actor.is_frozen:
                self.loop.thaw(actor)
            self.network.release(name)
            self.start(name)
        for group in self.plan.groups:
            self.operator.resume(BOOK, group.name)
        if self.plan.workers:
            self.operator.resume(DESK, POOL_GROUP)

    def _order(self, order: OrderPlan) -> None:
        if order.verb != TEND:
            self.operator.order(order)
            return
        letters = facts_of(self.records(), self.subjects).calls.values()
        for told in (*resolutions(self.folded(), self.recorder), *about_letters(letters)):
            if told[:2] == (order.service, order.group):
                self.operator.say(*told)

    def release(self) -> None:
        """Have groups resumed once more of which somebody joined in quarantine, or that were paused by an
        order which came late, when the others had been.
        """
        for group in self.folded().topology.groups():
            held = (i.quarantined and i.is_live for i in group.instances.values())
            if group.paused or any(held):
                self.operator.resume(group.service, group.name)

    def bring_back(self) -> None:
        """Start those who were gone."""
        back, self.gone = sorted(self.gone), set()
        for name in back:
            self.start(name)

    def is_up(self) -> bool:
        """Whether all routers and instances do what they are there for."""
        return all(
            process.serves
            for name, process in self.processes.items()
            if isinstance(process, InstanceProcess | RouterProcess) and name not in self.gone
        )

    async def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait for a condition; tells whether it came true."""
        give_up_at = self.loop.now_s + within_s
        while not condition():
            if self.loop.now_s >= give_up_at:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    # -- processes --------------------------------------------------------------------------------------

    @property
    def clients(self) -> list[ClientProcess]:
        """The clients."""
        return [process for process in self.processes.values() if isinstance(process, ClientProcess)]

    def start(self, name: str) -> None:
        """Start a process, unless it runs."""
        actor = self.actors.get(name)
        if name in self.gone or (actor is not None and not actor.is_dead):
            return
        self._run(name, self._process(name))

    def join(self, group: GroupPlan, name: str) -> InstanceProcess:
        """Start an instance that the plan does not have."""
        process = InstanceProcess(self.plan, name, group)
        self._run(name, process)
        return process

    def _run(self, name: str, process: Process) -> None:
        life = self._lives[name] = self._lives.get(name, 0) + 1
        actor = self.actors[name] = Actor(name, life)
        self.processes[name] = process
        self.loop.start_actor(actor, process.run())

    def state_of(self, name: str) -> str | None:
        """The shared state that an instance has, as text; ``None`` if it does not serve."""
        process = self.processes.get(name)
        if not isinstance(process, InstanceProcess) or not process.serves:
            return None
        return repr(sorted(totals_of(self.stage, self.actors[name]).items()))

    def _process(self, name: str) -> Process:
        plan = self.plan
        if name == OPERATOR:
            return self.operator
        if name.startswith("r-"):
            return RouterProcess(plan, name)
        if name.startswith("c-"):
            known = self.processes.get(name)
            if isinstance(known, ClientProcess):
                known.lost()
                return known
            return ClientProcess(plan, name, self.recorder, self.up_at_s)
        return InstanceProcess(plan, name, dict(plan.instances)[name], self.quarantined)

    def kill(self, name: str) -> bool:
        """SIGKILL a process; tells whether it ran."""
        actor = self.actors.get(name)
        if actor is None or actor.is_dead:
            return False
        self.loop.kill(actor)
        self.network.process_died(actor)
        return True

    def crash_after(self, name: str, steps: int | None) -> None:
        """Kill a process after so many more of its steps; ``None``: do not, after all."""
        if steps is None:
            self._crashes.pop(name, None)
        else:
            actor = self.actors.get(name)
            self._crashes[name] = (actor.steps if actor is not None else 0) + steps
        self._watch_steps()

    def _watch_steps(self) -> None:
        self.loop.on_step = self._on_step if self._crashes else None

    def _on_step(self, actor: Actor) -> None:
        due = self._crashes.get(actor.name)
        if due is not None and actor.steps >= due:
            del self._crashes[actor.name]
            self._watch_steps()
            self.kill(actor.name)

    def start_server(self) -> None:
        """Start the server, unless it runs."""
        if not self.server.is_up:
            self.server.start()

    def left_over(self) -> list[str]:
        """Say what the server still holds for processes at rest that it should not: sessions of those that
        have none any more, and more consumers for one than it can need.
        """
        found = [
            f"{session.actor.name} has ended, and has a session still"
            for session in self.network.sessions.values()
            if self.actors.get(session.actor.name) is None and session.actor.name != "reader"
        ]
        held: dict[str, int] = {}
        for stream in self.server.jetstream.streams.values():
            for consumer in stream.consumers.values():
                if isinstance(consumer, PushConsumer):
                    for route in self.server.interest.routes(consumer.deliver_subject):
                        session = route.session
                        is_of_now = session.actor is self.actors.get(session.actor.name)
                        if is_of_now and not session.wire.ended.done():  # else the server has yet to find out
                            name = route.session.actor.name
                            held[name] = held.get(name, 0) + 1
        most = dict.fromkeys(self.actors, _MOST_CONSUMERS) | {"reader": 0}
        found += [
            f"{name} has {count} consumers at rest, and needs {most.get(name, 0)} at most"
            for name, count in sorted(held.items())
            if count > most.get(name, 0)
        ]
        return found

    # -- faults -----------------------------------------------------------------------------------------

    def _strike(self, fault: FaultPlan) -> None:
        began_ns = self.recorder.now_ns
        heal = strike(self, fault)
        if heal is None:
            return
        self._faults_open += 1

        def healed() -> None:
            self._faults_open -= 1
            heal()
            self.recorder.fault(str(fault.kind), fault.victim, began_ns, f"{fault.amount:g}")

        self.loop.call_later(fault.for_s, healed)
