"""Who belongs to a group, who holds its pen, and how each member is, as the log tells it record by record.

Told here once more, by simple rules, and taken over from no fold: who decides is judged by it. A word about
another incarnation than the present one of a member is about nobody. Times are the server's, in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from aegisipc.chaos.log_facts import PROMOTED, REGISTERED, RESUMED, VACATED, LogEvent
from aegisipc.eventstore.subjects import GROUP_WHO, WATCH_WHO

HANDOVER: Final = "group.handover_started.v1"
CALLED_OFF: Final = "group.handover_cancelled.v1"
SUSPECTED: Final = "instance.suspected.v1"
RECOVERED: Final = "instance.recovered.v1"
LOST: Final = "instance.lost.v1"
_HEALTHY: Final = "instance.healthy.v1"


class Phase(StrEnum):
    """How far a member is. Suspicion is beside it."""

    JOINING = "joining"
    READY = "ready"
    DRAINING = "draining"
    LEFT = "left"
    LOST = "lost"
    REFUSED = "refused"


_GONE: Final = frozenset({Phase.LEFT, Phase.LOST, Phase.REFUSED})


@dataclass(frozen=True, slots=True)
class Member:
    """One run of an instance. ``suspected_ns`` is the last pulse that was known of it when it was suspected,
    ``None`` if it is not; ``heard_ns`` the latest pulse of which a router wrote, ``heard_by`` which one did,
    and ``heard_seq`` where.
    """

    name: str
    incarnation: str
    phase: Phase = Phase.JOINING
    is_admitted: bool = False
    is_quarantined: bool = False
    is_asked_to_drain: bool = False
    is_unhealthy: bool = False
    has_finished: bool = False
    draining_ns: int = 0
    suspected_ns: int | None = None
    heard_ns: int = 0
    heard_by: str = ""
    heard_seq: int = 0

    @property
    def is_there(self) -> bool:
        """Whether it has not left, and was neither lost nor refused."""
        return self.phase not in _GONE

    @property
    def is_ready(self) -> bool:
        """Whether it has its place, and has read the log."""
        return self.is_admitted and self.phase is Phase.READY

    @property
    def unfit(self) -> str | None:
        """Why it may not be given the pen, ``None`` if nothing forbids it for ever. See the checks for
        suspicion and quarantine, which do so at times.
        """
        if not self.is_there:
            return "had left" if self.phase is Phase.LEFT else f"was {self.phase}"
        if not self.is_admitted:
            return "was not admitted"
        if self.phase is Phase.DRAINING:
            return "was draining"
        if self.phase is Phase.JOINING:
            return "was not ready"
        if self.is_asked_to_drain:
            return "was asked to drain"
        return "was unhealthy" if self.is_unhealthy else None


@dataclass(frozen=True, slots=True)
class Handover:
    """A planned change of the holder that is under way."""

    to: str
    to_incarnation: str
    author: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What is so in a group between two records. ``holder`` and ``incarnation`` are empty if it is vacant;
    ``was_finished`` says then whether the last holder had concluded what it ran.
    """

    members: dict[str, Member] = field(default_factory=dict)
    """In the order of their registrations."""
    holder: str = ""
    incarnation: str = ""
    epoch: int = 0
    handover: Handover | None = None
    has_yielded: bool = False
    was_finished: bool = False

    def member(self, name: str, incarnation: str) -> Member | None:
        """Return that run of an instance, if it is the present one."""
        found = self.members.get(name)
        return found if found is not None and found.incarnation == incarnation else None

    @property
    def holding(self) -> Member | None:
        """Who holds the pen, if that run of it is still there."""
        found = self.member(self.holder, self.incarnation)
        return found if found is not None and found.is_there else None

    @property
    def is_finished(self) -> bool:
        """Whether the last holder, who is not there any more, had concluded what it ran."""
        if not self.holder:
            return self.was_finished or self.epoch == 0
        last = self.member(self.holder, self.incarnation)
        return self.has_yielded or (last is not None and last.phase is Phase.LEFT and last.has_finished)

    def with_member(self, member: Member) -> Standing:
        """Return it with a member as that is now."""
        return replace(self, members={**self.members, member.name: member})


