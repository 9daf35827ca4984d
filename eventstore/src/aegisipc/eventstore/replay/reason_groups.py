"""Why a group's pen is where it is: what was heard or not heard, who suspected whom, who decided what, where
the fence is, and what became of the calls of the former holder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.checkpoints import OnSkip
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.replay.folding import board_at
from aegisipc.eventstore.replay.points import Point
from aegisipc.eventstore.replay.reason_aftermath import tell_aftermath
from aegisipc.eventstore.replay.reason_calls import Aftermath, aftermath_of, read_late
from aegisipc.eventstore.replay.reason_holder import tell_holder, tell_silences, tell_vacancy, trouble_of
from aegisipc.eventstore.replay.reason_reading import (
    GroupTale,
    Happening,
    Heard,
    Turn,
    heard_of,
    read_group,
)
from aegisipc.eventstore.replay.reason_signs import tell_signs
from aegisipc.eventstore.replay.reason_standing import never_held, of_pool, tell_standing
from aegisipc.eventstore.replay.reason_steps import Plain, Reason, counted, lasted, moment
from aegisipc.eventstore.replay.reason_words import said_of, why_not
from aegisipc.eventstore.replay.sources import Source

_LATEST: Final = 30
"""Of a pool, and of what happened since the latest change: so many of the latest events."""

_CLEARED_BY: Final[Mapping[type[ev.Event], tuple[str, ...]]] = {
    ev.InstanceRecovered: ("suspected",),
    ev.InstanceHealthy: ("unhealthy",),
    ev.GroupHandoverCancelled: ("handover", "yielded"),
}
"""What is over when that happens."""

_STANDING: Final[Mapping[type[ev.Event], str]] = {
    ev.InstanceSuspected: "suspected",
    ev.InstanceLost: "lost",
    ev.InstanceUnhealthy: "unhealthy",
    ev.InstanceDrainRequested: "drain_requested",
    ev.InstanceDraining: "draining",
    ev.InstanceLeft: "left",
    ev.InstanceYielded: "yielded",
    ev.GroupHandoverStarted: "handover",
}


async def why_group(
    source: Source, service: str, group: str, point: Point, *, on_skip: OnSkip | None = None
) -> Reason:
    """Explain the latest change of a group's pen up to a point: who holds it, or that nobody does.

    Raises:
        UnknownGroup: there is none of that name up to there.
        AegisError: the history cannot be read now.
    """
    tale = await read_group(source, service, group, point.seq)
    reason = Reason("group", {"service": service, "group": group})
    if group == POOL_GROUP:
        return await of_pool(source, tale, reason, point, on_skip)
    if tale.turn is None:
        never_held(tale, reason)
    else:
        await _Change(source, tale, tale.turn, reason, point).tell(on_skip)
    tell_silences(reason, tale, await board_at(source, point), point)
    return reason


class _Change:
    """One change of the pen, to be explained."""

    def __init__(self, source: Source, tale: GroupTale, turn: Turn, reason: Reason, point: Point) -> None:
        self.source, self.tale, self.turn, self.reason, self.point = source, tale, turn, reason, point
        self.before = turn.before
        self.event = turn.happening.event
        self.evidence: Mapping[str, Any] = getattr(self.event, "evidence", {})
        self.former, self.incarnation = turn.before.holder, turn.before.incarnation
        self.seq, self.at_ns = turn.happening.seq, turn.happening.at_ns
        self.heard = Heard()
        self.causes: list[int] = []

    async def tell(self, on_skip: OnSkip | None) -> None:
        """Build the chain, and the answer."""
        service, group = self.tale.service, self.tale.name
        if self.former is not None and self.incarnation is not None:
            self.heard = await heard_of(
                self.source, (service, group, self.former), self.incarnation, self.at_ns, self.point.at_ns
            )
        self._what_was_wrong()
        decision = self._decision()
        fence = self._fence(decision)
        after = await aftermath_of(self.source, service, group, self.seq, self.point.seq, on_skip=on_skip)
        if self.former is not None:
            await read_late(self.source, after, self.turn, service, group, self.point.seq)
        tell_aftermath(self.reason, after, self.turn, fence, self.heard)
        self._what_came_of_the_former(fence)
        tell_holder(self.reason, self.tale, fence)
        tell_standing(self.reason, self.tale)
        self.reason.sort()
        self.reason.answer = self._answer(after)
        self.reason.details = self._details(after)

    # -- before ---------------------------------------------------------------------------------------------

    def _standing(self) -> dict[str, Happening]:
        """What spoke against the former holder, or for another one, when the pen changed hands."""
        standing: dict[str, Happening] = {}
        for happening in self.turn.since:
            event = happening.event
            if not self._is_about_former(happening):
                if isinstance(event, ev.InstanceRegistered) and happening.who == self.former:
                    standing["restarted"] = happening
                continue
            for name in _CLEARED_BY.get(type(event), ()):
                standing.pop(name, None)
            if (name := _STANDING.get(type(event), "")) != "":
                standing[name] = happening
        if "suspected" not in standing and "source" in self.evidence:
            late = next(filter(self._is_same_suspicion, self.tale.after), None)
            if late is not None:
                standing["suspected"] = late
        return standing

    def _is_about_former(self, happening: Happening) -> bool:
        event = happening.event
        if isinstance(event, ev.GroupHandoverStarted | ev.GroupHandoverCancelled):
            return True
        who = getattr(event, "instance", happening.who)
        return who == self.former and getattr(event, "incarnation", "") == self.incarnation

    def _is_same_suspicion(self, happening: Happening) -> bool:
        """The fence is written first, so that the heir need not wait for the suspicion to be durable."""
        event = happening.event
        return (
            isinstance(event, ev.InstanceSuspected)
            and self._is_about_former(happening)
            and event.last_pulse_ns == self.evidence.get("last_pulse_ns")
        )

    def _what_was_wrong(self) -> None:
        standing = self._standing()
        suspected = standing.pop("suspected", None)
        told: Mapping[str, Any] = dict(self.evidence)
        if suspected is not None and isinstance(suspected.event, ev.InstanceSuspected):
            event = suspected.event
            seen = {"source": event.source, "silence_ms": event.silence_ms}
            told = {**seen, "last_pulse_ns": event.last_pulse_ns, **event.evidence, **told}
        signs = tell_signs(self.reason, self.former or "", told, self.heard, self.at_ns)
        if suspected is not None:
            signs = [self._link(suspected, "suspected", signs)]
        chain = {name: self._link_standing(name, standing, signs) for name in standing}
        # A suspicion that is written after the fence is no cause of it, but what it rests on is.
        is_later = suspected is not None and suspected.seq > self.seq
        causes = [*(self._signs_of_chain() if is_later else signs), *chain.values()]
        led_on = {each for link in self.reason.links for each in link.follows if link.number in causes}
        self.causes = [each for each in causes if each not in led_on]
        if self.former is None and self.tale.former is not None:
            self.causes.append(tell_vacancy(self.reason, self.tale.former))

    def _signs_of_chain(self) -> list[int]:
        signs = {"silence", "disconnected", "probe_failed"}
        return [link.number for link in self.reason.links if link.what in signs]

    def _link_standing(self, name: str, standing: Mapping[str, Happening], signs: list[int]) -> int:
        follows = list(signs) if name == "lost" else []
        for earlier in _LED_TO.get(name, ()):
            if earlier in standing:
                follows += [link.number for link in self.reason.links if link.seq == standing[earlier].seq]
        return self._link(standing[name], name, follows)

    def _link(self, happening: Happening, what: str, follows: Iterable[int]) -> int:
        said = said_of(happening.event, happening.who)
        if what == "suspected" and happening.seq > self.seq:
            said += " (written behind the fence, so that the heir need not wait for it)"
        data = happening.event.model_dump(mode="json", exclude={"contract"})
        return self.reason.add(
            what, said, seq=happening.seq, at_ns=happening.at_ns, follows=follows, event=data
        )

    # -- the decision ---------------------------------------------------------------------------------------

    def _decision(self) -> int:
        event, lead = self.event, self.turn.lead
        decided_by = str(getattr(event, "decided_by", ""))
        follows = list(self.causes)
        if lead.router is not None and lead.since_ns:
            elected = self.turn.elected.event if self.turn.elected is not None else None
            cause = f": {elected.cause}" if isinstance(elected, ev.RouterElected) else ""
            said = f"router {lead.router} leads term {lead.term}{cause}"
            follows.append(
                self.reason.add("elected", said, seq=lead.seq, at_ns=lead.since_ns, term=lead.term)
            )
        if isinstance(event, ev.GroupPromoted):
            follows += self._heir(event)
            author = f", as {event.author} wants it" if event.author else ""
            said = f"router {decided_by} decides: {event.holder} is to be active ({event.kind}){author}"
        else:
            said = f"router {decided_by} decides: nobody can be active"
        said += f", because {getattr(event, 'cause', '')}"
        term = lead.term if lead.router == decided_by else None
        return self.reason.add(
            "decided",
            said,
            seq=self.seq,
            at_ns=self.at_ns,
            follows=follows,
            decided_by=decided_by,
            term=term,
            event=event.model_dump(mode="json"),
            others=self._others(),
        )

    def _heir(self, event: ev.GroupPromoted) -> list[int]:
        heir = self.before.instance(event.holder, event.incarnation)
        ready = self.tale.ready.get(event.holder)
        if heir is None or ready is None or getattr(ready.event, "incarnation", "") != event.incarnation:
            return []
        said = f"{heir.id} had read the log, and was ready (registered at sequence {heir.registered_seq})"
        return [self.reason.add("ready", said, seq=ready.seq, at_ns=ready.at_ns)]

    def _others(self) -> list[Plain]:
        """Who else was there, and why that one was not chosen."""
        holder = getattr(self.event, "holder", None)
        heir = self.before.instance(holder) if holder is not None else None
        others = [
            each for each in self.before.instances if each.is_live and each.id not in (holder, self.former)
        ]
        told = [{"instance": each.id, "why_not": why_not(each, heir)} for each in others]
        for each in told[:_LATEST]:
            self.reason.notes.append(f"{each['instance']} was not chosen: {each['why_not']}")
        return told[:_LATEST]

    def _fence(self, decision: int) -> int:
        epoch, holder = self.before.epoch, getattr(self.event, "holder", None)
        refused = f"what {self.former} writes as epoch {epoch} is refused from here on" if self.former else ""
        if holder is None:
            said = f"the fence moves to sequence {self.seq}: {refused or 'nobody may write'}"
        else:
            given = f"{holder} holds the pen as epoch {getattr(self.event, 'epoch', 0)}"
            said = f"the fence moves to sequence {self.seq}: {given}" + (f"; {refused}" if refused else "")
        return self.reason.add(
            "fence",
            said,
            seq=self.seq,
            at_ns=self.at_ns,
            follows=[decision],
            epoch=getattr(self.event, "epoch", None),
            former_epoch=epoch,
            former_holder=self.former,
        )

    # -- after ----------------------------------------------------------------------------------------------

    def _what_came_of_the_former(self, fence: int) -> None:
        if self.former is None:
            return
        wanted = (ev.InstanceRecovered, ev.InstanceLost, ev.InstanceLeft, ev.InstanceRegistered)
        told = 0
        for happening in self.tale.after:
            who = getattr(happening.event, "instance", happening.who)
            if who != self.former or not isinstance(happening.event, wanted) or told >= _LATEST:
                continue
            told += 1
            what = happening.event.type.split(".")[1]
            suspected = [each.number for each in self.reason.links if each.what == "suspected"]
            follows = suspected[-1:] if what in ("recovered", "lost") else []
            self._link(happening, what, follows or [fence])
        if self.heard.again is not None and "source" in self.evidence:
            gap_ns = self.heard.again.at_ns - self.heard.last.at_ns if self.heard.last is not None else 0
            gap = f", {lasted(gap_ns)} after the one before" if gap_ns else ""
            self.reason.add(
                "heard_again",
                f"{self.former} is heard again{gap}: it was frozen or cut off, not dead",
                at_ns=self.heard.again.at_ns,
                follows=[fence],
                gap_ms=gap_ns // 1_000_000,
            )

    # -- the answer -----------------------------------------------------------------------------------------

    def _answer(self, after: Aftermath) -> str:
        name = f"{self.tale.service}/{self.tale.name}"
        event = self.event
        if isinstance(event, ev.GroupPromoted):
            lead = f"{name}: {event.holder} is active at epoch {event.epoch}"
        else:
            lead = f"{name}: nobody is active"
        cause = str(getattr(event, "cause", ""))
        if self.former is None and self.tale.former is not None:
            cause += f" (nobody was active for {lasted(self.at_ns - self.tale.former.happening.at_ns)})"
        calls = _calls_said(after, event, f"--service {self.tale.service} --group {self.tale.name}")
        return f"{lead} since {moment(self.at_ns)}, because {cause}.{trouble_of(self.tale)} {calls}"

    def _details(self, after: Aftermath) -> Plain:
        event = self.event
        return {
            "holder": getattr(event, "holder", None),
            "epoch": getattr(event, "epoch", None) if isinstance(event, ev.GroupPromoted) else None,
            "since_ns": self.at_ns,
            "fence_seq": self.seq,
            "former_holder": self.former,
            "former_epoch": self.before.epoch,
            "cause": getattr(event, "cause", ""),
            "open_at_change": after.open,
            "begun_at_change": after.may_have_run,
            "doubts": [fate.to_plain() for fate in after.in_doubt],
            "late_frames": after.late_frames,
            "first_outcome": after.first.to_plain() if after.first is not None else None,
        }


_LED_TO: Final[Mapping[str, tuple[str, ...]]] = {
    "handover": ("unhealthy",),
    "yielded": ("handover", "unhealthy"),
    "draining": ("drain_requested",),
    "left": ("draining",),
}


def _calls_said(after: Aftermath, event: ev.Event, group: str) -> str:
    doubts = after.in_doubt
    if not after.open:
        return "No call was open at that change."
    opened = f"{counted(after.open, 'call was', 'calls were')} open at that change"
    said = f"{opened}, {after.may_have_run} of them claimed"
    if not isinstance(event, ev.GroupPromoted):
        return f"{said}; they wait for the next holder."
    if not doubts:
        return f"{said}; none in doubt{' so far' if after.may_have_run else ''}."
    waiting = [fate for fate in doubts if not fate.is_settled]
    if not waiting:
        return f"{said}; {counted(len(doubts), 'call')} in doubt, all ended."
    one = f"aegis doubt show {format_call_id(waiting[0].call_id)}"
    look = one if len(waiting) == 1 else f"aegis doubt list {group}"
    return f"{said}; {counted(len(doubts), 'call')} in doubt, {len(waiting)} without an outcome yet ({look})."
