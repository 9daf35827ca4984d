"""Defects in why routers move a pen, and in whom they choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break

_PEN: Final = "aegisipc.router.domain.pen:Pen"
_GONE: Final = (Break.KILL, Break.FREEZE)
_NEVER_NS: Final = 1 << 62


def _never_heard_since(_: Any) -> Callable[[Any, Any], int]:
    """No pulse counts as one that was given after the suspicion."""

    def pulse_at_suspicion_ns(state: Any, instance: Any) -> int:  # noqa: ARG001 - as the original
        return _NEVER_NS

    return pulse_at_suspicion_ns


def _loses_patience(original: Any) -> Callable[[Any, Any], Any]:
    def trouble(pen: Any, instance: Any) -> Any:
        policy = pen.policy
        hasty = replace(policy, suspect_after_ms=policy.suspect_after_ms // 4)
        return original(replace(pen, policy=hasty), instance)

    return trouble


def _replaces_the_sound(original: Any) -> Callable[[Any, Any], Any]:
    """A standby that is ready takes over from a sound holder, once in the life of a group."""

    def relieve(pen: Any, holder: Any) -> Any:
        others = [member for member in pen.group.ready() if member is not holder]
        if pen.group.epoch > 1 or not others:
            return original(pen, holder)
        return pen.promote(others[0], "failover", f"holder {holder.id!r} was there before")

    return relieve


def _takes_the_unready(original: Any) -> Callable[..., Any]:
    """Somebody who has just joined is preferred to those that have read the log."""

    def heir(pen: Any, *, sound: bool = True) -> Any:
        joining = (
            m for m in pen.group.live() if not m.is_ready and pen.group.epoch and m is not pen.holder()
        )
        return next(joining, None) or original(pen, sound=sound)

    return heir


def _takes_the_gone(original: Any) -> Callable[..., Any]:
    """Where nobody is there to follow, one that was lost or has left is promoted."""

    def heir(pen: Any, *, sound: bool = True) -> Any:
        gone = (member for member in pen.group.instances.values() if not member.is_live)
        return original(pen, sound=sound) or next(gone, None)

    return heir


def _always_leads(_: Any) -> Callable[[Any, Any], bool]:
    def leads(state: Any, me: Any) -> bool:  # noqa: ARG001 - as the original
        return state.topology.leadership.router is not None

    return leads


def _takes_the_silent(_: Any) -> Callable[..., Any]:
    """First come, first served, also of those that are in doubt themselves."""

    def heir(pen: Any, *, sound: bool = True) -> Any:  # noqa: ARG001 - as the original
        ready = [m for m in pen.group.ready() if m.is_eligible and m.id != pen.group.holder]
        return min(ready, key=lambda member: member.registered_seq, default=None)

    return heir


OF_FAILOVERS: Final = (
    Mutant(
        "fail-over-the-recovered",
        "a holder that was suspected and gives pulses again is replaced all the same",
        ("failovers",),
        (Change("aegisipc.eventstore.system:SystemState.pulse_at_suspicion_ns", _never_heard_since),),
        known_seed=5,
        steer=steering.owned("place", "add", kinds=_GONE, times=5, for_s=(1.2, 1.6, 2.5)),
        needs="a holder that comes back before anybody could follow it",
    ),
    Mutant(
        "lose-patience",
        "a router replaces a holder after a quarter of the silence that it is to allow",
        ("failovers",),
        (Change(f"{_PEN}.trouble", _loses_patience),),
        known_seed=0,
        steer=steering.owned("place", "add"),
        needs="two instances",
    ),
    Mutant(
        "replace-the-sound",
        "a router promotes a standby over a holder that nothing is said against",
        ("failovers",),
        (Change(f"{_PEN}._relieve", _replaces_the_sound),),
        known_seed=0,
        steer=steering.owned("add"),
        needs="two instances",
    ),
    Mutant(
        "promote-the-unready",
        "a router gives the pen to an instance that has not read the log yet",
        ("failovers",),
        (Change(f"{_PEN}.heir", _takes_the_unready),),
        known_seed=1,
        steer=steering.owned("place", "add", kinds=_GONE, times=4),
        needs="a failover while somebody joins",
    ),
    Mutant(
        "promote-the-gone",
        "a router gives the pen to an instance that it has lost, if nobody else is there",
        ("failovers",),
        (Change(f"{_PEN}.heir", _takes_the_gone),),
        known_seed=0,
        steer=steering.owned("place", "add", kinds=(Break.FREEZE,), times=4, for_s=(4.0, 6.0)),
        needs="a group of which all are gone",
    ),
    Mutant(
        "promote-the-silent",
        "a router replaces a holder in doubt by a standby that is in doubt itself",
        ("failovers",),
        (Change(f"{_PEN}.heir", _takes_the_silent),),
        known_seed=1,
        steer=steering.owned("place", "add", kinds=(Break.FREEZE,), times=5, for_s=(1.5, 2.5)),
        needs="two instances that are silent at once",
    ),
    Mutant(
        "decide-without-the-lead",
        "a router decides although another one leads",
        ("failovers",),
        (Change("aegisipc.router.application.router:leads", _always_leads),),
        known_seed=1,
        steer=steering.two_routers(steering.owned("place", "add", kinds=_GONE, times=3)),
        needs="two routers",
    ),
)