def after(standing: Standing, event: LogEvent) -> Standing:
    """Return what is so after a record; the same object, if nothing has changed. What is said in a place
    where it is not for its writer to say does not count.
    """
    if event.by == GROUP_WHO:
        move = _OF_FENCE.get(event.type)
        return standing if move is None else move(standing, event)
    if event.by == WATCH_WHO:
        if event.type == RESUMED:
            return _resume(standing)
        return _change(standing, event, text_of(event, "instance"), _OF_WATCH.get(event.type))
    if event.type == REGISTERED:
        return _register(standing, event)
    if event.type == "instance.yielded.v1":
        return _yield(standing, event)
    changed = _change(standing, event, event.by, _OF_OWN.get(event.type))
    holds_on = event.type == _HEALTHY and event.by == standing.holder and standing.handover is None
    return replace(changed, has_yielded=False) if holds_on and changed is not standing else changed


def _change(
    standing: Standing, event: LogEvent, name: str, change: Callable[[Member, LogEvent], Member] | None
) -> Standing:
    member = standing.member(name, text_of(event, "incarnation"))
    if member is None or change is None:
        return standing
    changed = change(member, event)
    return standing if changed == member else standing.with_member(changed)


def _resume(standing: Standing) -> Standing:
    """Also ends the quarantine of all who are there."""
    members = {name: replace(member, is_quarantined=False) for name, member in standing.members.items()}
    return replace(standing, members=members)


def text_of(event: LogEvent, name: str) -> str:
    """Return a text in an event; empty, if there is none."""
    value = event.data.get(name)
    return value if isinstance(value, str) else ""


def number_of(data: dict[str, Any], name: str) -> int:
    """Return a whole number; 0, if there is none."""
    value = data.get(name)
    return value if isinstance(value, int) else 0


def evidence_of(event: LogEvent) -> dict[str, Any]:
    """Return what a router wrote down of why it decided."""
    value = event.data.get("evidence")
    return value if isinstance(value, dict) else {}


# -- members -------------------------------------------------------------------------------------------------


def _register(standing: Standing, event: LogEvent) -> Standing:
    incarnation = text_of(event, "incarnation")
    if standing.member(event.by, incarnation) is not None:
        return standing  # the record was stored twice
    others = {name: member for name, member in standing.members.items() if name != event.by}
    quarantined = event.data.get("quarantined") is True
    others[event.by] = Member(event.by, incarnation, is_quarantined=quarantined)
    return replace(standing, members=others)


def _admit(member: Member, _: LogEvent) -> Member:
    return replace(member, is_admitted=True) if member.is_there else member


def _refuse(member: Member, _: LogEvent) -> Member:
    return replace(member, phase=Phase.REFUSED) if member.phase is Phase.JOINING else member


def _ready(member: Member, _: LogEvent) -> Member:
    return replace(member, phase=Phase.READY) if member.phase is Phase.JOINING else member


def _drain(member: Member, event: LogEvent) -> Member:
    if member.phase not in (Phase.JOINING, Phase.READY):
        return member
    return replace(member, phase=Phase.DRAINING, draining_ns=event.at_ns)


def _ask_to_drain(member: Member, _: LogEvent) -> Member:
    return replace(member, is_asked_to_drain=True)


def _leave(member: Member, event: LogEvent) -> Member:
    if not member.is_there:
        return member
    return replace(
        member, phase=Phase.LEFT, has_finished=event.data.get("finished") is not False, suspected_ns=None
    )


def _suspect(member: Member, event: LogEvent) -> Member:
    if not member.is_there:
        return member
    last_ns = number_of(event.data, "last_pulse_ns")
    return _hear(replace(member, suspected_ns=last_ns), event, last_ns)


