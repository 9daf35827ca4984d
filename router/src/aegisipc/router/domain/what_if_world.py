"""One simulated system: today's decision code over recorded facts, whose own decisions are the only ones that
it believes in.

Facts are what instances, clients and operators did, and the heartbeats. What the recorded router decided is
none. Calls are those of the recorded system at every moment: a router decides nothing about them, and counts
them only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import LimitExceeded
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.pulses import InstanceKey, PulseBoard
from aegisipc.eventstore.subjects import Place
from aegisipc.eventstore.system import GroupKey, SystemState
from aegisipc.eventstore.topology import GroupView, InstanceView
from aegisipc.router.domain.commands import Desk
from aegisipc.router.domain.decide import decide, elect, leads
from aegisipc.router.domain.refusals import CommandRefused
from aegisipc.router.domain.requests import Promote
from aegisipc.router.domain.terms import Decision, Policy, RouterIdentity
from aegisipc.router.domain.what_if_facts import Hint, Known, with_changes
from aegisipc.router.domain.what_if_report import TOLERANCE_MS, Decided, Span, Subject
from aegisipc.router.domain.what_if_state import Simulated, outline

MAX_DECISIONS: Final = 100_000
"""More than so many in one simulation are too many to compare."""

REFUSED: Final = "command.refused"
"""Stands for the type of an event where an operator's wish would not have been granted."""

PAUSING: Final = (ev.GroupPaused, ev.GroupResumed)
WISHES: Final = (*PAUSING, ev.InstanceDrainRequested)
"""What operators want, and a router only writes down."""

_MS_NS: Final = 1_000_000
_ROUNDS: Final = 100
_TICK_NS: Final = 50 * _MS_NS
_LONGEST_PULSE_NS: Final = 250 * _MS_NS


