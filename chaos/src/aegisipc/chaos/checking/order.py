"""In which order calls entered the log, and ran."""

from __future__ import annotations

from typing import Final

from aegisipc.chaos.checking.case import ASKING, Asked, Case, Look
from aegisipc.chaos.checking.outcomes import numbers_of
from aegisipc.chaos.history import Deed, Phase, Stage
from aegisipc.chaos.log_facts import CallFact
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import Mark

OUT_OF_ORDER: Final = (Mark.IN_DOUBT, Mark.REQUEUED)
"""Calls of which that was said keep no order: a doubt does not hold up the next call of its resource, and an
operator lets a dead letter run when it pleases.
"""


def in_order(case: Case) -> Verdict:
    """G5. Three things:

    - Calls of one client's session entered each group's log in the order in which they were made, as their
      ids tell. (Large arguments are stored first. Until then the calls of that resource wait, also if the
      large one never comes; others may overtake them: where there are large ones, each resource has its own
      order.) And whatever was made after a client had been told of another call's acceptance stands after
      that one.
    - In an owned group, calls of one resource run one after another in each epoch: no handler began while
      another one of the same resource ran, and none before one that stands earlier in the log.
    - Calls of one resource succeeded in log order.

    Priorities change nothing of this; calls that wait for another attempt keep their turn; calls that were in
    doubt or requeued have none.
    """
    look = Look(
        case,
        "G5",
        "Calls of one resource run one after another, in log order; those of one client enter it as made.",
    )
    _check_sessions(case, look)
    _check_real_time(case, look)
    _check_effects(case, look)
    _check_successes(case, look)
    return look.verdict()


def _check_sessions(case: Case, look: Look) -> None:
    calls = case.facts.calls.values()
    has_large = case.evidence.has_large or any(call.is_large for call in calls)
    last: dict[tuple[tuple[str, str], str, int, str | None], CallFact] = {}
    for call in calls:
        if call.is_large and call.resource is None:
            continue  # nobody waits for it
        line = call.place, call.client, call.session, call.resource if has_large else None
        look.looked_at += 1
        before = last.get(line)
        if before is not None and before.call_id > call.call_id:
            look.found(
                f"call {call.call_id} of {call.client} stands at {call.seq}, after {before.call_id} at "
                f"{before.seq}, which was made later",
                calls=(before.call_id, call.call_id),
                numbers=(*numbers_of(before), *numbers_of(call)),
                seqs=(before.seq, call.seq),
            )
        else:
            last[line] = call


def _check_real_time(case: Case, look: Look) -> None:
    """Sweep over the history in time: `newest` is the call furthest on in the log of which somebody has been
    told that it is there.
    """
    newest: CallFact | None = None
    known: dict[int, CallFact] = {}
    # What was told at the very moment of an invocation does not come before it.
    told = sorted(case.evidence.operations, key=lambda op: (op.at_ns, op.stage is not Stage.INVOKE))
    for operation in told:
        if operation.deed not in ASKING:
            continue
        number = operation.number
        if operation.stage is Stage.INVOKE:
            if newest is not None:
                known[number] = newest
            continue
        asked = case.asked[number]
        call = _own_call(case, asked)
        if call is None:
            continue
        look.looked_at += 1
        before = known.pop(number, None)
        if before is not None and call.seq <= before.seq and call is not before:
            look.found(
                f"call {call.call_id} stands at {call.seq}, and was made by {asked.invoke.client} after call "
                f"{before.call_id}, which stands at {before.seq}, was known to be in the log",
                calls=(before.call_id, call.call_id),
                numbers=(*numbers_of(before), number),
                seqs=(call.seq, before.seq),
            )
        if asked.is_accepted and (newest is None or call.seq > newest.seq):
            newest = call


def _own_call(case: Case, asked: Asked) -> CallFact | None:
    """Return the call that an operation made itself. Of one with a key, an error may name the first call that
    had it.
    """
    if asked.invoke.key is not None and (asked.invoke.deed is Deed.CALL or asked.answer is None):
        return None
    return case.call_of(asked)


def _check_effects(case: Case, look: Look) -> None:
    """Of each life of a process, epoch and resource: what runs now, and how far in the log it has come."""
    latest: dict[tuple[str, int, str, str], tuple[CallFact, bool]] = {}
    calls = case.facts.calls
    for effect in case.evidence.effects:
        call = calls.get(effect.call_id)
        if call is None or call.resource is None or call.is_pool:
            continue
        lane = effect.life or effect.instance, effect.epoch, call.group, call.resource
        before = latest.get(lane)
        if effect.phase is Phase.ENDED:
            if before is None:
                continue
            look.looked_at += 1
            if before[0] is not call:
                _found(look, call, before[0], f"ran on {call.resource} when the other one began")
            continue
        has_turn = not call.has(*OUT_OF_ORDER)
        if before is not None and has_turn and before[1] and call.order < before[0].order:
            _found(look, call, before[0], f"began on {call.resource} after the other one, which stands later")
        if has_turn or before is None:
            latest[lane] = call, has_turn
        else:
            # Out of its turn; the others' order goes on from where it was, but they may not overlap.
            latest[lane] = call, False


def _check_successes(case: Case, look: Look) -> None:
    last: dict[tuple[tuple[str, str], str], tuple[int, CallFact]] = {}
    for call in case.facts.calls.values():
        final = call.final
        if final is None or final.mark is not Mark.SUCCEEDED or call.resource is None or call.is_pool:
            continue
        if call.has(*OUT_OF_ORDER):
            continue
        look.looked_at += 1
        lane = call.place, call.resource
        seq, before = last.get(lane, (0, call))
        if final.seq < seq:
            _found(look, call, before, f"succeeded on {call.resource} at {final.seq}, before {seq}")
        else:
            last[lane] = final.seq, call


def _found(look: Look, call: CallFact, other: CallFact, text: str) -> None:
    look.found(
        f"call {call.call_id} (at {call.seq}) {text}; the other one is {other.call_id} (at {other.seq})",
        calls=(other.call_id, call.call_id),
        numbers=(*numbers_of(other), *numbers_of(call)),
        seqs=(other.seq, call.seq),
    )
