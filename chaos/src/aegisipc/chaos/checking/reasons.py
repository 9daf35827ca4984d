"""Whether a router had a reason to move a group's pen, by what stood in the log when it decided.

Each check is given one decision and one standing of the group, as its router may have read it by then, and
returns what speaks against it, or ``None``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from aegisipc.chaos.checking.membership import (
    HANDOVER,
    Member,
    Phase,
    Standing,
    evidence_of,
    number_of,
    text_of,
)
from aegisipc.chaos.log_facts import PROMOTED, VACATED, LogEvent

_MS: Final = 1_000_000
_MOST_TOLD: Final = 8
"""Of so many members that are ready a decision gives the names."""
_IN_DOUBT: Final = "suspected_"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a router decided: its record, the patience that it wrote down when it was elected, and the error
    of the clocks. ``elected_seq`` is where it was elected last.
    """

    event: LogEvent
    policy: dict[str, Any]
    slack_ns: int
    elected_seq: int = 0

    @property
    def author(self) -> str:
        """The operator who asked for it, if one did."""
        return text_of(self.event, "author")

    @property
    def evidence(self) -> dict[str, Any]:
        """What its router saw."""
        return evidence_of(self.event)

    def heir(self, standing: Standing) -> Member | None:
        """Return the member that is to hold the pen."""
        name, run = ("to", "to_incarnation") if self.event.type == HANDOVER else ("holder", "incarnation")
        return standing.member(text_of(self.event, name), text_of(self.event, run))

    def is_overdue(self, since_ns: int) -> bool:
        """Whether a holder had as long as it may to finish what it ran."""
        patience_ns = number_of(self.policy, "handover_ms") * _MS
        return self.event.at_ns - since_ns >= patience_ns - self.slack_ns


def why_not(decision: Decision, standings: Iterable[Standing]) -> str | None:
    """Return what speaks against a decision, in whichever of these ways the group stood; ``None`` if in one
    of them nothing does. What is told is of the first one that fits what the router says of the group.
    """
    against = misread = None
    for standing in standings:
        if (wrong := _misread(decision, standing)) is not None:
            misread = misread or wrong
            continue
        why = _CHECKS[decision.event.type](decision, standing)
        if why is None:
            return None
        against = against or why
    return against or misread


def _misread(decision: Decision, standing: Standing) -> str | None:
    """What a decision says of the group as it was is so."""
    evidence = decision.evidence
    ready = [member.name for member in standing.members.values() if member.is_ready]
    told = evidence.get("ready", ready[:_MOST_TOLD])
    if told != ready[:_MOST_TOLD]:
        return f"it takes {_listed(told)} to be ready, and by the log {_listed(ready)}"
    holder, epoch = standing.holder or None, standing.epoch
    former = evidence.get("former_holder", holder), evidence.get("former_epoch", epoch)
    if former != (holder, epoch):
        return f"it takes {former[0]} in epoch {former[1]} for the former holder, and it was {holder}"
    state, last = evidence.get("former_state"), standing.members.get(standing.holder)
    if isinstance(state, str) and last is not None and _plain(state) != _state_of(last):
        return f"it takes {last.name} for {state}, and by the log it was {' '.join(_state_of(last))}"
    return None


def _plain(state: str) -> tuple[str, ...]:
    """Return a state in the checker's words: who is active and who stands by is told by the pen."""
    rest = state.removeprefix(_IN_DOUBT)
    plain = "ready" if rest in ("active", "standby") else rest
    return ("suspected", plain) if rest != state else (plain,)


def _state_of(member: Member) -> tuple[str, ...]:
    return ("suspected", str(member.phase)) if member.suspected_ns is not None else (str(member.phase),)


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list | tuple) and names else "nobody"


# -- who is to hold it ---------------------------------------------------------------------------------------


def _unfit(decision: Decision, standing: Standing) -> str | None:
    heir = decision.heir(standing)
    if heir is None:
        return "whoever gets it is no member of the group in that incarnation"
    return f"{heir.name}, who gets it, {heir.unfit}" if heir.unfit is not None else None


