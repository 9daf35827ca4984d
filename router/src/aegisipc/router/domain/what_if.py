"""What would have been decided: today's decision code over the facts of a recorded history, with the policy
of that time and with another one.

Both simulations see every record and every heartbeat at the same moments, so they differ by nothing but the
policy, and what differs between their decisions is what the change would change. The simulation with the
policy of that time is also held against what was recorded: where these differ, today's code decides otherwise
than the code of that time did.

Usage: :meth:`WhatIf.on_pulse` and :meth:`WhatIf.on_record` in the order of the server's time, the heartbeats
first where both are at once; then :meth:`WhatIf.report`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.pulses import InstanceKey
from aegisipc.eventstore.subjects import (
    DEAD,
    GROUP_WHO,
    HA,
    KEYS,
    PEN,
    STATE,
    TERM,
    WATCH_WHO,
    Place,
)
from aegisipc.eventstore.system import GroupKey, SystemState
from aegisipc.eventstore.views import GroupView, InstanceView
from aegisipc.router.domain.terms import Policy, RouterIdentity, listed
from aegisipc.router.domain.what_if_facts import Known, wish_of
from aegisipc.router.domain.what_if_report import (
    TOLERANCE_MS,
    Change,
    Comparison,
    Decided,
    Span,
    compare,
)
from aegisipc.router.domain.what_if_world import MAX_DECISIONS, WISHES, Run, decided

__all__ = ["Change", "Decided", "Report", "Span", "WhatIf"]

_FENCED: Final = frozenset({PEN, DEAD, KEYS, STATE})
_HALF_A_SECOND_MS: Final = 500
_MS_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. ``changes``: the decisions that the other policy changes; ``today``: those that
    today's code makes otherwise than was recorded. ``diverged`` and ``today_diverged``: where recorded facts
    no longer apply to a group, and ``left_out`` and ``today_left_out`` how many differences of which group
    are not judged for that.
    """

    before: Policy
    after: Policy
    changes: list[Change]
    today: list[Change]
    diverged: list[Span]
    today_diverged: list[Span]
    left_out: Mapping[GroupKey, int]
    today_left_out: Mapping[GroupKey, int]
    recorded: int
    """Decisions in the records."""
    simulated: int
    """Decisions with the policy of that time."""
    records: int
    pulses: int
    notes: list[str]


