"""Defects in when, how often and with what handlers begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break

_HOLDING: Final = "aegisipc.sdk.core.holding:Holding"
_RETRIES: Final = "aegisipc.sdk.core.retries:Retries"


def _at_the_beginning_of_time(original: Any) -> Callable[[Any, int], None]:
    def pump(holding: Any, now_ns: int) -> None:  # noqa: ARG001 - that is the defect
        original(holding, 0)

    return pump


def _goes_whenever(original: Any) -> Callable[[Any, Any, int], None]:
    def go(holding: Any, call: Any, now_ns: int) -> None:  # noqa: ARG001 - that is the defect
        original(holding, call, 0)

    return go


def _expires_none(_: Any) -> Callable[[Any, int], list[Any]]:
    def expire(schedule: Any, now_ns: int) -> list[Any]:  # noqa: ARG001 - as the original
        return []

    return expire


def _sees_no_pause(original: Any) -> Callable[[Any], None]:
    def look(member: Any) -> None:
        group = member.group
        if group is None:
            original(member)
            return
        is_paused, group.paused = group.paused, False
        original(member)
        group.paused = is_paused

    return look


def _forgets_tries(original: Any) -> Callable[[Any, Any, str], None]:
    def inherit(holding: Any, calls: Any, holder: str) -> None:
        for call in calls:
            call.tries = 0
        original(holding, calls, holder)

    return inherit


def _is_due_at_once(original: Any) -> Callable[[Any, Any], None]:
    def plan(retries: Any, call: Any) -> None:
        call.retry_at_ns = 1
        original(retries, call)

    return plan


def _never_gives_up(original: Any) -> Callable[..., bool]:
    """The last attempt that is allowed is followed by another one."""

    def failed(retries: Any, call: Any, *args: Any) -> bool:
        policies, method = retries._policies, call.method
        if method in policies:
            retries._policies = {**policies, method: replace(policies[method], attempts=call.tries + 2)}
        try:
            waits: bool = original(retries, call, *args)
        finally:
            retries._policies = policies
        return waits

    return failed


def _tries_unseen(original: Any) -> Callable[[Any, Any, int], Any]:
    """A handler that fails is run once more before anybody hears of it."""

    async def execute(executor: Any, call: Any, epoch: int) -> Any:
        done = await original(executor, call, epoch)
        return await original(executor, call, epoch) if done.again else done

    return execute


def _turns_none_away(_: Any) -> Callable[[Any, Any, int], None]:
    def accept(holding: Any, calls: Any, now_ns: int) -> None:
        for call in calls:
            holding.schedule.add(call)
        holding.pump(now_ns)

    return accept


def _shifts_arguments(original: Any) -> Callable[..., Any]:
    """Of a frame of several calls, each gets the arguments of the one before it."""

    def decode(payload: bytes, **more: Any) -> Any:
        frame = original(payload, **more)
        bodies = list(frame.bodies)
        return frame._replace(bodies=[*bodies[-1:], *bodies[:-1]])

    return decode


OF_STARTS: Final = (
    Mutant(
        "ignore-the-deadline",
        "a call that waited beyond its deadline is started as if it had not",
        ("G7",),
        (
            Change(f"{_HOLDING}.pump", _at_the_beginning_of_time),
            Change(f"{_HOLDING}._go", _goes_whenever),
            Change("aegisipc.sdk.core.schedule:Schedule.expire", _expires_none),
        ),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("place", "add", timeouts_s=(0.3,), works_s=(0.3,))),
        needs="calls that wait beyond their deadline",
    ),
    Mutant(
        "start-while-paused",
        "a holder starts calls of its group although that is paused",
        ("orders",),
        (Change("aegisipc.sdk.core.member:GroupMember._look_what_holds_back", _sees_no_pause),),
        known_seed=0,
        steer=steering.paused(steering.owned("place", "add", works_s=(0.0, 0.02))),
        needs="calls to a group that is paused",
    ),
    Mutant(
        "forget-the-tries",
        "a new holder takes calls that failed before for such that never ran",
        ("attempts",),
        (Change(f"{_HOLDING}.inherit", _forgets_tries),),
        known_seed=0,
        steer=steering.failing(
            steering.owned("add", kinds=(Break.KILL, Break.STOP), times=4, works_s=(0.3,)), 4
        ),
        needs="a failover between two attempts at a call",
    ),
    Mutant(
        "retry-at-once",
        "the next attempt at a call that failed is made at once, not when it is due",
        ("attempts",),
        (Change(f"{_RETRIES}._plan", _is_due_at_once),),
        known_seed=0,
        steer=steering.failing(steering.owned("add", works_s=(0.0,)), 2),
        needs="calls that fail and are run again",
    ),
    Mutant(
        "retry-without-end",
        "a call is run again although its last attempt failed",
        ("attempts",),
        (Change(f"{_RETRIES}.failed", _never_gives_up),),
        known_seed=0,
        steer=steering.failing(steering.owned("add", works_s=(0.0,)), 4),
        needs="calls that fail more often than they are to be run",
    ),
    Mutant(
        "retry-unseen",
        "a handler that failed is run once more before its holder hears of it",
        ("attempts",),
        (Change("aegisipc.sdk.executor:Executor.execute", _tries_unseen),),
        known_seed=0,
        steer=steering.failing(steering.owned("add", works_s=(0.0,)), 1),
        needs="calls that fail and are run again",
    ),
    Mutant(
        "unbounded-backlog",
        "a holder takes on every call, however many wait",
        ("G9",),
        (Change(f"{_HOLDING}.accept", _turns_none_away),),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("add", count=140, works_s=(0.02,)), (0.1,)),
        needs="far more calls than are taken on",
    ),
    Mutant(
        "mix-up-arguments",
        "each call of a frame is run with the arguments of the one before it",
        ("G1",),
        (Change("aegisipc.eventstore.calls:decode_calls", _shifts_arguments),),
        known_seed=0,
        steer=steering.in_bursts(steering.owned("place", "add", works_s=(0.0,))),
        needs="several calls in one frame",
    ),
)
