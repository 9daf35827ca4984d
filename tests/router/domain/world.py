"""A log, the pulses, and a leading router that writes what it decides: what the tests of its rules share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import pytest

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.pulses import MAX_MISSES, ConnectionId, PulseBoard
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.topology import GroupView
from aegisipc.router.domain import refusals as no
from aegisipc.router.domain.commands import Desk
from aegisipc.router.domain.decide import Decision, Policy, RouterIdentity, decide
from aegisipc.router.domain.requests import Drain, Pause, Promote, Request, Resume
from tests.sdk.kit import CONTRACT, EPOCH_NS, GROUP, NS, SERVICE, ListLog, ms, registered

ME: Final = RouterIdentity("r1", "i1")


class World:
    """Given, when and then are its methods; time passes only by pulses."""

    def __init__(self) -> None:
        self.log = ListLog()
        self.board = PulseBoard(NS, gap_ms=500)
        self.board.now_ns = self.board.floor_ns = EPOCH_NS
        self.never_ready: set[str] = set()
        self._pen_frames = 0
        self._client_ids = itertools.count(1)
        self._connections: dict[str, int] = {}
        self._state = SystemState(NS)

    # given

    def say(self, instance: str, event: ev.Event, group: str = GROUP) -> int:
        """An instance says something of itself."""
        return self.log.say(NS.instance(SERVICE, group, instance), event)

    def register(
        self,
        instance: str,
        incarnation: str = "1",
        *,
        group: str = GROUP,
        resources: Sequence[str] | None = None,
        contract: ev.Contract = CONTRACT,
        quarantined: bool = False,
    ) -> None:
        event = registered(incarnation, group=group, resources=resources, contract=contract)
        self.say(instance, event.model_copy(update={"quarantined": quarantined}), group)

    def joined(self, *instances: str, incarnation: str = "1", **options: Any) -> None:
        for instance in instances:
            self.register(instance, incarnation, **options)
            self.settle()

    def leave(self, instance: str, incarnation: str = "1", group: str = GROUP) -> None:
        self.say(instance, ev.InstanceLeft(incarnation=incarnation, cause="t"), group)

    def drain(self, instance: str, incarnation: str = "1", group: str = GROUP) -> None:
        self.say(instance, ev.InstanceDraining(incarnation=incarnation, cause="t"), group)

    def asked_to_drain(self, instance: str, incarnation: str = "1") -> None:
        """An operator's wish is in the log."""
        event = ev.InstanceDrainRequested(
            instance=instance, incarnation=incarnation, author="alice", reason="r", decided_by="r1"
        )
        self.log.say(NS.watch(SERVICE, GROUP), event)

    def fall_ill(self, instance: str, reason: str = "no venue", incarnation: str = "1") -> None:
        self.say(instance, ev.InstanceUnhealthy(incarnation=incarnation, reason=reason))

    def get_well(self, instance: str, incarnation: str = "1") -> None:
        self.say(instance, ev.InstanceHealthy(incarnation=incarnation))

    def yields(self, instance: str, incarnation: str = "1") -> None:
        """It is done with the epoch that the group has now."""
        self.say(instance, ev.InstanceYielded(incarnation=incarnation, epoch=self.group().epoch, cause="t"))

    def pulse(self, *who: str, after_ms: float = 0, incarnation: str = "1", group: str = GROUP) -> None:
        """Time passes; the router pulses, and so do these instances."""
        self.log.now_ns += ms(after_ms)
        report = {"service": SERVICE, "group": group, "incarnation": incarnation, "server": "s"}
        for subject, told in [(NS.pulse("router", "r1"), {"incarnation": "i1"})] + [
            (NS.pulse("instance", instance), report | {"cid": self._connections.get(instance, 0)})
            for instance in who
        ]:
            self.board.apply(Record(1, subject, msgpack.packb(told), self.log.now_ns))

    def connect(self, *instances: str) -> None:
        """They have new connections, through which they pulse from now on."""
        for instance in instances:
            self._connections[instance] = next(self._client_ids)

    def disconnect(self, instance: str, reason: str = "Client Closed") -> None:
        """The server says that its connection ended."""
        connection = ConnectionId("s", self._connections[instance])
        self.board.connection_ended(connection, reason=reason, event_ns=self.log.now_ns)

    def miss_probes(self, instance: str, count: int = MAX_MISSES, incarnation: str = "1") -> None:
        """It answered once, and so many probes since had no answer."""
        key = (SERVICE, GROUP, instance)
        self.board.probe_answered(key, incarnation)
        for _ in range(count):
            self.board.probe_missed(
                key, incarnation, asked_ns=self.board.now_ns, waited_ms=0, cause="nobody there"
            )

    def silence(self, milliseconds: int, *who: str) -> None:
        """Only these pulse, every 250 ms."""
        for _ in range(milliseconds // 250):
            self.pulse(*who, after_ms=250)

    def marks(self, writer: str, *facts: tuple[Mark, CallId], group: str = GROUP) -> None:
        """The holder writes a pen frame."""
        self._pen_frames += 1
        entries = [PenEntry(mark, call_id) for mark, call_id in facts]
        epoch = self.group(group).epoch
        frame = PenFrame(7, self._pen_frames, epoch, entries, [None] * len(entries))
        self.log.append(NS.pen(SERVICE, group, writer), encode_pen(frame))

    # when

    @property
    def state(self) -> SystemState:
        """What a router that followed all along believes."""
        return self._state.replay(self.log.records[self._state.position :])

    def group(self, name: str = GROUP) -> GroupView:
        found = self.state.topology.group(SERVICE, name)
        assert found is not None
        return found

    def desk(self, me: RouterIdentity = ME) -> Desk:
        return Desk(self.state, self.board, me, Policy(), NS)

    def decide(self, me: RouterIdentity = ME) -> list[Decision]:
        return decide(self.state, self.board, me, Policy(), NS)

    def append(self, decision: Decision) -> None:
        self.log.append(decision.subject, ev.encode_event(decision.event), Expect(decision.expected_seq))

    def command(self, request: Request) -> list[ev.Event]:
        """A command is planned, and its decisions are appended."""
        plan = self.desk().plan(request)
        for decision in plan.decisions:
            self.append(decision)
        return [decision.event for decision in plan.decisions]

    def promote(self, instance: str, group: str = GROUP) -> list[ev.Event]:
        return self.command(promote(instance, group))

    def settle(self) -> list[ev.Event]:
        """Decide and append until nothing is left to decide; whoever is admitted says that it is ready."""
        decided: list[ev.Event] = []
        for _ in range(100):
            decisions = self.decide()
            if not decisions:
                return decided
            for decision in decisions:
                self.append(decision)
                decided.append(decision.event)
                self._answer(decision)
        raise AssertionError(f"never settles: {decided[-4:]}")

    def _answer(self, decision: Decision) -> None:
        event = decision.event
        if isinstance(event, ev.InstanceAdmitted) and event.instance not in self.never_ready:
            group = NS.parse(decision.subject).group
            self.say(event.instance, ev.InstanceReady(incarnation=event.incarnation), group)


def promote(instance: str, group: str = GROUP) -> Promote:
    """What alice asks for."""
    return Promote(service=SERVICE, group=group, instance=instance, author="alice", reason="r")


def only[E: ev.Event](events: Sequence[ev.Event | Decision], cls: type[E]) -> E:
    """The one event that there is, which is of that class."""
    plain = [event.event if isinstance(event, Decision) else event for event in events]
    (found,) = plain
    assert isinstance(found, cls), found
    return found


def types(events: Sequence[ev.Event | Decision]) -> list[type]:
    """Their classes, in order."""
    return [type(event.event if isinstance(event, Decision) else event) for event in events]


def of(*instances: str) -> World:
    """These joined in that order, have connections, and have just pulsed: the first holds the pen."""
    world = World()
    world.joined(*instances)
    world.connect(*instances)
    world.pulse(*instances)
    return world


def promoted(world: World) -> ev.GroupPromoted:
    """The first promotion among what is decided now."""
    return next(event for event in world.settle() if isinstance(event, ev.GroupPromoted))


def told(event: ev.GroupPromoted) -> tuple[str, int, str, str]:
    """What a promotion says."""
    return event.holder, event.epoch, event.kind, event.cause


def refused[E: no.CommandRefused](world: World, request: Request, cls: type[E]) -> E:
    """The refusal of a command, which changes nothing."""
    before = len(world.log.records)
    with pytest.raises(cls) as caught:
        world.desk().plan(request)
    assert len(world.log.records) == before
    assert caught.value.message.startswith("cannot ")
    return caught.value


def drain(instance: str, **options: object) -> Drain:
    """What alice asks for."""
    return Drain.model_validate({"instance": instance, "author": "alice", **options})


def pause(group: str | None = None) -> Pause:
    """What alice asks for."""
    return Pause(service=SERVICE, group=group, author="alice", reason="r")


def resume(group: str | None = None) -> Resume:
    """What bob asks for."""
    return Resume(service=SERVICE, group=group, author="bob")
