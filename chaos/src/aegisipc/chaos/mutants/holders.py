"""Defects in what the holder of a pen does with its calls: order, doubts, deadlines, keys, retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.keys import KeyIndex
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.sdk.core.pen import Start

_HOLDING: Final = "aegisipc.sdk.core.holding:Holding"
_SCHEDULE: Final = "aegisipc.sdk.core.schedule:Schedule"
_GONE: Final = (Break.KILL, Break.FREEZE, Break.PARTITION)


def _ignores_doubt(original: Any) -> Callable[[Any, Any, str], None]:
    """What an earlier holder claimed is taken for a call that nobody has begun."""

    def inherit(holding: Any, calls: Any, holder: str) -> None:
        for call in calls:
            if call.state is CallState.STARTED:
                call.state = CallState.ACCEPTED
        original(holding, calls, holder)

    return inherit


def _starts_expired(original: Any) -> Callable[..., None]:
    def expire(holding: Any, call: Any, *, had_turn: bool = False) -> None:
        original(holding, call, had_turn=had_turn)
        holding._starts.append(Start(call, holding.epoch))

    return expire


def _expires_claimed(original: Any) -> Callable[[Any, int], None]:
    """A claimed call whose deadline passes while it runs is said to have expired."""

    def on_tick(holding: Any, now_ns: int) -> None:
        original(holding, now_ns)
        if not holding.is_active:
            return
        for call in holding._calls().open.values():
            if call.state is CallState.STARTED and 0 < call.deadline_ns <= now_ns:
                holding._pen.note(Mark.EXPIRED, call)

    return on_tick


def _forgets_keys(original: Any) -> Callable[[Any, Any, str], None]:
    def inherit(holding: Any, calls: Any, holder: str) -> None:
        holding._calls().keys = KeyIndex()
        original(holding, calls, holder)

    return inherit


def _ignores_payload(_: Any) -> Callable[[Any, Any, Any], None]:
    def refuse(keys: Any, call: Any, owner: Any) -> None:
        keys._pen.note(Mark.DUPLICATE, call, owner.call_id)

    return refuse


def _ends_turn_at_start(original: Any) -> Callable[[Any], Any]:
    def take(schedule: Any) -> Any:
        call = original(schedule)
        if call is not None:
            schedule.release(call.resource)
        return call

    return take


def _ends_no_turn(_: Any) -> Callable[[Any, Any], None]:
    def free(schedule: Any, call: Any) -> None:  # noqa: ARG001 - as the original
        schedule.running -= 1

    return free


def _turn_of_none(original: Any) -> Callable[[Any, Any], None]:
    def release(schedule: Any, resource: Any) -> None:
        if resource in schedule._queues:
            original(schedule, resource)

    return release


def _latest_first(original: Any) -> Callable[[Any, Any], None]:
    def release(schedule: Any, resource: Any) -> None:
        queue = schedule._queues.get(resource) if resource is not None else None
        if queue is not None and len(queue) > 2:
            queue.insert(1, queue.pop())
        original(schedule, resource)

    return release


def _makes_up(_: Any) -> Callable[[Any, Any], list[Any]]:
    def answer(member: Any, call_ids: Any) -> list[Any]:  # noqa: ARG001 - as the original
        return [(call_id, int(Mark.EXPIRED), None) for call_id in call_ids]

    return answer


OF_HOLDERS: Final = (
    Mutant(
        "ignore-a-doubt",
        "a new holder runs once calls that its predecessor had claimed",
        ("G3",),
        (Change(f"{_HOLDING}.inherit", _ignores_doubt),),
        known_seed=1,
        steer=steering.owned("place", kinds=_GONE, works_s=(0.3,)),
        needs="a failover while once calls run",
    ),
    Mutant(
        "start-the-expired",
        "a call that is concluded as expired is started all the same",
        ("G7",),
        (Change(f"{_HOLDING}._expire", _starts_expired),),
        known_seed=0,
        steer=steering.owned("place", "add", timeouts_s=(0.05, 0.3), works_s=(0.3,)),
        needs="calls that wait beyond their deadline",
    ),
    Mutant(
        "expire-the-claimed",
        "a claimed call is said to have expired when its deadline passes while it runs",
        ("G2", "G7", "expired-and-succeeded"),
        (Change(f"{_HOLDING}.on_tick", _expires_claimed),),
        known_seed=0,
        steer=steering.owned("place", timeouts_s=(0.3,), works_s=(0.3,)),
        needs="once calls that run beyond their deadline",
    ),
    Mutant(
        "forget-keys-at-takeover",
        "a new holder knows no idempotency key from before its time",
        ("G6",),
        (Change(f"{_HOLDING}.inherit", _forgets_keys),),
        known_seed=4,
        steer=steering.keyed(steering.owned("place", "add", kinds=_GONE)),
        needs="the same key before and after a failover",
    ),
    Mutant(
        "ignore-the-payload-of-a-key",
        "a key that comes again with other arguments is taken for a repetition",
        ("G6",),
        (Change("aegisipc.sdk.core.keyed:Keys._refuse", _ignores_payload),),
        known_seed=0,
        steer=steering.keyed(steering.owned("place", "add"), other_arguments=0.4),
        needs="a key that is used for something else",
    ),
    Mutant(
        "two-at-once",
        "the next call of a resource has its turn when the one before it starts, not when it ends",
        ("G5",),
        (
            Change(f"{_SCHEDULE}.take", _ends_turn_at_start),
            Change(f"{_SCHEDULE}.free", _ends_no_turn),
            Change(f"{_SCHEDULE}.release", _turn_of_none),
        ),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("place", "add", works_s=(0.02, 0.3))),
        needs="several calls of a resource that wait",
    ),
    Mutant(
        "last-in-first-out",
        "of the calls of a resource that wait, the latest one is run first",
        ("G5",),
        (Change(f"{_SCHEDULE}.release", _latest_first),),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("place", "add", works_s=(0.02,))),
        needs="several calls of a resource that wait",
    ),
    Mutant(
        "make-up-answers",
        "whoever asks for an outcome is told that the call expired",
        ("G2", "expired-and-succeeded"),
        (Change("aegisipc.sdk.core.member:GroupMember.answer", _makes_up),),
        known_seed=5,
    ),
)
