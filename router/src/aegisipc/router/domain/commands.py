"""What operators may ask for, and whether it can be done: validation against what the router believes.

Each command becomes a :class:`Plan`: the decisions to append by compare-and-set, or nothing when what is
asked for is so already. If one of them comes too late, nothing was decided on stale belief; the command is
judged again on what is believed then.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import Doubt, SystemState
from aegisipc.eventstore.topology import GroupView, InstanceView, ServiceView
from aegisipc.router.domain import refusals as no
from aegisipc.router.domain.health import is_draining, why_gone, why_unfit
from aegisipc.router.domain.pen import Pen
from aegisipc.router.domain.requests import MAX_DOUBTS, Drain, ListDoubts, Pause, Promote, Request, Resume
from aegisipc.router.domain.terms import Decision, Policy, RouterIdentity, listed


class Plan(NamedTuple):
    """What a command comes to. ``decisions`` are appended in order; if there are none, the record ``seq``
    says already what was asked for. ``event`` is the type of the deciding event, ``told`` goes into the
    answer.
    """

    decisions: tuple[Decision, ...]
    seq: int
    event: str
    told: dict[str, Any]

    @property
    def is_so_already(self) -> bool:
        """Nothing has to be decided."""
        return not self.decisions


@dataclass(frozen=True, slots=True)
class Desk:
    """Where commands are judged: what the router believes, and who it is."""

    state: SystemState
    board: PulseBoard
    me: RouterIdentity
    policy: Policy
    subjects: Subjects

    def plan(self, request: Request) -> Plan:
        """Judge a command.

        Raises:
            CommandRefused: one of its subclasses, which says why.
        """
        match request:
            case Promote():
                return self._promote(request)
            case Drain():
                return self._drain(request)
            case Resume():
                return self._pausing(request, ev.GroupResumed)
            case Pause():
                return self._pausing(request, ev.GroupPaused)
        raise TypeError(f"cannot plan a {type(request).__name__}")

    # -- places -----------------------------------------------------------------------------------------

    def service(self, name: str) -> ServiceView:
        """Find a service, or refuse."""
        found = self.state.topology.services.get(name)
        if found is None:
            known = listed(sorted(self.state.topology.services)) or "none"
            raise no.UnknownService(
                f"cannot find service {name!r}: those that have registered are {known}", service=name
            )
        return found

    def group(self, service: ServiceView, name: str) -> GroupView:
        """Find a group, or refuse."""
        found = service.groups.get(name)
        if found is None:
            raise no.UnknownGroup(
                f"cannot find group {name!r} of service {service.name!r}: "
                f"its groups are {listed(sorted(service.groups)) or 'none'}",
                service=service.name,
                group=name,
            )
        return found

    # -- promote ----------------------------------------------------------------------------------------

    def _promote(self, request: Promote) -> Plan:
        group = self.group(self.service(request.service), request.group)
        where = f"{group.service}/{group.name}"
        if group.mode == "pool":
            raise no.NotAnOwnedGroup(
                f"cannot promote {request.instance!r}: {where} is a pool, in which all instances serve; "
                "drain the ones that should not",
                service=group.service,
                group=group.name,
            )
        heir = self._member(group, request.instance)
        pen = Pen(group, self.state, self.board, self.me, self.policy)
        holder = pen.holder()
        if heir is holder and group.handover is None:
            raise no.AlreadyActive(
                f"cannot promote {heir.id!r}: it holds the pen of {where} already, as epoch {group.epoch}",
                instance=heir.id,
                epoch=group.epoch,
            )
        if group.handover is not None and holder is not None and pen.trouble(holder) is None:
            return self._while_handing_over(group, heir)
        self._check_fit(heir, where)
        return self._plan_promotion(pen, holder, heir, request)

    def _plan_promotion(
        self, pen: Pen, holder: InstanceView | None, heir: InstanceView, request: Promote
    ) -> Plan:
        """A holder that is there is asked to finish first; one that is gone, in doubt or done is replaced."""
        group, cause = pen.group, _cause("promoted", request)
        trouble = pen.trouble(holder) if holder is not None else None
        event: ev.GroupPromoted | ev.GroupHandoverStarted
        if holder is None or pen.has_yielded:
            gone = holder is None and group.holder is not None and not pen.holder_finished()
            event = pen.promote(heir, "failover" if gone else "planned", cause, author=request.author)
        elif trouble is not None:
            cause = f"{cause}; holder {holder.id!r} is suspected: {trouble.cause}"
            event = pen.promote(heir, "failover", cause, author=request.author, trouble=trouble)
        else:
            event = pen.start_handover(holder, heir, cause, request.author)
        epoch = group.epoch + 1
        told = {"service": group.service, "group": group.name, "instance": heir.id, "epoch": epoch}
        decision = Decision(self.subjects.fence(group.service, group.name), event, group.fence_seq)
        return Plan((decision,), 0, event.type, told)

    @staticmethod
    def _while_handing_over(group: GroupView, heir: InstanceView) -> Plan:
        """The same wish again is granted already; another has to wait."""
        handover = group.handover
        assert handover is not None  # noqa: S101 - for the type checker
        if (handover.to, handover.to_incarnation) == (heir.id, heir.incarnation):
            told = {
                "service": group.service,
                "group": group.name,
                "instance": heir.id,
                "epoch": group.epoch + 1,
            }
            return Plan((), group.fence_seq, ev.GroupHandoverStarted.type, told)
        raise no.HandoverRunning(
            f"cannot promote {heir.id!r}: {group.service}/{group.name} is being handed over from "
            f"{group.holder!r} to {handover.to!r}; wait until that is over (aegis status shows it)",
            holder=group.holder,
            to=handover.to,
        )

    def _member(self, group: GroupView, name: str) -> InstanceView:
        found = group.instances.get(name)
        if found is None:
            elsewhere = [f"{i.service}/{i.group}" for i in self._named(name) if i.is_live]
            hint = f"it is in {listed(elsewhere)}" if elsewhere else "aegis status shows who is there"
            raise no.UnknownInstance(
                f"cannot find instance {name!r} in {group.service}/{group.name}: {hint}",
                instance=name,
                elsewhere=elsewhere[:8],
            )
        _check_there(found)
        return found

    def _check_fit(self, heir: InstanceView, where: str) -> None:
        why = why_unfit(self.state, self.board, heir, self.policy)
        if why is None:
            return
        raise no.NotReady(
            f"cannot promote {heir.id!r} in {where}: {why}; wait until it is sound, or name another",
            instance=heir.id,
            state=str(heir.state),
            why=why,
        )

    # -- drain ------------------------------------------------------------------------------------------

    def _drain(self, request: Drain) -> Plan:
        instance = self._one(request)
        group = self.group(self.service(instance.service), instance.group)
        told = {"service": group.service, "group": group.name, "instance": instance.id}
        event_type = ev.InstanceDrainRequested.type
        if is_draining(instance) or instance.drain_requested:
            return Plan((), group.watch_seq, event_type, told)
        if not request.force:
            self._check_not_last(group, instance)
        event = ev.InstanceDrainRequested(
            instance=instance.id,
            incarnation=instance.incarnation,
            author=request.author,
            reason=request.reason,
            decided_by=self.me.id,
        )
        decision = Decision(self.subjects.watch(group.service, group.name), event, group.watch_seq)
        return Plan((decision,), 0, event_type, told)

    def _one(self, request: Drain) -> InstanceView:
        if request.service is not None:
            service = self.service(request.service)
            if request.group is not None:
                self.group(service, request.group)
        found = self._named(request.instance, request.service, request.group)
        live = [instance for instance in found if instance.is_live]
        if len(live) > 1:
            places = sorted(f"{i.service}/{i.group}" for i in live)
            raise no.AmbiguousInstance(
                f"cannot drain {request.instance!r}: {listed(places)} each have one of that name; say which "
                "service and group",
                instance=request.instance,
                places=places[:8],
            )
        if live:
            return live[0]
        if found:
            _check_there(max(found, key=lambda i: i.registered_seq))
        where = "/".join(part for part in (request.service, request.group) if part)
        raise no.UnknownInstance(
            f"cannot find instance {request.instance!r}{f' in {where}' if where else ''}: "
            "aegis status shows who is there",
            instance=request.instance,
            elsewhere=[f"{i.service}/{i.group}" for i in self._named(request.instance) if i.is_live][:8],
        )

    def _named(self, name: str, service: str | None = None, group: str | None = None) -> list[InstanceView]:
        return [
            found
            for g in self.state.topology.groups()
            if service in (None, g.service)
            and group in (None, g.name)
            and (found := g.instances.get(name)) is not None
        ]

    def _check_not_last(self, group: GroupView, instance: InstanceView) -> None:
        """Others that are ill or in doubt would be no help."""
        others = (i for i in group.ready() if i is not instance)
        if not instance.is_ready or any(
            why_unfit(self.state, self.board, other, self.policy) is None for other in others
        ):
            return
        waiting = self.state.open_calls(group.service, group.name)
        raise no.LastInstance(
            f"cannot drain {instance.id!r}: it is the last sound instance of {group.service}/{group.name}, "
            f"whose calls ({waiting} are open) would wait until another comes; start another first, or use "
            "force",
            instance=instance.id,
            service=group.service,
            group=group.name,
            open_calls=waiting,
        )

    # -- pause and resume -------------------------------------------------------------------------------

    def _pausing(self, request: Pause, cls: type[ev.GroupPaused | ev.GroupResumed]) -> Plan:
        service = self.service(request.service)
        pause = cls is ev.GroupPaused
        groups = list(service.groups.values())
        if request.group is not None:
            groups = [self.group(service, request.group)]
            wanting = [group for group in groups if _wants(group, pause=pause)]
        else:
            flagged = service.paused is pause
            wanting = [group for group in groups if _wants(group, pause=pause) or not flagged]
        event = cls(
            scope="service" if request.group is None else "group",
            author=request.author,
            reason=request.reason,
            decided_by=self.me.id,
        )
        decisions = tuple(
            Decision(self.subjects.watch(service.name, group.name), event, group.watch_seq)
            for group in wanting
        )
        told = {
            "service": service.name,
            "group": request.group,
            "groups": [group.name for group in groups][:MAX_DOUBTS],
        }
        return Plan(decisions, max((group.pause_seq for group in groups), default=0), event.type, told)

    # -- doubts -----------------------------------------------------------------------------------------

    def doubts(self, request: ListDoubts) -> tuple[list[dict[str, Any]], int]:
        """List calls in doubt, those that are in doubt for longest first, and count those beyond the limit.

        Raises:
            UnknownService, UnknownGroup: when it asks for one that is not there.
        """
        if request.service is not None:
            service = self.service(request.service)
            if request.group is not None:
                self.group(service, request.group)
        found = list(self.state.doubts(request.service, request.group))
        oldest = nsmallest(request.limit, found, key=lambda doubt: (doubt.call.since_ns, doubt.call.call_id))
        return [_doubt_plain(doubt) for doubt in oldest], len(found) - len(oldest)


def _doubt_plain(doubt: Doubt) -> dict[str, Any]:
    call = doubt.call
    return {
        "call_id": format_call_id(call.call_id),
        "service": doubt.service,
        "group": doubt.group,
        "method": call.method,
        "resource": call.resource,
        "client": call.client,
        "claimed_by": call.claimed_by,
        "claimed_epoch": call.claimed_epoch,
        "since_ns": call.since_ns,
        "deadline_ns": call.deadline_ns,
        "accepted_seq": call.seq,
    }


def _wants(group: GroupView, *, pause: bool) -> bool:
    if pause:
        return not group.paused
    return group.paused or any(
        instance.quarantined and instance.is_live for instance in group.instances.values()
    )


def _check_there(instance: InstanceView) -> None:
    gone = why_gone(instance)
    if gone is None:
        return
    raise no.InstanceGone(
        f"cannot use {instance.id!r} in {instance.service}/{instance.group}: {gone}; start it again",
        instance=instance.id,
        state=str(instance.state),
    )


def _cause(what: str, request: Promote) -> str:
    return f"{what} by {request.author}" + (f": {request.reason}" if request.reason else "")
