"""Why an instance is what it is: its run from the registration on, and who decided what about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.pulses import InstanceKey
from aegisipc.eventstore.replay.points import Point
from aegisipc.eventstore.replay.reason_reading import (
    Happening,
    Heard,
    base_of,
    bounded,
    heard_of,
)
from aegisipc.eventstore.replay.reason_signs import tell_signs
from aegisipc.eventstore.replay.reason_steps import (
    AmbiguousInstance,
    Plain,
    Reason,
    UnknownInstance,
    cut,
    moment,
    named,
)
from aegisipc.eventstore.replay.reason_words import said_of
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.subjects import GROUP_WHO, HA, WATCH_WHO
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.views import GroupView, InstanceView

MAX_HAPPENINGS: Final = 200
"""Events of one run that are told, the latest ones; the registration is always told."""

_FOLLOWS: Final[Mapping[str, tuple[str, ...]]] = {
    "admitted": ("registered",),
    "refused": ("registered",),
    "ready": ("admitted",),
    "promoted": ("ready", "handover_to"),
    "recovered": ("suspected",),
    "lost": ("suspected",),
    "healthy": ("unhealthy",),
    "handover_from": ("unhealthy",),
    "yielded": ("handover_from", "unhealthy"),
    "draining": ("drain_requested",),
    "left": ("draining",),
    "demoted": ("promoted", "suspected", "yielded", "lost"),
    "vacated": ("promoted", "lost", "left", "yielded"),
}
"""What each kind of event follows from, if that happened in the same run and still stood."""

_ENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "recovered": ("suspected",),
    "healthy": ("unhealthy", "yielded", "handover_from"),
    "handover_cancelled": ("handover_from", "handover_to", "yielded"),
    "demoted": ("promoted", "yielded", "handover_from"),
}
"""What no longer stands after it."""

_LOSSES: Final = ("demoted", "vacated")
"""After which it holds the pen no more."""


class _Told(NamedTuple):
    what: str
    happening: Happening


@dataclass
class _Run:
    """The latest run of an instance, as the events of its group tell it."""

    key: InstanceKey
    state: SystemState
    incarnation: str = ""
    registered: Happening | None = None
    told: deque[_Told] = field(default_factory=lambda: deque(maxlen=MAX_HAPPENINGS))
    omitted: int = 0
    runs: int = 0
    before: list[_Told] = field(default_factory=list)
    """Of the run before: how it lost the pen, if it did, and its last event."""

    @property
    def group(self) -> GroupView | None:
        """Its group at the point."""
        return self.state.topology.group(*self.key[:2])

    @property
    def view(self) -> InstanceView | None:
        """The instance at the point; ``None`` once it was forgotten."""
        return self.state.topology.instance(*self.key)

    def begin(self) -> None:
        """Take up the run that was under way when the history began."""
        view = self.view
        if view is not None:
            self.incarnation, self.runs = view.incarnation, 1

    def apply(self, seq: int, at_ns: int, who: str, event: ev.Event, holder: str | None) -> None:
        """Take in an event of the group; `holder` held the pen just before it."""
        happening = Happening(seq, at_ns, who, event)
        name = self.key[2]
        if isinstance(event, ev.InstanceRegistered) and who == name:
            if event.incarnation == self.incarnation:
                return  # stored twice
            self.before = [*filter(None, (self._lost_pen(),)), *list(self.told)[-1:]]
            self.incarnation, self.registered = event.incarnation, happening
            self.runs += 1
            self.omitted = 0
            self.told.clear()
            return
        what = self._kind_of(who, event, holder)
        if what:
            self.omitted += len(self.told) == MAX_HAPPENINGS
            self.told.append(_Told(what, happening))

    def _lost_pen(self) -> _Told | None:
        """How it lost the pen, if that is not its last event anyhow."""
        told = list(self.told)[:-1]
        return next((each for each in reversed(told) if each.what in _LOSSES), None)

    def _kind_of(self, who: str, event: ev.Event, holder: str | None) -> str:
        """What the event is to this run; empty if it is about somebody else."""
        name = self.key[2]
        plain = event.type.split(".")[1]
        if who == GROUP_WHO:
            return self._kind_of_fence(event, plain, holder)
        about = getattr(event, "instance", None) if who == WATCH_WHO else who
        if about != name or getattr(event, "incarnation", None) != self.incarnation:
            return ""
        return plain

    def _kind_of_fence(self, event: ev.Event, plain: str, holder: str | None) -> str:
        name = self.key[2]
        match event:
            case ev.GroupPromoted(holder=to, incarnation=incarnation) if to == name:
                return "promoted" if incarnation == self.incarnation else ""
            case ev.GroupPromoted():
                return "demoted" if holder == name else ""
            case ev.GroupHandoverStarted(to=to) if to == name:
                return "handover_to"
            case ev.GroupHandoverStarted():
                return "handover_from" if holder == name else ""
            case ev.GroupVacated() | ev.GroupHandoverCancelled():
                return plain if holder == name else ""
        return ""


async def why_instance(source: Source, text: str, point: Point) -> Reason:
    """Explain what an instance is up to a point: the latest run of it. `text` is its id, or
    ``service/group/id`` where several groups have one of that id.

    Raises:
        UnknownInstance: there is none up to there.
        AmbiguousInstance: several groups have one.
        AegisError: the history cannot be read now.
    """
    key = await _find(source, text, point.seq)
    run = await _read(source, key, point.seq)
    service, group, name = key
    reason = Reason("instance", {"service": service, "group": group, "instance": name})
    heard = await _heard(source, run, point)
    _tell(reason, run, heard)
    reason.answer = _answer(run)
    reason.details = _details(run)
    return reason


async def _find(source: Source, text: str, until_seq: int) -> InstanceKey:
    """Which instance is meant."""
    state = base_of(source)
    seen = {(i.service, i.group, i.id) for group in state.topology.groups() for i in group.instances.values()}
    async for record in bounded(source, [source.subjects.topology], 1, until_seq):
        effect = state.fold(record)
        if isinstance(effect.event, ev.InstanceRegistered) and effect.place is not None:
            seen.add((effect.place.service, effect.place.group, effect.place.who))
    wanted = text.split("/")
    found = sorted(key for key in seen if key == tuple(wanted) or (len(wanted) == 1 and key[2] == text))
    if len(found) == 1:
        return found[0]
    shown = ["/".join(key) for key in found or sorted(seen)]
    if found:
        raise AmbiguousInstance(
            f"cannot tell which instance {text!r} is: several groups have one of that id; give one of these: "
            f"{named(shown)}",
            instances=shown,
        )
    raise UnknownInstance(
        f"cannot explain instance {cut(text, 80)!r}: there is none up to sequence {until_seq}; give one of "
        f"these: {named(shown)}",
        instances=shown[:100],
    )


async def _read(source: Source, key: InstanceKey, until_seq: int) -> _Run:
    service, group, _ = key
    run = _Run(key, base_of(source))
    run.begin()
    async for record in bounded(source, [source.subjects.of_kind(service, group, HA)], 1, until_seq):
        former = run.group.holder if run.group is not None else None
        effect = run.state.fold(record)
        if isinstance(effect.event, ev.Event) and effect.place is not None:
            run.apply(record.seq, record.timestamp_ns, effect.place.who, effect.event, former)
    return run


async def _heard(source: Source, run: _Run, point: Point) -> Heard:
    """What was heard of it around the latest suspicion."""
    latest = next((told for told in reversed(run.told) if told.what == "suspected"), None)
    if latest is None:
        return Heard()
    return await heard_of(source, run.key, run.incarnation, latest.happening.at_ns, point.at_ns)


def _tell(reason: Reason, run: _Run, heard: Heard) -> None:
    standing: dict[str, int] = {}
    for earlier in run.before:
        standing["before"] = _link(reason, earlier, _of(standing, ("before",)), "the run before: ")
    if run.registered is not None:
        told = _Told("registered", run.registered)
        standing["registered"] = _link(reason, told, _of(standing, ("before",)))
    else:
        reason.notes.append("it had registered before this history begins")
    if run.runs > 1:
        reason.notes.append(
            f"this is run {run.runs} of it that this history tells of; the latest one is shown"
        )
    reason.omitted += run.omitted
    suspicions = [told for told in run.told if told.what == "suspected"]
    for told in run.told:
        follows = _of(standing, _FOLLOWS.get(told.what, ()))
        event = told.happening.event
        if isinstance(event, ev.InstanceSuspected):
            seen = {"source": event.source, "silence_ms": event.silence_ms, **event.evidence}
            seen["last_pulse_ns"] = event.last_pulse_ns
            around = heard if told is suspicions[-1] else Heard()
            follows += tell_signs(reason, event.instance, seen, around, told.happening.at_ns)
            _explain_demotion(reason, standing.get("demoted", 0), event, follows[-1:])
        number = _link(reason, told, follows)
        for name in _ENDS.get(told.what, ()):
            standing.pop(name, None)
        standing[told.what] = number
    reason.sort()


def _explain_demotion(
    reason: Reason, demoted: int, suspicion: ev.InstanceSuspected, signs: Iterable[int]
) -> None:
    """A suspicion is written behind the promotion of the heir, and both rest on the same signs."""
    if not demoted:
        return
    link = reason.links[demoted - 1]
    evidence = link.data["event"].get("evidence", {})
    if evidence.get("last_pulse_ns") == suspicion.last_pulse_ns:
        reason.links[demoted - 1] = link._replace(follows=(*link.follows, *signs))


def _of(standing: Mapping[str, int], names: Iterable[str]) -> list[int]:
    return [standing[name] for name in names if name in standing]


def _link(reason: Reason, told: _Told, follows: Iterable[int], before: str = "") -> int:
    happening = told.happening
    said = said_of(happening.event, happening.who)
    if told.what == "demoted":
        said = f"the pen goes to another one: {said}"
    data = happening.event.model_dump(mode="json", exclude={"contract"})
    return reason.add(
        told.what, before + said, seq=happening.seq, at_ns=happening.at_ns, follows=follows, event=data
    )


def _answer(run: _Run) -> str:
    service, group_name, name = run.key
    group, view = run.group, run.view
    where = f"{name} ({service}/{group_name})"
    latest = run.told[-1] if run.told else None
    why = said_of(latest.happening.event, latest.happening.who) if latest is not None else ""
    if view is None or group is None:
        return f"{where} is gone: {why or 'the history does not say why'}."
    state = str(view.state).replace("_", " ")
    since = moment(view.since_ns)
    if group.holder == name and group.holder_incarnation == view.incarnation:
        but = "" if str(view.state) == "active" else f", though it is {state}"
        return f"{where} is active at epoch {group.epoch} {_held(run, group)}{but}."
    if not view.is_live:
        return f"{where} is {state} since {since}: {why}."
    ready = "" if view.is_ready else f", and not ready: {_not_ready(view)}"
    active = f"{group.holder} is active at epoch {group.epoch}" if group.holder else "nobody is active"
    pen = "" if group.mode == "pool" else f"; {active}"
    return f"{where} is {state} since {since}{ready}{pen}{_lost_pen(run)}."


def _lost_pen(run: _Run) -> str:
    """When and why it lost the pen, if it had it in this run or the one before."""
    told = next((told for told in reversed(run.told) if told.what in _LOSSES), None)
    who = "It"
    if told is None:
        told = next((told for told in run.before if told.what in _LOSSES), None)
        who = "Its run before"
    if told is None:
        return ""
    _, happening = told
    cause = getattr(happening.event, "cause", "")
    return f". {who} lost the pen at {moment(happening.at_ns)} (sequence {happening.seq}), because {cause}"


def _held(run: _Run, group: GroupView) -> str:
    """Since when, and why; what was said of a handover later is not it."""
    for told in reversed(run.told):
        event = told.happening.event
        if isinstance(event, ev.GroupPromoted) and told.what == "promoted":
            return f"since {moment(told.happening.at_ns)}, because {event.cause}"
    return f"since {moment(group.since_ns)}, because {group.cause}"


def _not_ready(view: InstanceView) -> str:
    if not view.admitted:
        return "no router has admitted it yet"
    return "it has not read the log yet" if "joining" in view.state else "it is about to leave"


def _details(run: _Run) -> Plain:
    view = run.view
    if view is None:
        return {"state": None, "incarnation": run.incarnation}
    return {
        "state": str(view.state),
        "since_ns": view.since_ns,
        "incarnation": view.incarnation,
        "is_ready": view.is_ready,
        "unhealthy": view.unhealthy,
        "quarantined": view.quarantined,
        "drain_requested_by": view.drain_requested_by,
    }
