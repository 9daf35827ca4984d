"""What callers were told, against what the log says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.history import Deed, Effect, Operation, Stage
from aegisipc.chaos.log_facts import CallFact, Word
from aegisipc.chaos.log_words import CallState, code_of, said_in
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.codec import BODY_LIMITS, decode
from aegisipc.eventstore.errors import CodecError, MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark
from aegisipc.eventstore.references import reference_in

TOO_LATE: Final = "claimed_too_late"
"""The code of a ``once`` call that was claimed only after its deadline, and not started."""

_NUMBER: Final = b"number"

_ENDED: Final = frozenset({CallState.FINAL, CallState.DEAD, CallState.DOUBT})


def accepted_is_kept(case: Case) -> Verdict:
    """G1. Every operation of which its client was told that it was accepted, or what came of it, is in the
    log (and was by then, where the clocks can be compared); so is every call that a handler ran, and it
    is that call which it ran (its method, its argument, its resource); so is every call that a frame says
    something of.
    """
    look = Look(case, "G1", "A call that was accepted is in the log, and is never lost.")
    if not case.is_whole:
        return look.verdict()
    for number, asked in case.asked.items():
        if not asked.is_accepted:
            continue
        look.looked_at += 1
        answer = asked.answer or asked.invoke
        calls = case.may_be(asked)
        if calls and all(case.is_before(answer.at_ns, call.at_ns) for call in calls):
            look.found(
                f"operation {number} ({answer.deed}) by {answer.client} ended {answer.stage} before its call "
                f"{calls[0].call_id} was in the log, at {calls[0].seq}",
                calls=(calls[0].call_id,),
                numbers=(number,),
                seqs=(calls[0].seq,),
            )
        if not calls:
            look.found(
                f"operation {number} ({answer.deed}) by {answer.client} ended {answer.stage}"
                f"{f' with {answer.error}' if answer.error else ''}, and its call is not in the log",
                calls=(answer.call_id,) if answer.call_id is not None else (),
                numbers=(number,),
            )
    for call_id, began in case.begins.items():
        look.looked_at += 1
        if call_id not in case.facts.calls:
            look.found(
                f"{began[0].instance} ran call {call_id}, which is not in the log",
                calls=(call_id,),
                numbers=(began[0].number,),
            )
            continue
        wrong = next((begun for begun in began if _is_other(begun, case.facts.calls[call_id])), None)
        if wrong is not None:
            look.found(
                f"{wrong.instance} ran call {call_id} as {wrong.target} of {wrong.number} on "
                f"{wrong.resource}, and the log says that it is something else",
                calls=(call_id,),
                numbers=(wrong.number, *numbers_of(case.facts.calls[call_id])),
                seqs=(case.facts.calls[call_id].seq,),
            )
    for call_id, word in case.facts.orphans:
        look.found(
            f"record {word.seq} says {word.mark.name} of call {call_id}, which is not in the log",
            calls=(call_id,),
            seqs=(word.seq,),
        )
    return look.verdict()


def _is_other(begun: Effect, call: CallFact) -> bool:
    """Tell whether a handler was given something else than its call asks for, as far as it wrote it down."""
    return (
        (call.number is not None and begun.number != call.number)
        or begun.target not in ("", f"{call.service}.{call.method}")
        or (begun.resource is not None and begun.resource != call.resource)
    )


def one_outcome(case: Case) -> Verdict:
    """G2. In the log each call ends once: no word contradicts an earlier one (where a fence stands, none may
    be there; in a pool those that came late are void), and none is left open, but for doubts that nobody
    resolved. A result that says of which number it is, is of this call. All readers were told what the log
    says, or earlier of a doubt or of a dead letter; and not before that was there, where the clocks can be
    compared.
    """
    look = Look(case, "G2", "Every accepted call gets exactly one outcome, the same for every reader.")
    for call in case.facts.calls.values():
        look.looked_at += 1
        if call.state not in _ENDED:
            look.found(
                f"call {call.call_id} has no outcome: it is {call.state}",
                calls=(call.call_id,),
                numbers=numbers_of(call),
                seqs=(call.seq, *(word.seq for word in call.words)),
            )
        _check_result(look, call)
    for call_id, before, word in case.facts.contradictions:
        call = case.facts.calls[call_id]
        look.found(
            f"record {word.seq} by {word.writer} says {word.mark.name} of call {call_id}, which is {before} "
            f"after {told_by(call)}",
            calls=(call_id,),
            numbers=numbers_of(call),
            seqs=(*(said.seq for said in call.words), word.seq),
        )
    for call_id, seq in case.facts.used_twice:
        look.found(
            f"call {call_id} was accepted once more at {seq}",
            calls=(call_id,),
            numbers=numbers_of(case.facts.calls[call_id]),
            seqs=(case.facts.calls[call_id].seq, seq),
        )
    _compare_readers(case, look)
    return look.verdict()


def _check_result(look: Look, call: CallFact) -> None:
    """A result that says which number it is of (under ``number``) is the one of this call."""
    final = call.final
    if call.number is None or final is None or final.mark is not Mark.SUCCEEDED:
        return
    if _NUMBER not in (final.body or b""):
        return  # which is quick to see
    said = said_in(final.body)
    number = said.get("number") if isinstance(said, dict) else None
    if type(number) is int and number != call.number:
        found_about(look, call, f"has the result of number {number}")


def _compare_readers(case: Case, look: Look) -> None:
    for number, asked in case.asked.items():
        if not asked.is_read or asked.answer is None:
            continue
        calls = case.may_be(asked)
        if not calls:
            continue  # G1
        look.looked_at += 1
        owners = [case.owner_of(call) for call in calls]
        if any(_agrees(case, asked.answer, own, owner) for own, owner in zip(calls, owners, strict=True)):
            continue
        answer, owner = asked.answer, owners[0]
        told = answer.error if answer.error is not None else f"the value {answer.value!r:.200}"
        look.found(
            f"operation {number} ({answer.deed}) by {answer.client} was told {told} of call "
            f"{calls[0].call_id}, and the log says {told_by(owner)}{_too_early(case, answer, owner)}",
            calls=(calls[0].call_id, owner.call_id),
            numbers=(number, *numbers_of(owner)),
            seqs=(owner.seq, *(word.seq for word in owner.words)),
        )


def _too_early(case: Case, told: Operation, owner: CallFact) -> str:
    final = owner.final
    is_early = final is not None and case.is_before(told.at_ns, final.at_ns)
    return ", but only after that" if is_early else ""


def _agrees(case: Case, told: Operation, own: CallFact, owner: CallFact) -> bool:
    """Tell whether the log bears out what a reader was told, when it was."""
    if told.stage is Stage.OK:
        final = owner.final
        if final is None or final.mark is not Mark.SUCCEEDED or case.is_before(told.at_ns, final.at_ns):
            return False
        return _is_value(final, told.value)
    # A conflict is of the call itself, also where that has the key of another one.
    words = (*owner.words, *own.words) if own is not owner else owner.words
    return any(_says(word, told.error) and not case.is_before(told.at_ns, word.at_ns) for word in words)


def _says(word: Word, error: str | None) -> bool:
    """Tell whether it is because of a word that callers get an error."""
    match error:
        case "call_in_doubt":
            return word.mark is Mark.IN_DOUBT
        case "call_expired":
            return is_expiry(word)
        case "dead_lettered":
            return word.mark is Mark.DEAD_LETTERED
        case _:
            return word.mark is Mark.FAILED and code_of(word.body) == error


def _is_value(word: Word, value: Any) -> bool:
    body = word.body or b""
    try:
        if reference_in(body) is not None:
            return True  # it lies in the object store
        said = decode(body, limits=BODY_LIMITS)
    except (MalformedPayload, CodecError):
        return False
    return bool(said == value) or plain(said) == plain(value)


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back, since histories are kept in JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def told_by(call: CallFact) -> str:
    """Say what the log says of a call."""
    said = [
        f"{word.mark.name}{f' ({code})' if word.mark in OUTCOMES and (code := code_of(word.body)) else ''}"
        for word in call.words
    ]
    return ", ".join(said) or "nothing more"


def numbers_of(call: CallFact) -> tuple[int, ...]:
    """Return the number of a call, if it has one."""
    return () if call.number is None else (call.number,)


def found_about(look: Look, call: CallFact, text: str) -> None:
    """Note a violation about one call."""
    look.found(
        f"call {call.call_id} ({call.method}) {text}",
        calls=(call.call_id,),
        numbers=numbers_of(call),
        seqs=(call.seq, *(word.seq for word in call.words)),
    )


def never_expired_and_succeeded(case: Case) -> Verdict:
    """No call is said to have expired, in the log or to any reader, and also to have succeeded."""
    look = Look(case, "expired-and-succeeded", "No call both expired and succeeded, for anybody.")
    expired: dict[str, list[int]] = {}
    succeeded: dict[str, list[int]] = {}
    for asked in case.asked.values():
        answer = asked.answer
        if answer is None or answer.deed not in (Deed.CALL, Deed.ATTACH):
            continue
        call = case.call_of(asked)
        if call is None:
            continue
        if answer.stage is Stage.OK:
            succeeded.setdefault(case.owner_of(call).call_id, []).append(answer.number)
        elif answer.error == "call_expired":
            expired.setdefault(case.owner_of(call).call_id, []).append(answer.number)
    contradicting: dict[str, list[Word]] = {}
    for call_id, _, word in case.facts.contradictions:
        contradicting.setdefault(call_id, []).append(word)
    for call in case.facts.calls.values():
        look.looked_at += 1
        call_id = call.call_id
        words = [*call.words, *contradicting.get(call_id, ())]
        of_expiry = [word.seq for word in words if is_expiry(word)]
        of_success = [word.seq for word in words if word.mark is Mark.SUCCEEDED]
        if (of_expiry or call_id in expired) and (of_success or call_id in succeeded):
            look.found(
                f"call {call_id} expired ({_where(of_expiry, expired.get(call_id, ()))}) and succeeded "
                f"({_where(of_success, succeeded.get(call_id, ()))})",
                calls=(call_id,),
                numbers=(*numbers_of(call), *expired.get(call_id, ()), *succeeded.get(call_id, ())),
                seqs=(call.seq, *of_expiry, *of_success),
            )
    return look.verdict()


def is_expiry(word: Word) -> bool:
    """Tell whether callers are told of a word that the call expired."""
    return word.mark is Mark.EXPIRED or (word.mark is Mark.FAILED and code_of(word.body) == TOO_LATE)


def _where(seqs: Iterable[int], numbers: Iterable[int]) -> str:
    said = [f"record {seq}" for seq in seqs] + [f"as operation {number} was told" for number in numbers]
    return ", ".join(said)