# -- promotions ----------------------------------------------------------------------------------------------


def _promotion(decision: Decision, standing: Standing) -> str | None:
    if (unfit := _unfit(decision, standing)) is not None:
        return unfit
    holding = standing.holding
    if holding is None:
        return _after_the_gone(decision, standing)
    if "source" in decision.evidence:
        if decision.heir(standing) == holding:
            return f"{holding.name} held it already"
        return (
            _no_doubt(decision, holding)
            or _quarantined(decision, standing, holding)
            or _not_called(decision, "planned" if standing.has_yielded else "failover")
            or _not_because(decision, f"holder {holding.name!r} is suspected: ")
        )
    return _over_the_sound(decision, standing, holding)


def _after_the_gone(decision: Decision, standing: Standing) -> str | None:
    is_first, is_finished = standing.epoch == 0, standing.is_finished
    kinds = ["first" if is_first else "planned" if is_finished else "failover"]
    if decision.author:
        kinds.append("planned" if is_finished or not standing.holder else "failover")
    last = standing.members.get(standing.holder)
    if not standing.holder:
        why = "first instance of the group" if is_first else "vacant: "
    elif last is None:
        why = f"holder {standing.holder!r} is unknown"
    elif last.incarnation != standing.incarnation:
        why = f"holder {last.name!r} was restarted"
    else:
        why = f"holder {last.name!r} {'left' if last.phase is Phase.LEFT else 'was lost'}"
    return _not_called(decision, *kinds) or _not_because(decision, why)


def _over_the_sound(decision: Decision, standing: Standing, holding: Member) -> str | None:
    """Nobody doubts that the holder lives: it has finished, or had its time to."""
    handover, heir = standing.handover, decision.heir(standing)
    is_named = (
        handover is not None
        and heir is not None
        and (handover.to, handover.to_incarnation) == (heir.name, heir.incarnation)
    )
    asked = f"holder {holding.name!r} is unhealthy: "  # unless by an operator
    if standing.has_yielded:
        if handover is not None and not is_named and not decision.author:
            return f"{holding.name} was to hand over to {handover.to}"
        return _not_called(decision, "planned") or _not_because(decision, asked)
    if handover is not None and is_named and decision.is_overdue(handover.at_ns):
        return _not_called(decision, "failover") or _not_because(decision, asked)
    if holding.phase is Phase.DRAINING and decision.is_overdue(holding.draining_ns):
        return _not_called(decision, "failover") or _not_because(
            decision, f"holder {holding.name!r} is draining"
        )
    if handover is not None and is_named:
        return f"{holding.name}, who held it, had not yielded it yet, and still had time to"
    return f"{holding.name}, who held it, was there, and nothing is said against it"


def _not_called(decision: Decision, *kinds: str) -> str | None:
    said = text_of(decision.event, "kind")
    return None if said in kinds else f"it is called {said}, and by the log it was {' or '.join(kinds)}"


def _not_because(decision: Decision, why: str) -> str | None:
    """The cause that is given is the one that there was, or that an operator asked for it."""
    cause = text_of(decision.event, "cause")
    if why in cause or (decision.author and cause.startswith(f"promoted by {decision.author}")):
        return None
    return f"by the log the cause was: {why.removesuffix(': ')}"


def _quarantined(decision: Decision, standing: Standing, holding: Member) -> str | None:
    """Who runs nothing does not replace one that may live, unless it was named."""
    heir, handover = decision.heir(standing), standing.handover
    if heir is None or not heir.is_quarantined or holding.is_quarantined or decision.author:
        return None
    if handover is not None and (handover.to, handover.to_incarnation) == (heir.name, heir.incarnation):
        return None
    return f"{heir.name}, who gets it, is in quarantine, and {holding.name} may live"


# -- doubts --------------------------------------------------------------------------------------------------


