"""Idempotency keys: one key, one effect."""

from __future__ import annotations

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.outcomes import numbers_of, told_by
from aegisipc.chaos.log_facts import CallFact
from aegisipc.chaos.log_words import code_of, said_in
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import Mark

CONFLICT = "idempotency_conflict"


def one_effect_per_key(case: Case) -> Verdict:
    """G6. Of the calls of one group with one key, at most one has effects or succeeds by itself, and calls
    that gave the key back have none; what is recorded as a duplicate asks for the same as an earlier call of
    that key whose outcome is its own, and what is refused as a conflict asks for something else than it.
    """
    look = Look(case, "G6", "The same idempotency key never has two effects; another payload is a conflict.")
    scopes: dict[tuple[str, str, str], list[CallFact]] = {}
    for calls in case.keyed.values():
        for call in calls:
            scopes.setdefault((*call.place, call.key or ""), []).append(call)
    for (service, group, key), calls in scopes.items():
        look.looked_at += len(calls)
        _check_key(case, look, f"key {key!r} of {service}/{group}", calls)
    for call in case.facts.calls.values():
        if call.key is None and call.first is not None:
            _found(look, "a call without a key", [call], "is recorded as a duplicate")
    return look.verdict()


def _check_key(case: Case, look: Look, key: str, calls: list[CallFact]) -> None:
    ran = [call for call in calls if call.call_id in case.begins]
    if len(ran) > 1:
        _found(look, key, ran, f"had effects by {len(ran)} calls")
    succeeded = [call for call in calls if call.has(Mark.SUCCEEDED)]
    if len(succeeded) > 1:
        _found(look, key, succeeded, f"succeeded by {len(succeeded)} calls")
    for call in calls:
        if call.has(Mark.RELEASED) and call.call_id in case.begins and not call.has(Mark.KEYED):
            _found(look, key, [call], "was given back by a call that had not got it")
        final = call.final
        if final is None:
            continue
        if final.mark is Mark.DUPLICATE:
            _check_first(case, look, key, call, call.first, is_same=True)
        elif final.mark is Mark.FAILED and code_of(final.body) == CONFLICT:
            said = said_in(final.body)
            details = said.get("details") if isinstance(said, dict) else None
            first = details.get("first") if isinstance(details, dict) else None
            _check_first(case, look, key, call, first if isinstance(first, str) else None, is_same=False)


def _check_first(
    case: Case, look: Look, key: str, call: CallFact, first_id: str | None, *, is_same: bool
) -> None:
    what = "a duplicate" if is_same else "a conflict"
    first = case.facts.calls.get(first_id or "")
    if first is None:
        _found(look, key, [call], f"has {what} of a call that is not in the log ({first_id})")
        return
    if first is call or (first.place, first.key) != (call.place, call.key):
        _found(look, key, [call, first], f"has {what} of a call that never had it")
    elif (first.payload == call.payload) is not is_same:
        asked = "something else" if is_same else "the very same"
        _found(look, key, [call, first], f"has {what} that asked for {asked}")
    elif case.owner_of(call).first is not None:
        _found(look, key, [call, first], f"has {what} that leads to no outcome")


def _found(look: Look, key: str, calls: list[CallFact], text: str) -> None:
    story = "; ".join(f"{call.call_id} at {call.seq}: {told_by(call)}" for call in calls[:4])
    look.found(
        f"{key} {text}: {story}",
        calls=[call.call_id for call in calls],
        numbers=[number for call in calls for number in numbers_of(call)],
        seqs=[seq for call in calls for seq in (call.seq, *(word.seq for word in call.words))],
    )
