"""Defects in what becomes of the word of operators and former holders, and in who may start calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant, Steer
from aegisipc.chaos.sim.plan import Break, Plan
from aegisipc.chaos.workload import LEFT_TO_PEOPLE
from aegisipc.eventstore.ids import format_call_id
from aegisipc.sdk.hosts.telling import Discard, answer_ok

_COMMANDS: Final = "aegisipc.sdk.hosts.resolving:Commands"
_DOUBTS: Final = "aegisipc.sdk.core.doubts:Doubts"
_LETTERS: Final = "aegisipc.sdk.hosts.letters:Letters"
_MEMBER: Final = "aegisipc.sdk.core.member:GroupMember"
_POOL: Final = "aegisipc.sdk.hosts.pool_operators:PoolOperators"

_DEAD: Final = (Break.KILL, Break.FREEZE)
_BACK: Final = (Break.FREEZE, Break.PARTITION)


# -- doubts ----------------------------------------------------------------------------------------------


def _resolves_another(original: Any) -> Callable[[Any, Any, str], None]:
    """If two calls are in doubt, what is said of one is written for the other."""

    def resolve(commands: Any, command: Any, reply: str) -> None:
        others = [call_id for call_id in commands._member.doubts._open if call_id != command.raw_call_id]
        if others:
            command = command.model_copy(update={"call_id": format_call_id(others[0])})
        original(commands, command, reply)

    return resolve


def _takes_for_not_executed(original: Any) -> Callable[..., bool]:
    def executed(doubts: Any, call_id: Any, mark: Any, body: Any, resolution: Any, **more: Any) -> bool:
        if resolution.source == "operator":
            return bool(doubts.not_executed(call_id, resolution))
        return bool(original(doubts, call_id, mark, body, resolution, **more))

    return executed


def _ignores_evidence(_: Any) -> Callable[[Any, Any], bool]:
    def conclude(doubts: Any, call: Any) -> bool:  # noqa: ARG001 - as the original
        return False

    return conclude


def _ends_another(original: Any) -> Callable[[Any, Any], bool]:
    """If two calls are in doubt, what a former holder says of one ends the doubt about the other."""

    def conclude(doubts: Any, call: Any) -> bool:
        other = next((open_ for open_ in doubts._open.values() if open_ is not call), None)
        if call.evidence is None or other is None or other.evidence is not None:
            return bool(original(doubts, call))
        other.evidence, call.evidence = call.evidence, None
        return bool(original(doubts, other))

    return conclude


# -- dead letters ----------------------------------------------------------------------------------------


def _discards_by_word(original: Any) -> Callable[[Any, Any, str], None]:
    def obey(letters: Any, command: Any, reply: str) -> None:
        if isinstance(command, Discard):
            letters._post(reply, answer_ok(seq=letters._member._position))
        else:
            original(letters, command, reply)

    return obey


def _stores_nothing(_: Any) -> Callable[[Any, Any, Any, int], Any]:
    async def store(operators: Any, command: Any, history: Any, dead_seq: int) -> int:  # noqa: ARG001
        return dead_seq

    return store


# -- who may start calls ---------------------------------------------------------------------------------


def _sees_no_quarantine(original: Any) -> Callable[[Any], None]:
    def look(member: Any) -> None:
        me = member.me
        if me is None:
            original(member)
            return
        is_quarantined, me.quarantined = me.quarantined, False
        original(member)
        me.quarantined = is_quarantined

    return look


def _goes_on_draining(original: Any) -> Callable[[Any], None]:
    def look(member: Any) -> None:
        is_draining, member.is_draining = member.is_draining, False
        original(member)
        member.is_draining = is_draining

    return look


# -- plans -----------------------------------------------------------------------------------------------


def _left_to_people(inner: Steer) -> Steer:
    """As `inner`, with calls about whose doubts the services know nothing."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        numbers = [call.number * LEFT_TO_PEOPLE for call in bent.calls]
        calls = [
            replace(call, number=number, argument=number)
            for call, number in zip(bent.calls, numbers, strict=True)
        ]
        return replace(bent, calls=tuple(calls))

    return steer