class WhatIf:
    """Two simulations beside the recorded system, which `recorded` is at the beginning; it is folded on.

    Nothing is judged before `from_ns`: heartbeats of that time only tell who was there. `known` has seen all
    records about routing of the range, and the election of its first leader.
    """

    def __init__(
        self, recorded: SystemState, known: Known, changes: Mapping[str, int], *, from_ns: int
    ) -> None:
        self._recorded, self._known = recorded, known
        self._before, self._after = Run(recorded, known, {}), Run(recorded, known, changes)
        self._policies = self._before.policy(), self._after.policy()
        self._from_ns, self._now_ns = from_ns, 0
        self._hints = deque(known.hints())
        self._demoted: dict[InstanceKey, tuple[str, int]] = {}
        self._led: list[RouterIdentity] = []
        self._due = False
        self._decisions: list[Decided] = []
        self._records = self._pulses = 0

    @property
    def _runs(self) -> tuple[Run, Run]:
        return self._before, self._after

    # -- time -------------------------------------------------------------------------------------------

    def _advance(self, to_ns: int, seq: int | None = None) -> None:
        """Let time pass, up to a heartbeat, or to the record `seq`. What is due at an instant is decided when
        all of it was heard.
        """
        while self._hints and (self._hints[0].at_ns < to_ns or self._hints[0].seq == seq):
            hint = self._hints.popleft()
            self._decide_due()
            self._now_ns = max(self._now_ns, hint.at_ns)
            for run in self._runs:
                run.hint(hint)
            self._decide()
        if seq is not None or to_ns > self._now_ns:
            self._decide_due()
        self._now_ns = max(self._now_ns, to_ns)

    def _decide_due(self) -> None:
        if self._due:
            self._due = False
            self._decide()

    def _decide(self, wrote: str = "", seen: tuple[tuple[str, str], int] | None = None) -> None:
        if self._now_ns < self._from_ns:
            return
        for run in self._runs:
            if run.leads_and_lives(self._now_ns, wrote):
                run.decide(self._now_ns, seen)

    # -- what happened ----------------------------------------------------------------------------------

    def on_pulse(self, record: Record) -> None:
        """Take in a heartbeat."""
        self._advance(record.timestamp_ns)
        self._pulses += 1
        for run in self._runs:
            run.hear(record)
        router = self._router_of(record)
        for run in self._runs:
            run.look_for_undead(self._now_ns)
            if router is None:
                continue
            if run.router_pulsed(router, record.timestamp_ns):
                self._due = True
            elif self._now_ns >= self._from_ns:
                run.stand(router, self._now_ns)

    def _router_of(self, record: Record) -> RouterIdentity | None:
        """Whose pulse it is, of routers; as the board read it just now."""
        try:
            place = self._recorded.subjects.parse_pulse(record.subject)
        except MalformedPayload:  # the boards count it
            return None
        if place.kind != "router":
            return None
        pulse = self._before.board(self._before.policy()).routers.get(place.id)
        is_read = pulse is not None and pulse.at_ns == record.timestamp_ns
        return RouterIdentity(place.id, pulse.incarnation) if pulse is not None and is_read else None

    def on_record(self, record: Record) -> None:
        """Take in a record of the log."""
        self._advance(record.timestamp_ns, record.seq)
        self._records += 1
        former, group = self._standing(record)
        effect = self._recorded.fold(record)
        place = effect.place
        if place is None:
            return
        if place.kind in _FENCED and place.group != POOL_GROUP:
            self._check_writer(record, place)
        if not isinstance(effect.event, ev.Event):
            return
        if place.kind == TERM:
            self._lead(record, place, effect.event)
        elif place.who in (GROUP_WHO, WATCH_WHO):
            self._decided(record, place, effect.event, group)
        else:
            self._say(record, place, effect.event, former)
        for run in self._runs:
            run.look_for_equal(self._now_ns)

    def _standing(self, record: Record) -> tuple[InstanceView | None, GroupView | None]:
        """The instance that a record is of, and its group, just before it; of those about routing only."""
        if f".{HA}." not in record.subject:
            return None, None
        try:
            place = self._recorded.subjects.parse(record.subject)
        except MalformedPayload:  # the fold counts it
            return None, None
        topology = self._recorded.topology
        group = topology.group(place.service, place.group)
        was = group.instances.get(place.who) if group is not None else None
        # a registration replaces the view of the instance, and a promotion that of the handover
        return was, _as_it_stands(group)

    def _lead(self, record: Record, place: Place, event: ev.Event) -> None:
        if isinstance(event, ev.RouterElected):
            self._note(decided(place, event, record.timestamp_ns, record.seq))
            self._led.append(RouterIdentity(event.router, event.incarnation))
            for run in self._runs:
                run.elected(event, self._now_ns)
            self._decide(event.router)
        elif isinstance(event, ev.RouterResigned):
            for run in self._runs:
                run.resigned(event, self._now_ns)

    def _decided(self, record: Record, place: Place, event: ev.Event, group: GroupView | None) -> None:
        """What a router wrote. Only what operators wished is a fact in it, and what it saw just then."""
        seen = None
        if isinstance(event, WISHES):
            for run in self._runs:
                run.take(record)
        elif not _is_reaffirmed(group, event):
            self._note(decided(place, event, record.timestamp_ns, record.seq))
            self._note_demotion(record, place, event, group)
        wish = wish_of(group, place, event)
        if wish is not None:
            for run in self._runs:
                run.wish(wish, self._now_ns)
        if isinstance(event, ev.InstanceRecovered):
            key = (place.service, place.group, event.instance)
            for run in self._runs:
                run.answered(key, event.incarnation)
        elif isinstance(event, ev.GroupCongested | ev.GroupRelieved):
            seen = (place.service, place.group), event.open
        self._decide(getattr(event, "decided_by", ""), seen)

    def _say(self, record: Record, place: Place, event: ev.Event, former: InstanceView | None) -> None:
        """What an instance said of itself."""
        for run in self._runs:
            here, holder = run.instance(place), run.holder(place)
            was_live = here is not None and here.is_live
            if isinstance(event, ev.InstanceYielded):
                group = self._recorded.topology.group(place.service, place.group)
                counted = group is not None and 0 < group.yielded_epoch == event.epoch
                run.take_yield(record, place, event, counted=counted)
                continue
            run.take(record)
            if isinstance(event, ev.InstanceRegistered):
                if former is not None and former.state is InstanceState.LOST and was_live:
                    why = f"{place.who!r} came back because it was given up, and was not given up here"
                    run.diverge(place, record, why, hard=True)
                elif former is not None and holder == (place.who, former.incarnation):
                    self._check_why_it_came_back(run, record, place, former)
            elif former is not None and former.is_live and not was_live:
                run.diverge(place, record, f"{place.who!r} goes on, and is gone here", hard=True)
        self._decide()

    def _note_demotion(self, record: Record, place: Place, event: ev.Event, group: GroupView | None) -> None:
        if group is None or group.holder is None or not isinstance(event, ev.GroupPromoted | ev.GroupVacated):
            return
        key = place.service, place.group, group.holder
        self._demoted[key] = group.holder_incarnation or "", record.timestamp_ns

    def _check_why_it_came_back(self, run: Run, record: Record, place: Place, former: InstanceView) -> None:
        """Who finds the pen gone, and lives, begins a new run. Only who pulsed after that lived: another may
        have been dead, and was started again.
        """
        key = place.service, place.group, place.who
        incarnation, lost_ns = self._demoted.get(key, ("", 0))
        if incarnation == former.incarnation and run.heard_after(key, incarnation, lost_ns):
            why = f"{place.who!r} came back because it had lost the pen, which it did not lose here"
            run.diverge(place, record, why, hard=True)

    def _check_writer(self, record: Record, place: Place) -> None:
        """Only the holder's writes count: it was told, and goes on from there."""
        group = self._recorded.topology.group(place.service, place.group)
        if group is None or group.holder != place.who:
            return
        for run in self._runs:
            here = run.group(place)
            if run.holder(place) != (group.holder, group.holder_incarnation):
                is_held = f"{here.holder!r}" if here is not None and here.holder is not None else "nobody"
                told = f"writes as the holder of epoch {group.epoch}; here {is_held} holds the pen"
                run.diverge(place, record, f"{place.who!r} {told}")

    def _note(self, made: Decided) -> None:
        if len(self._decisions) >= MAX_DECISIONS:
            raise LimitExceeded(
                f"cannot compare more than {MAX_DECISIONS} decisions: choose a shorter range",
                limit=MAX_DECISIONS,
            )
        self._decisions.append(made)

    # -- what came of it --------------------------------------------------------------------------------

    def report(self) -> Report:
        """Compare. Ends the simulations: what is due is decided."""
        self._decide_due()
        before, after = self._before, self._after
        today = self._today()
        recorded_seq = {
            id(pair.after): pair.before.seq
            for pair in today.pairs
            if pair.before is not None and pair.after is not None
        }
        found = compare(
            before.decisions,
            after.decisions,
            [*before.spans, *after.spans],
            tolerance_ms=0,
            reach_ms=_reach_ms(*self._policies),
        )
        changes = [change._replace(seq=recorded_seq.get(id(change.before))) for change in found.changes]
        return Report(
            *self._policies,
            changes,
            today.changes,
            [span for span in after.spans if span.is_long()],
            [span for span in before.spans if span.is_long()],
            found.left_out,
            today.left_out,
            len(self._decisions),
            len(before.decisions),
            self._records,
            self._pulses,
            self._notes(),
        )

    def _today(self) -> Comparison:
        """What was recorded against today's code. Of what it decides in the last moments, the record may have
        come just after them.
        """
        policy = self._policies[0]
        found = compare(
            self._decisions,
            self._before.decisions,
            self._before.spans,
            tolerance_ms=TOLERANCE_MS,
            reach_ms=policy.lost_after_ms + policy.leader_after_ms,
        )
        last_ns = self._now_ns - TOLERANCE_MS * _MS_NS
        changes = [
            change._replace(seq=change.before.seq if change.before is not None else None)
            for change in found.changes
            if change.how != "additional" or change.shown.at_ns <= last_ns
        ]
        return Comparison(changes, found.left_out, found.pairs)

    def _notes(self) -> list[str]:
        before, after = self._before, self._after
        suspect_after_ms = self._policies[1].suspect_after_ms
        notes = []
        if routers := self._known.untold:
            notes.append(
                f"the log does not say with which policy {listed(routers)} decided; the usual one is "
                "assumed: if it was another, give it with --policy"
            )
        if (others := self._known.others(self._policies[0], self._led)) and len(set(self._policies)) > 1:
            notes.append(f"not all routers had the policy that is named as that of then: {listed(others)}")
        if after.fresh_starts > before.fresh_starts:
            notes.append(
                f"with suspect_after_ms={suspect_after_ms} a silence of everybody for "
                f"{suspect_after_ms // 2} ms counts as the server's: {after.fresh_starts} times instead of "
                f"{before.fresh_starts}. The recorded heartbeats are too coarse for that policy: its router "
                "would have pulsed more often: it would have noticed more than is found here, and what is "
                "listed as missing or later may not be so"
            )
        notes += [
            f"{run.unsettled} times the decisions of {name} did not come to an end"
            for name, run in (("today's code", before), ("the changed policy", after))
            if run.unsettled
        ]
        return notes


def _as_it_stands(group: GroupView | None) -> GroupView | None:
    """Who holds a group's pen, for later."""
    if group is None:
        return None
    return GroupView(
        group.service,
        group.name,
        epoch=group.epoch,
        holder=group.holder,
        holder_incarnation=group.holder_incarnation,
        handover=group.handover,
    )


def _is_reaffirmed(group: GroupView | None, event: ev.Event) -> bool:
    """The same holder at the same epoch, written again: nothing was decided."""
    if group is None or not isinstance(event, ev.GroupPromoted):
        return False
    return (group.epoch, group.holder) == (event.epoch, event.holder)


def _reach_ms(before: Policy, after: Policy) -> int:
    """How far apart the same decision may be with two policies."""
    one, other = asdict(before), asdict(after)
    apart: int = sum(abs(one[key] - other[key]) for key in one)
    return apart + _HALF_A_SECOND_MS
