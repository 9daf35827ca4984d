"""Defects in clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break

_CALLER: Final = "aegisipc.sdk.core.caller:Caller"
_LOSSES: Final = (Break.ACKS_LOST, Break.SERVER_KILL, Break.SERVER_FREEZE)


def _refuses(original: Any) -> Callable[..., Any]:
    def on_gave_up(caller: Any, frame: Any, error: Any, *, maybe_stored: bool) -> Any:  # noqa: ARG001
        return original(caller, frame, error, maybe_stored=False)

    return on_gave_up


def _latest_first(original: Any) -> Callable[[Any, Any], Any]:
    def next_frame(caller: Any, lane: Any) -> Any:
        lane.queue.reverse()
        return original(caller, lane)

    return next_frame


def _takes_next_for_own(original: Any) -> Callable[[Any, Any], Any]:
    """Outcomes are matched with open calls by their order, not by their ids."""

    def on_outcomes(caller: Any, outcomes: Any) -> Any:
        known = sorted(outcome[0] for outcome in outcomes if outcome[0] in caller.open)
        others = dict(zip(known, [*known[1:], *known[:1]], strict=True))
        return original(
            caller, [(others.get(outcome[0], outcome[0]), outcome[1], outcome[2]) for outcome in outcomes]
        )

    return on_outcomes


def _says_done(_: Any) -> Callable[[Any, Any], None]:
    def judge(call: Any, outcome: Any) -> None:  # noqa: ARG001 - as the original
        return None

    return judge


def _gives_up_early(original: Any) -> Callable[..., Any]:
    """A caller waits for half of its timeout."""

    def submit(
        caller: Any, lane: Any, method: str, body: bytes, timeout_ms: int, *args: Any, **more: Any
    ) -> Any:
        call = original(caller, lane, method, body, timeout_ms, *args, **more)
        call.deadline_ns = more["now_ns"] + timeout_ms * 500_000
        caller._next_deadline_ns = min(caller._next_deadline_ns, call.deadline_ns)
        return call

    return submit


OF_CLIENTS: Final = (
    Mutant(
        "unknown-is-refused",
        "a frame whose acknowledgement never came is reported as not accepted",
        ("G9",),
        (Change(f"{_CALLER}.on_gave_up", _refuses),),
        known_seed=2,
        steer=steering.owned("place", "add", kinds=(Break.ACKS_LOST,), times=3, timeouts_s=(0.05, 0.3, 1.0)),
        needs="acknowledgements that are lost, and calls with little time",
    ),
    Mutant(
        "latest-call-first",
        "a client puts the calls that gathered into its frame in the reverse order",
        ("G5",),
        (Change(f"{_CALLER}.next_frame", _latest_first),),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("add", works_s=(0.0,))),
        needs="calls that are made at the same time",
    ),
    Mutant(
        "mix-up-outcomes",
        "a client gives the outcomes of one message to the wrong ones of its calls",
        ("G2",),
        (Change(f"{_CALLER}.on_outcomes", _takes_next_for_own),),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("add", works_s=(0.02,))),
        needs="several outcomes in one message",
    ),
    Mutant(
        "cancel-is-always-done",
        "who cancels a call is told that it is cancelled, whatever became of it",
        ("orders",),
        (Change("aegisipc.sdk.pending:judge", _says_done),),
        known_seed=0,
        steer=steering.cancelled(steering.owned("place", "add", works_s=(0.0, 0.02))),
        needs="calls that are cancelled too late",
    ),
    Mutant(
        "give-up-early",
        "a caller gives up after half of its timeout",
        ("timeouts",),
        (Change(f"{_CALLER}.submit", _gives_up_early),),
        known_seed=0,
        steer=steering.owned("place", "add", works_s=(0.8,), timeouts_s=(1.0,)),
        needs="calls that take long",
    ),
)