def _in_quarantine(inner: Steer) -> Steer:
    """As `inner`, with all instances in quarantine."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        return replace(bent, quarantined=tuple(name for name, _ in bent.instances))

    return steer


def _alone(inner: Steer) -> Steer:
    """As `inner`, with a group of one instance: nobody takes over while it drains."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        return replace(bent, groups=tuple(replace(group, instances=1) for group in bent.groups))

    return steer


_DOUBTED: Final = _left_to_people(
    steering.owned("place", kinds=_DEAD, times=3, works_s=(0.3,), for_s=(1.5, 2.5))
)
_TOLD: Final = _left_to_people(
    steering.owned("place", kinds=_BACK, times=3, works_s=(0.3,), for_s=(1.2, 2.5), victims=("g1-1",))
)

OF_OPERATORS: Final = (
    Mutant(
        "resolve-another-doubt",
        "if two calls are in doubt, what an operator says of one is written for the other",
        ("orders",),
        (Change(f"{_COMMANDS}._resolve", _resolves_another),),
        known_seed=1,
        steer=_DOUBTED,
        needs="two calls in doubt, of which only people know",
    ),
    Mutant(
        "executed-is-not-executed",
        "of a call that an operator says was executed it is written that it was not",
        ("orders",),
        (Change(f"{_DOUBTS}.executed", _takes_for_not_executed),),
        known_seed=1,
        steer=_DOUBTED,
        needs="a call in doubt of which only people know",
    ),
    Mutant(
        "ignore-late-evidence",
        "what a former holder says of a call in doubt does not end the doubt",
        ("orders",),
        (Change(f"{_DOUBTS}.conclude_from_evidence", _ignores_evidence),),
        known_seed=0,
        steer=_TOLD,
        needs="a former holder that comes back, and tells",
    ),
    Mutant(
        "evidence-ends-another-doubt",
        "if two calls are in doubt, what a former holder says of one ends the other",
        ("orders",),
        (Change(f"{_DOUBTS}.conclude_from_evidence", _ends_another),),
        known_seed=0,
        steer=_TOLD,
        needs="two calls in doubt, and a former holder that tells",
    ),
    Mutant(
        "confirm-a-discard-unwritten",
        "an operator is told that a dead letter is discarded, and nothing is written",
        ("orders",),
        (Change(f"{_LETTERS}.obey", _discards_by_word),),
        known_seed=0,
        steer=steering.failing(steering.owned("add", works_s=(0.0,)), 4),
        needs="dead letters",
    ),
    Mutant(
        "pool-requeue-nothing",
        "an operator is told that a dead letter of a pool will run again, and nothing is stored",
        ("orders",),
        (Change(f"{_POOL}._store_again", _stores_nothing),),
        known_seed=0,
        steer=steering.failing(steering.pooled("add", works_s=(0.0,)), 4),
        needs="dead letters of a pool",
    ),
    Mutant(
        "start-in-quarantine",
        "a holder that is in quarantine starts calls all the same",
        ("orders",),
        (Change(f"{_MEMBER}._look_what_holds_back", _sees_no_quarantine),),
        known_seed=0,
        steer=_in_quarantine(steering.owned("place", "add", works_s=(0.0, 0.02))),
        needs="calls to a group whose instances are all in quarantine",
    ),
    Mutant(
        "start-while-draining",
        "a holder that drains goes on to start calls",
        ("orders",),
        (Change(f"{_MEMBER}._look_what_holds_back", _goes_on_draining),),
        known_seed=0,
        steer=_alone(
            steering.in_bursts(
                steering.owned("place", "add", kinds=(Break.STOP,), works_s=(0.02, 0.3), victims=("g1-1",))
            )
        ),
        needs="an instance that drains while calls wait",
    ),
)