def _no_doubt(decision: Decision, holding: Member) -> str | None:
    """What the router says of the holder is enough to doubt that it lives, and agrees with what was written
    of it before. Who suspects need not have written so before it promotes another.
    """
    evidence, name = decision.evidence, holding.name
    last_ns = number_of(evidence, "last_pulse_ns")
    if 0 < last_ns < holding.heard_ns and _is_own_word(decision, holding):
        return f"it says that {name} was last heard of at {last_ns}, and had written {holding.heard_ns}"
    check = _DOUBTS.get(str(evidence.get("source")))
    return check(decision, holding, last_ns) if check else f"it gives no doubt about {name} that counts"


def _is_own_word(decision: Decision, holding: Member) -> bool:
    return (
        holding.heard_by == text_of(decision.event, "decided_by") and holding.heard_seq > decision.elected_seq
    )


def _not_silent(decision: Decision, holding: Member, last_ns: int) -> str | None:
    evidence, name = decision.evidence, holding.name
    if "suspect_after_ms" not in evidence:
        return _not_since(holding, last_ns)
    limit_ms, silence_ms = number_of(evidence, "suspect_after_ms"), number_of(evidence, "silence_ms")
    wanted_ms = decision.policy.get("suspect_after_ms", limit_ms)
    if limit_ms != wanted_ms:
        return f"{name} is suspected after {limit_ms} ms of silence, and by its router's policy {wanted_ms}"
    if silence_ms <= limit_ms:
        return f"{name} had been silent for {silence_ms} ms, and is suspected after {limit_ms}"
    if last_ns and number_of(evidence, "now_ns") - last_ns < silence_ms * _MS:
        return f"{name} was heard of at {last_ns}, which is less than {silence_ms} ms before"
    return None


def _not_since(holding: Member, last_ns: int) -> str | None:
    """Who is suspected in the log stays so until there is a pulse that was not known then."""
    if holding.suspected_ns is None:
        return f"{holding.name} had recovered, or was never suspected"
    if last_ns > holding.suspected_ns:
        return f"{holding.name} was suspected, and has given a pulse since, at {last_ns}"
    return None


def _not_cut_off(decision: Decision, holding: Member, last_ns: int) -> str | None:
    """A pulse may be under way for half as long as the silence that is suspicious."""
    ended_ns = number_of(decision.evidence, "disconnected_ns")
    way_ns = number_of(decision.policy, "suspect_after_ms") * _MS // 2
    if not last_ns or (way_ns and last_ns > ended_ns + way_ns):
        return f"{holding.name} was heard of after its connection had ended, or never"
    return None


def _not_deaf(decision: Decision, holding: Member, _: int) -> str | None:
    if number_of(decision.evidence, "probe_failed_ns") > 0:
        return None
    return f"{holding.name} is said to answer no probes, and not since when"


_DOUBTS: Final[dict[str, Callable[[Decision, Member, int], str | None]]] = {
    "silence": _not_silent,
    "disconnect": _not_cut_off,
    "probe": _not_deaf,
}


# -- what else takes a holder its pen ------------------------------------------------------------------------


def _handover(decision: Decision, standing: Standing) -> str | None:
    """A holder is asked to finish because an operator wants another one, or because it is unhealthy."""
    holding = standing.holding
    if holding is None or standing.handover is not None:
        return "nobody was there to hand over, or somebody did so already"
    if (unfit := _unfit(decision, standing)) is not None:
        return unfit
    if not decision.author and not holding.is_unhealthy:
        return f"{holding.name}, who is to hand over, was healthy, and nobody asked for it"
    return None


def _vacancy(decision: Decision, standing: Standing) -> str | None:
    holding = standing.holding
    if holding is not None:
        if holding.is_unhealthy and standing.has_yielded:
            return None
        return f"{holding.name}, who held it, was there, and had not yielded it for its health"
    able = [member.name for member in standing.members.values() if member.unfit is None]
    if able:
        return f"{_listed(able)} could have followed"
    told = decision.evidence.get("finished", standing.is_finished)
    return None if told is standing.is_finished else f"that the holder had finished is said to be {told}"


_CHECKS: Final[dict[str, Callable[[Decision, Standing], str | None]]] = {
    PROMOTED: _promotion,
    HANDOVER: _handover,
    VACATED: _vacancy,
}

CHECKED: Final = frozenset(_CHECKS)
"""Types of the decisions that are looked at."""