def _recover(member: Member, event: LogEvent) -> Member:
    if member.suspected_ns is None or not member.is_there:
        return member
    last_ns = number_of(evidence_of(event), "last_pulse_ns")
    return _hear(replace(member, suspected_ns=None), event, last_ns)


def _hear(member: Member, event: LogEvent, last_ns: int) -> Member:
    return replace(member, heard_ns=last_ns, heard_by=text_of(event, "decided_by"), heard_seq=event.seq)


def _lose(member: Member, _: LogEvent) -> Member:
    """It counts only after a suspicion: that is the order in which they are decided."""
    if member.suspected_ns is None or not member.is_there:
        return member
    return replace(member, phase=Phase.LOST, suspected_ns=None)


_OF_OWN: Final[dict[str, Callable[[Member, LogEvent], Member]]] = {
    "instance.ready.v1": _ready,
    "instance.draining.v1": _drain,
    "instance.left.v1": _leave,
    "instance.unhealthy.v1": lambda member, _: replace(member, is_unhealthy=True),
    _HEALTHY: lambda member, _: replace(member, is_unhealthy=False),
}
_OF_WATCH: Final[dict[str, Callable[[Member, LogEvent], Member]]] = {
    "instance.admitted.v1": _admit,
    "instance.refused.v1": _refuse,
    "instance.drain_requested.v1": _ask_to_drain,
    SUSPECTED: _suspect,
    RECOVERED: _recover,
    LOST: _lose,
}


# -- the pen -------------------------------------------------------------------------------------------------


def is_said_again(standing: Standing, event: LogEvent) -> bool:
    """Whether a promotion names the holder of this epoch once more, as the fence of old records needs it."""
    held = (standing.epoch, standing.holder, standing.incarnation)
    named = number_of(event.data, "epoch"), text_of(event, "holder"), text_of(event, "incarnation")
    return held == named and standing.epoch > 0


def _promote(standing: Standing, event: LogEvent) -> Standing:
    if is_said_again(standing, event) and standing.handover is None:
        return standing
    return replace(
        standing,
        holder=text_of(event, "holder"),
        incarnation=text_of(event, "incarnation"),
        epoch=number_of(event.data, "epoch"),
        handover=None,
        has_yielded=False,
    )


def _vacate(standing: Standing, event: LogEvent) -> Standing:
    finished = evidence_of(event).get("finished") is True
    return replace(
        standing, holder="", incarnation="", handover=None, has_yielded=False, was_finished=finished
    )


def _begin_handover(standing: Standing, event: LogEvent) -> Standing:
    if not standing.holder or standing.handover is not None or not _is_of_epoch(standing, event):
        return standing
    to, incarnation = text_of(event, "to"), text_of(event, "to_incarnation")
    return replace(standing, handover=Handover(to, incarnation, text_of(event, "author"), event.at_ns))


def _call_off(standing: Standing, event: LogEvent) -> Standing:
    if standing.handover is None or not _is_of_epoch(standing, event):
        return standing
    return replace(standing, handover=None, has_yielded=False)


def _is_of_epoch(standing: Standing, event: LogEvent) -> bool:
    return number_of(event.data, "epoch") == standing.epoch


def _yield(standing: Standing, event: LogEvent) -> Standing:
    """That the holder is done counts only if somebody asked for it: a handover, or its own health."""
    is_holders = (event.by, text_of(event, "incarnation")) == (standing.holder, standing.incarnation)
    member = standing.members.get(event.by)
    is_asked = standing.handover is not None or (member is not None and member.is_unhealthy)
    if not (is_holders and is_asked and _is_of_epoch(standing, event)):
        return standing
    return replace(standing, has_yielded=True)


_OF_FENCE: Final[dict[str, Callable[[Standing, LogEvent], Standing]]] = {
    PROMOTED: _promote,
    VACATED: _vacate,
    HANDOVER: _begin_handover,
    CALLED_OFF: _call_off,
}
