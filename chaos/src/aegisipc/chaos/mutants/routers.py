"""Defects in routers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break
from aegisipc.eventstore.subjects import PEN

_ROUTER: Final = "aegisipc.router.application.router"
_PEN: Final = "aegisipc.router.domain.pen:Pen"
_GONE: Final = (Break.KILL, Break.FREEZE)


def _expects_nothing(_: Any) -> Callable[..., None]:
    def expect(*args: Any) -> None:  # noqa: ARG001 - as the original
        return None

    return expect


def _keeps_the_epoch(original: Any) -> Callable[..., Any]:
    def promote(pen: Any, *args: Any, **more: Any) -> Any:
        event = original(pen, *args, **more)
        return event.model_copy(update={"epoch": max(1, pen.group.epoch)})

    return promote


def _keeps_the_term(original: Any) -> Callable[..., Any]:
    def elect(state: Any, *args: Any, **more: Any) -> Any:
        decision = original(state, *args, **more)
        if decision is None:
            return None
        term = max(1, state.topology.leadership.term)
        return decision._replace(event=decision.event.model_copy(update={"term": term}))

    return elect


def _forgets_open_calls(original: Any) -> Callable[..., Any]:
    def load(plain: Any, subjects: Any) -> Any:
        state = original(plain, subjects)
        for calls in state.calls.values():
            calls.open.clear()
        return state

    return load


def _writes_no_open_calls(original: Any) -> Callable[[Any], list[Any]]:
    def dump(state: Any) -> list[Any]:
        plain: list[Any] = original(state)
        for _, _, calls in plain[_CALLS_AT]:
            calls[_OPEN_AT] = []
        return plain

    return dump


def _forgets_frames(original: Any) -> Callable[..., Any]:
    def load(plain: Any, subjects: Any) -> Any:
        state = original(plain, subjects)
        for calls in state.calls.values():
            calls.sessions.load([])
        return state

    return load


_CALLS_AT: Final = 5
"""Where the calls are in a dump of the system's state, as ``dump_state`` makes it."""
_OPEN_AT: Final = 6
"""And where in those the open ones are, as ``dump_calls`` makes it."""


def _misses_conclusions(original: Any) -> Callable[[Any, Any], None]:
    """A router takes no notice of the pen frames of a group's first writer in every epoch but the first."""

    def on_record(router: Any, record: Any) -> None:
        place = router.subjects.parse(record.subject)
        view = router.state.topology.group(place.service, place.group)
        if place.kind == PEN and view is not None and view.epoch > 1:
            router.state.position = record.seq
            return
        original(router, record)

    return on_record


OF_ROUTERS: Final = (
    Mutant(
        "promote-without-cas",
        "a router appends its decisions without the expectation that nobody has decided since",
        ("G4", "epochs"),
        (Change(f"{_ROUTER}:Expect", _expects_nothing),),
        known_seed=0,
        steer=steering.two_routers(
            steering.owned("place", "add", kinds=_GONE, times=3), Break.FREEZE, Break.PARTITION
        ),
        needs="two routers that both believe to lead",
    ),
    Mutant(
        "promote-in-the-same-epoch",
        "a router promotes another instance without raising the epoch",
        ("G4", "epochs"),
        (Change(f"{_PEN}.promote", _keeps_the_epoch),),
        known_seed=2,
        steer=steering.owned("place", "add", kinds=_GONE),
        needs="a failover",
    ),
    Mutant(
        "elect-in-the-same-term",
        "a router takes the lead without raising the term",
        ("epochs",),
        (Change(f"{_ROUTER}:elect", _keeps_the_term),),
        known_seed=3,
        steer=steering.two_routers(steering.owned("add"), Break.KILL, Break.FREEZE),
        needs="a leader that is gone",
    ),
    Mutant(
        "snapshot-without-open-calls",
        "a router that starts from a snapshot does not know the calls that were open then",
        ("G8",),
        (Change("aegisipc.eventstore.system_snapshots:_load", _forgets_open_calls),),
        known_seed=2,
        steer=steering.with_snapshots(steering.owned("place", "add", works_s=(0.3,)), Break.KILL),
        needs="a router that is started again from a snapshot",
    ),
    Mutant(
        "write-no-open-calls",
        "a router leaves the calls that are open out of the snapshots that it writes",
        ("G8",),
        (Change("aegisipc.router.application.snapshotting:dump_state", _writes_no_open_calls),),
        known_seed=0,
        steer=steering.with_snapshots(steering.owned("place", "add", works_s=(0.3,)), Break.FREEZE),
        needs="snapshots that are written while calls are open",
    ),
    Mutant(
        "forget-frames-at-a-snapshot",
        "a router that starts from a snapshot does not know which frames it has seen",
        ("G8",),
        (Change("aegisipc.eventstore.system_snapshots:_load", _forgets_frames),),
        known_seed=0,
        steer=steering.with_snapshots(steering.owned("place", "add", works_s=(0.02,)), Break.KILL),
        needs="snapshots",
    ),
    Mutant(
        "fold-otherwise",
        "a router takes no notice of conclusions after a failover",
        ("G8",),
        (Change(f"{_ROUTER}:Router._on_record", _misses_conclusions),),
        known_seed=2,
        steer=steering.owned("place", "add", kinds=_GONE),
        needs="a failover",
    ),
)
