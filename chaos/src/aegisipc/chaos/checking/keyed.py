"""Idempotency keys: one key, one effect; and whoever asks for a key is led to the call that has it."""

from __future__ import annotations

from typing import NamedTuple

from aegisipc.chaos.checking.case import Asked, Case, Look
from aegisipc.chaos.checking.outcomes import numbers_of, told_by
from aegisipc.chaos.history import Deed, Operation, Stage
from aegisipc.chaos.log_facts import REGISTERED, CallFact, Group, KeySegment, KeyWord
from aegisipc.chaos.log_words import code_of, said_in
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.names import POOL_GROUP

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


class _Since(NamedTuple):
    """Whose a key is from a time of the server on; ``None``: nobody's."""

    at_ns: int
    owner: str | None


type _Turns = dict[tuple[Group, str], list[_Since]]
"""Whose each key of each group was, in the order of the log."""


def keys_lead_to_owners(case: Case) -> Verdict:
    """Whoever asks which call has a key is told the one that has it by the words of the log, or that waits
    for it if nobody has it yet; or that there is none, if there is none. What a word was about at that time
    counts, as far as the clocks can be compared; without that, what it was about at any time.
    """
    look = Look(case, "keys", "Attaching by an idempotency key leads to the call that has it, or to none.")
    finds = [asked for asked in case.asked.values() if asked.invoke.deed is Deed.FIND]
    if not finds or not case.is_whole:
        return look.verdict()
    turns = _turns_in(case)
    for asked in finds:
        place = _place_of(case, asked)
        if asked.answer is not None and place is not None:
            look.looked_at += 1
            _check_found(case, look, asked.invoke, asked.answer, place, turns)
    return look.verdict()


def _check_found(
    case: Case, look: Look, invoke: Operation, answer: Operation, place: Group, turns: _Turns
) -> None:
    key = invoke.key or ""
    if answer.stage is not Stage.OK and answer.error != "call_unknown":
        if invoke.at_ns < case.evidence.healed_at_ns:
            return
        told = f"nothing but {answer.error or answer.stage}"
    else:
        right = _right_answers(case, invoke, answer, place, turns.get((place, key), []))
        if answer.call_id in right:
            return
        told = f"that it is {answer.call_id or 'nobody'}'s"
    calls = [
        call for call in case.keyed.get(key, ()) if call.place == place or call.call_id == answer.call_id
    ]
    story = "; ".join(f"{call.call_id} at {call.seq}: {told_by(call)}" for call in calls[:4])
    look.found(
        f"{answer.client} asked for key {key!r} of {'/'.join(place)} and was told {told}, and the log says: "
        f"{story or 'nothing of it'}",
        calls=[call.call_id for call in calls],
        numbers=(invoke.number, *(n for call in calls for n in numbers_of(call))),
        seqs=[seq for call in calls for seq in (call.seq, *(word.seq for word in call.words))],
    )


def _right_answers(
    case: Case, invoke: Operation, answer: Operation, place: Group, turns: list[_Since]
) -> set[str | None]:
    """Return all that was right at some time between a question (or shortly before: whoever answers may be
    behind by that) and its answer.
    """
    since_ns = case.server_time(invoke.at_ns - case.slack_ns)
    until_ns = case.server_time(answer.at_ns + case.bounds.clock_error_ns)
    if since_ns is None or until_ns is None:
        since_ns, until_ns = 0, case.facts.last_at_ns
    before = [turn.owner for turn in turns if turn.at_ns < since_ns]
    right = {turn.owner for turn in turns if since_ns <= turn.at_ns <= until_ns}
    right.add(before[-1] if before else None)
    if None in right:
        right |= {
            call.call_id
            for call in case.keyed.get(invoke.key or "", ())
            if call.place == place and call.at_ns <= until_ns
            if call.final is None or call.final.at_ns >= since_ns
        }
    return right


def _turns_in(case: Case) -> _Turns:
    turns: _Turns = {}
    for place, said in case.facts.key_words.items():
        is_pool, covered = place[1] == POOL_GROUP, -1
        for word in said:
            if isinstance(word, KeySegment):
                # They form a chain, which the first one begins.
                if covered < 0 or (word.since == covered and word.covers > word.since):
                    covered = word.covers
                continue
            if is_pool and (covered < 0 or _checked_to(word) < covered):
                continue  # its writer had not read enough to know
            call = case.facts.calls.get(word.call_id)
            if call is not None and call.key is not None:
                _take(turns.setdefault((place, call.key), []), word)
    return turns


def _take(turns: list[_Since], word: KeyWord) -> None:
    owner = turns[-1].owner if turns else None
    if word.mark is Mark.KEYED and owner is None:
        turns.append(_Since(word.at_ns, word.call_id))
    elif word.mark is Mark.RELEASED and owner == word.call_id:
        turns.append(_Since(word.at_ns, None))


def _checked_to(word: KeyWord) -> int:
    """How far its writer had read: the last eight bytes of what a worker of a pool says of a key."""
    return int.from_bytes((word.body or b"")[-8:])


def _place_of(case: Case, asked: Asked) -> Group | None:
    """Return the group in which a key was looked for, as instances registered; ``None`` if none did."""
    service = asked.invoke.target.partition(".")[0]
    registered = [event for event in case.facts.of_type(REGISTERED) if event.service == service]
    if asked.invoke.resource is None:
        groups = {event.group for event in registered}
        found = POOL_GROUP if POOL_GROUP in groups else groups.pop() if len(groups) == 1 else None
    else:
        holding = (e for e in registered if asked.invoke.resource in (e.data.get("resources") or ()))
        found = next((event.group for event in holding), None)
    return None if found is None else (service, found)