class Run:
    """One simulation. Its driver tells it of all that happens, in the order of the server's time."""

    def __init__(self, recorded: SystemState, known: Known, changes: Mapping[str, int]) -> None:
        self.state = Simulated(recorded)
        self.decisions: list[Decided] = []
        self.spans: list[Span] = []
        self.unsettled = 0
        self.fresh_starts = 0
        """How often nobody was heard for so long that everybody got a fresh start."""
        self._recorded, self._known, self._changes = recorded, known, changes
        gaps = {with_changes(policy, changes).suspect_after_ms // 2 for policy in known.policies()}
        self._boards = {gap: PulseBoard(recorded.subjects, gap_ms=gap) for gap in sorted(gaps)}
        self._policies: dict[RouterIdentity, Policy] = {}
        self._open: dict[GroupKey, Span] = {}
        self._begun: dict[RouterIdentity, int] = {}
        self._alive: dict[RouterIdentity, tuple[int, int]] = {}
        self._given_up: dict[InstanceKey, tuple[str, int]] = {}
        self._crowded: dict[GroupKey, int] = {}
        self._won_ns = 0

    # -- who decides ------------------------------------------------------------------------------------

    @property
    def leader(self) -> RouterIdentity | None:
        """Which router leads here."""
        lead = self.state.topology.leadership
        return RouterIdentity(lead.router, lead.incarnation or "") if lead.router is not None else None

    def policy(self, router: RouterIdentity | None = None) -> Policy:
        """Return how patient a router is here; by default the one that leads."""
        router = router or self.leader or RouterIdentity("", "")
        found = self._policies.get(router)
        if found is None:
            found = with_changes(self._known.policy_of(router), self._changes)
            self._policies[router] = found
        return found

    def board(self, policy: Policy) -> PulseBoard:
        """Return what a router of that policy heard."""
        return self._boards[policy.suspect_after_ms // 2]

    def leads_and_lives(self, now_ns: int, wrote: str = "") -> bool:
        """Tell whether the leader is there to decide: it pulses, or it `wrote` something just now."""
        leader = self.leader
        if leader is None:
            return False
        at_ns, interval_ns = self._alive.get(leader, (0, 0))
        return leader.id == wrote or now_ns - at_ns <= 2 * interval_ns

    # -- what is heard ----------------------------------------------------------------------------------

    def hear(self, record: Record) -> None:
        """Take in a heartbeat."""
        for board in self._boards.values():
            floor_ns = board.floor_ns
            board.apply(record)
            self.fresh_starts += board.floor_ns != floor_ns

    def hint(self, hint: Hint) -> None:
        """Take in what a router heard of an instance otherwise."""
        found = self._recorded.topology.instance(*hint.key)
        if found is not None:
            for board in self._boards.values():
                hint.tell(board, found.incarnation)

    def answered(self, key: InstanceKey, incarnation: str) -> None:
        """An instance answered its probes again, as the recorded router found."""
        for board in self._boards.values():
            if board.probe_failed(key, incarnation) is not None:
                board.probe_answered(key, incarnation)

    def router_pulsed(self, router: RouterIdentity, at_ns: int) -> bool:
        """A router is alive; tells whether it is the one that decides here."""
        before_ns = self._alive.get(router, (0, 0))[0]
        interval_ns = min(max(at_ns - before_ns, _TICK_NS), _LONGEST_PULSE_NS)
        self._alive[router] = at_ns, interval_ns
        self._begun.setdefault(router, at_ns)
        return router == self.leader

    # -- who leads --------------------------------------------------------------------------------------

    def stand(self, router: RouterIdentity, now_ns: int) -> None:
        """A router that does not lead looks whether it should. Who is first where nobody leads, the records
        tell; if they do not, another one comes a little later.
        """
        lead = self.state.topology.leadership
        is_free = lead.router in (None, router.id)
        waited_ns = now_ns - max(self._begun.get(router, now_ns), lead.since_ns if is_free else 0)
        patience_ms = TOLERANCE_MS if is_free else self.policy(router).leader_after_ms
        if waited_ns > patience_ms * _MS_NS:
            self._elect(router, now_ns)

    def elected(self, event: ev.RouterElected, now_ns: int) -> None:
        """A router was elected when this was recorded: it was there, and ready to lead. Of several that are,
        this one is first here, too.
        """
        router = RouterIdentity(event.router, event.incarnation)
        self._begun.setdefault(router, now_ns)
        if router == self.leader or self._elect(router, now_ns):
            return
        if now_ns - self._won_ns <= TOLERANCE_MS * _MS_NS:
            term = self.state.topology.leadership.term + 1
            self._write(self.state.subjects.term, event.model_copy(update={"term": term}), now_ns)
            self._took_lead(router)

    def _elect(self, router: RouterIdentity, now_ns: int) -> bool:
        policy = self.policy(router)
        decision = elect(self.state, self.board(policy), router, policy, self.state.subjects)
        if decision is None:
            return False
        self._append(decision, now_ns)
        self._won_ns = now_ns
        self._took_lead(router)
        return True

    def _took_lead(self, router: RouterIdentity) -> None:
        """It knows nothing of who was silent before it began."""
        for board in self._boards.values():
            board.floor_ns = max(board.floor_ns, self._begun.get(router, 0))

    def resigned(self, event: ev.RouterResigned, now_ns: int) -> None:
        """A router stopped on purpose: if it leads here, nobody does any more."""
        if leads(self.state, RouterIdentity(event.router, event.incarnation)):
            term = self.state.topology.leadership.term
            self._write(self.state.subjects.term, event.model_copy(update={"term": term}), now_ns)

    # -- deciding ---------------------------------------------------------------------------------------

    def decide(self, now_ns: int, seen: tuple[GroupKey, int] | None = None) -> None:
        """Decide until nothing is left to decide. `seen` is how many open calls the recorded router saw in a
        group just now.
        """
        leader = self.leader
        if leader is None:
            return
        policy = self.policy(leader)
        board = self.board(policy)
        self.state.seen = seen
        for _ in range(_ROUNDS):
            found = decide(self.state, board, leader, policy, self.state.subjects)
            found = [each for each in found if self._is_lasting(each, now_ns)]
            if not found:
                break
            for decision in found:
                self._append(decision, now_ns)
        else:
            self.unsettled += 1
        self.state.seen = None
        self.look_for_equal(now_ns)

    def _is_lasting(self, decision: Decision, now_ns: int) -> bool:
        """Routers look at open calls every so often. That there were too many for less than that, the
        recorded one saw or did not: so it counts only if it saw it, or if it lasts.
        """
        if not isinstance(decision.event, ev.GroupCongested) or self.state.seen is not None:
            return True
        place = self.state.subjects.parse(decision.subject)
        key = (place.service, place.group)
        since_ns = self._crowded.setdefault(key, now_ns)
        if now_ns - since_ns > 3 * _LONGEST_PULSE_NS:  # that was another time
            self._crowded[key] = since_ns = now_ns
        lasts = now_ns - since_ns >= _TICK_NS
        if lasts:
            del self._crowded[key]
        return lasts

    def wish(self, wish: Promote, now_ns: int) -> None:
        """An operator wants a promotion: judged here by what is believed here."""
        leader = self.leader or RouterIdentity("", "")
        policy = self.policy(leader)
        desk = Desk(self.state, self.board(policy), leader, policy, self.state.subjects)
        try:
            plan = desk.plan(wish)
        except CommandRefused as refusal:
            self._note(
                Decided(
                    Subject(REFUSED, wish.service, wish.group, wish.instance),
                    now_ns,
                    self._recorded.position,
                    None,
                    refusal.message,
                )
            )
            return
        for decision in plan.decisions:
            self._append(decision, now_ns)

    def _append(self, decision: Decision, now_ns: int) -> None:
        place = self.state.subjects.parse(decision.subject)
        self._write(decision.subject, decision.event, now_ns)
        if not isinstance(decision.event, PAUSING):
            self._note(decided(place, decision.event, now_ns, self._recorded.position))
        if isinstance(decision.event, ev.InstanceLost):
            key = (place.service, place.group, decision.event.instance)
            self._given_up[key] = decision.event.incarnation, now_ns

    def _note(self, made: Decided) -> None:
        if len(self.decisions) >= MAX_DECISIONS:
            raise LimitExceeded(
                f"cannot compare more than {MAX_DECISIONS} decisions: choose a shorter range",
                limit=MAX_DECISIONS,
            )
        self.decisions.append(made)

    def _write(self, subject: str, event: ev.Event, now_ns: int) -> None:
        self.state.fold(Record(self._recorded.position, subject, ev.encode_event(event), now_ns))

    # -- what others did --------------------------------------------------------------------------------

    def take(self, record: Record) -> None:
        """Take in a fact as it was recorded."""
        self.state.fold(record)

    def take_yield(self, record: Record, place: Place, event: ev.InstanceYielded, *, counted: bool) -> None:
        """The holder is done with its epoch, whatever number that has here."""
        group = self.group(place)
        if not counted:
            self.state.fold(record)
        elif group is not None and (group.holder, group.holder_incarnation) == (place.who, event.incarnation):
            told = event.model_copy(update={"epoch": group.epoch})
            self._write(record.subject, told, record.timestamp_ns)
            if group.yielded_epoch != group.epoch:
                self.diverge(place, record, f"{place.who!r} yielded, and was not asked to here")
        else:
            self.diverge(place, record, f"{place.who!r} yielded the pen, which it does not hold here")

    def group(self, place: Place) -> GroupView | None:
        """Return a group as it is here."""
        return self.state.topology.group(place.service, place.group)

    def holder(self, place: Place) -> tuple[str | None, str | None]:
        """Return who holds the pen of a group here, and which run of it."""
        group = self.group(place)
        return (group.holder, group.holder_incarnation) if group is not None else (None, None)

    def heard_after(self, key: InstanceKey, incarnation: str, ns: int) -> bool:
        """Tell whether that run of an instance pulsed after a moment."""
        pulse = next(iter(self._boards.values())).instances.get(key)
        return pulse is not None and pulse.incarnation == incarnation and pulse.at_ns > ns

    def instance(self, place: Place) -> InstanceView | None:
        """Return an instance as it is here."""
        return self.state.topology.instance(place.service, place.group, place.who)

    # -- where the facts no longer apply ----------------------------------------------------------------

    def diverge(self, place: Place, record: Record, why: str, *, hard: bool = False) -> None:
        """From this record on, what was recorded of a group presupposes what was not decided here."""
        self._diverge((place.service, place.group), record.seq, record.timestamp_ns, why, hard=hard)

    def _diverge(self, key: GroupKey, seq: int, at_ns: int, why: str, *, hard: bool) -> None:
        span = self._open.get(key)
        if span is None:
            span = self._open[key] = Span(*key, seq, at_ns, why, hard)
            self.spans.append(span)
        elif hard and not span.hard:  # the worse of the two, from here on
            span.end_ns, span.end_seq = at_ns, seq
            span = self._open[key] = Span(*key, seq, at_ns, why, hard)
            self.spans.append(span)

    def look_for_undead(self, now_ns: int) -> None:
        """Who was given up here and pulses on was not told, and did not come back as it would have."""
        for key, (incarnation, lost_ns) in list(self._given_up.items()):
            pulse = next(iter(self._boards.values())).instances.get(key)
            if pulse is None or pulse.at_ns <= lost_ns:
                continue
            del self._given_up[key]
            recorded = self._recorded.topology.instance(*key)
            was_lost = recorded is not None and recorded.state is InstanceState.LOST
            if pulse.incarnation == incarnation and not was_lost:
                why = f"{key[2]!r} pulses on, and was given up here: it would have come back as a new run"
                self._diverge(key[:2], self._recorded.position, now_ns, why, hard=True)

    def look_for_equal(self, now_ns: int) -> None:
        """A group that is as it was recorded follows the records again."""
        for key, span in list(self._open.items()):
            if outline(self.state, key) == outline(self._recorded, key):
                span.end_ns, span.end_seq = now_ns, self._recorded.position
                del self._open[key]


def decided(place: Place, event: ev.Event, at_ns: int, seq: int) -> Decided:
    """Return what a decision is about."""
    match event:
        case ev.RouterElected():
            return Decided(Subject(event.type), at_ns, seq, event, event.cause)
        case ev.GroupPromoted():
            who, incarnation = event.holder, event.incarnation
        case ev.GroupHandoverStarted():
            who, incarnation = event.to, event.to_incarnation
        case _:
            who = getattr(event, "instance", "")
            incarnation = getattr(event, "incarnation", "")
    cause = event.error.message if isinstance(event, ev.InstanceRefused) else getattr(event, "cause", "")
    return Decided(
        Subject(event.type, place.service, place.group, who, incarnation), at_ns, seq, event, cause
    )
