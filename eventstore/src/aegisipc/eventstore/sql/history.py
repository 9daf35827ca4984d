"""What happened to groups and instances, as rows: what they are now, and one row for each event.

Works on the routing fold: it compares what a group was before a record with what it is after it. What counted
for nothing in the fold (an event of an earlier incarnation, a promotion that was only written again) leaves
no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import GONE
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.sql.texts import ID, TEXT, WORD, big, cut, cut_or_none, plain
from aegisipc.eventstore.subjects import GROUP_WHO, WATCH_WHO, Place
from aegisipc.eventstore.system import GroupKey
from aegisipc.eventstore.topology import GroupView, InstanceView, Topology

type Row = dict[str, Any]


class Op(NamedTuple):
    """One row to write: ``kind`` names the statement, see :mod:`aegisipc.eventstore.sql.writing`."""

    kind: str
    row: Row


class _Pen(NamedTuple):
    """Who has a group's pen."""

    state: str
    epoch: int
    holder: str | None
    incarnation: str | None


class _Seen(NamedTuple):
    """An instance as it was after the latest record of its group."""

    view: InstanceView
    state: str
    since_ns: int


_NOBODY: Final = _Pen("vacant", 0, None, None)


class History:
    """Makes the rows. Must be told of each record of kind ``ha``, after it was folded."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._pens: dict[GroupKey, _Pen] = {}
        self._instances: dict[GroupKey, dict[str, _Seen]] = {}
        self._rows: dict[GroupKey, Row] = {}
        for group in topology.groups():
            self._remember(group)

    def note(self, record: Record, place: Place, event: ev.Event | ev.UnknownEvent | None) -> Iterator[Op]:
        """Iterate over the rows that a record leads to; to be taken whole, before the next one is folded."""
        group = self._topology.group(place.service, place.group)
        if group is None or not isinstance(event, ev.Event):
            return
        key = (group.service, group.name)
        pen, seen = self._pens.get(key, _NOBODY), self._instances.get(key, {})
        yield from self._instances_now(record, group, seen, event)
        if place.who == GROUP_WHO:
            yield from self._fence(record, group, pen, seen, event)
        else:
            yield from self._event(record, group, seen, place, event)
        row = _group_row(group)
        if row != self._rows.get(key):
            yield Op("group", row)
        self._remember(group)

    def _remember(self, group: GroupView) -> None:
        key = (group.service, group.name)
        self._pens[key] = _pen(group)
        self._rows[key] = _group_row(group)
        self._instances[key] = {i.id: _Seen(i, i.state, i.since_ns) for i in group.instances.values()}

    # -- instances as they are ------------------------------------------------------------------------------

    def _instances_now(
        self, record: Record, group: GroupView, seen: dict[str, _Seen], event: ev.Event
    ) -> Iterator[Op]:
        for name, view in group.instances.items():
            known = seen.get(name)
            if known is None or known.view is not view:
                if known is not None and known.state not in GONE:
                    yield Op("instance_replaced", _replaced(record, known.view, view))
                yield Op("instance", _instance_row(record, view))
            elif (known.state, known.since_ns) != (view.state, view.since_ns):
                yield Op("instance_moved", _moved(record, view, event))
        for name, known in seen.items():  # one may be gone and forgotten at once
            if name not in group.instances and known.state != known.view.state:
                yield Op("instance_moved", _moved(record, known.view, event))

    # -- what happened --------------------------------------------------------------------------------------

    def _fence(
        self, record: Record, group: GroupView, pen: _Pen, seen: dict[str, _Seen], event: ev.Event
    ) -> Iterator[Op]:
        now = _pen(group)
        if now == pen:
            return
        yield Op("promotion", _promotion_row(record, group, pen, event))
        cause, by = _cause(event), cut(getattr(event, "decided_by", ""))
        former = _of_run(group, seen, pen.holder, pen.incarnation)
        moved = (pen.holder, pen.incarnation) != (now.holder, now.incarnation)
        if moved and former is not None and former.is_live:
            yield Op("instance_event", _event_row(record, former, "demoted", cause, by, {"epoch": now.epoch}))
        if isinstance(event, ev.GroupPromoted):
            view = _of_run(group, seen, now.holder, now.incarnation)
            if view is not None:
                yield Op("instance_event", _event_row(record, view, "promoted", cause, by, event.evidence))

    def _event(
        self, record: Record, group: GroupView, seen: dict[str, _Seen], place: Place, event: ev.Event
    ) -> Iterator[Op]:
        own = place.who != WATCH_WHO
        who = place.who if own else getattr(event, "instance", None)
        view = _of_run(group, seen, who, getattr(event, "incarnation", None))
        if view is None or (isinstance(event, ev.InstanceRegistered) and view.registered_seq != record.seq):
            return
        name = event.type.removeprefix("instance.").partition(".v")[0]
        by = place.who if own else getattr(event, "decided_by", "")
        yield Op("instance_event", _event_row(record, view, name, _cause(event), by, _evidence(event)))


def _pen(group: GroupView) -> _Pen:
    return _Pen(group.state, group.epoch, group.holder, group.holder_incarnation)


def _of_run(
    group: GroupView, seen: dict[str, _Seen], who: str | None, run: str | None
) -> InstanceView | None:
    """Return that run of an instance; also one that this very record made the group forget."""
    if who is None:
        return None
    view = group.instances.get(who)
    if view is None and who in seen:
        view = seen[who].view
    return view if view is not None and view.incarnation == run else None


# -- rows ---------------------------------------------------------------------------------------------------


def _key(view: InstanceView) -> Row:
    return {
        "service": cut(view.service),
        "group_name": cut(view.group),
        "instance": cut(view.id),
        "incarnation": cut(view.incarnation, ID),
    }


def _instance_row(record: Record, view: InstanceView) -> Row:
    said = view.registration
    return _key(view) | {
        "mode": said.mode,
        "state": view.state.value,
        "host": cut(said.host),
        "pid": big(said.pid),
        "version": cut(said.version, ID),
        "resources": [cut(resource) for resource in said.resources],
        "registered_seq": view.registered_seq,
        "registered_ns": record.timestamp_ns,
        "since_ns": view.since_ns,
        "ended_ns": None,
        "ended_cause": None,
    }


def _moved(record: Record, view: InstanceView, event: ev.Event) -> Row:
    over = view.state in GONE
    return _bound(_key(view)) | {
        "state": view.state.value,
        "since_ns": view.since_ns,
        "ended_ns": record.timestamp_ns if over else None,
        "ended_cause": _cause(event) if over else None,
    }


def _replaced(record: Record, former: InstanceView, view: InstanceView) -> Row:
    cause = f"followed by incarnation {view.incarnation}, which registered as {view.id}"
    return _bound(_key(former)) | {"ended_ns": record.timestamp_ns, "ended_cause": cut(cause, TEXT)}


def _bound(key: Row) -> Row:
    """Names of keys in conditions: those of the columns are taken by what is set."""
    return {f"key_{name}": value for name, value in key.items()}


def _event_row(
    record: Record, view: InstanceView, event: str, cause: str, by: str, evidence: dict[str, Any]
) -> Row:
    return _key(view) | {
        "seq": record.seq,
        "at_ns": record.timestamp_ns,
        "event": cut(event, WORD),
        "state_after": view.state.value,
        "cause": cause,
        "decided_by": cut(by),
        "evidence": plain(evidence),
    }


def _group_row(group: GroupView) -> Row:
    return {
        "service": cut(group.service),
        "group_name": cut(group.name),
        "mode": group.mode,
        "state": group.state.value,
        "epoch": big(group.epoch),
        "holder": cut_or_none(group.holder),
        "holder_incarnation": cut_or_none(group.holder_incarnation, ID),
        "since_ns": group.since_ns,
        "cause": cut(group.cause, TEXT),
        "paused": group.paused,
        "paused_by": cut(group.paused_by, TEXT),
    }


def _promotion_row(record: Record, group: GroupView, former: _Pen, event: ev.Event) -> Row:
    started = isinstance(event, ev.GroupHandoverStarted)
    return {
        "seq": record.seq,
        "at_ns": record.timestamp_ns,
        "service": cut(group.service),
        "group_name": cut(group.name),
        "event": cut(event.type.removeprefix("group.").partition(".v")[0], WORD),
        "epoch": big(group.epoch),
        "holder": cut_or_none(event.to if isinstance(event, ev.GroupHandoverStarted) else group.holder),
        "incarnation": cut_or_none(
            getattr(event, "to_incarnation", "") if started else group.holder_incarnation, ID
        ),
        "former_holder": cut_or_none(former.holder),
        "kind": cut(getattr(event, "kind", ""), WORD),
        "cause": _cause(event),
        "author": cut(getattr(event, "author", "")),
        "decided_by": cut(getattr(event, "decided_by", "")),
        "evidence": plain(getattr(event, "evidence", {})),
    }


def _cause(event: ev.Event) -> str:
    match event:
        case ev.InstanceRefused():
            return cut(event.error.message, TEXT)
        case ev.InstanceUnhealthy():
            return cut(event.reason, TEXT)
        case ev.InstanceDrainRequested():
            return cut(f"{event.author}: {event.reason}" if event.reason else event.author, TEXT)
        case ev.InstanceSuspected() | ev.InstanceLost() if not event.cause:
            return cut(f"{event.source}: silent for {event.silence_ms} ms", TEXT)
    return cut(getattr(event, "cause", ""), TEXT)


def _evidence(event: ev.Event) -> dict[str, Any]:  # noqa: PLR0911 - one line for each event
    """Return what was seen, and what the event says beside cause and names."""
    match event:
        case ev.InstanceSuspected() | ev.InstanceLost():
            told = {
                "last_pulse_ns": event.last_pulse_ns,
                "silence_ms": event.silence_ms,
                "source": event.source,
            }
            return told | event.evidence
        case ev.InstanceRecovered():
            return event.evidence
        case ev.InstanceRefused():
            return {"error": event.error.code}
        case ev.InstanceYielded():
            return {"epoch": event.epoch}
        case ev.InstanceLeft():
            return {"finished": event.finished}
        case ev.InstanceRegistered():
            return {"quarantined": event.quarantined, "resources": list(event.resources)}
    return {}
