"""How often calls are run: what failed is counted, waits, and is given up in the end."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.outcomes import found_about
from aegisipc.chaos.checking.starts import check_again
from aegisipc.chaos.log_facts import REGISTERED, CallFact, Word
from aegisipc.chaos.log_words import number_at, said_in
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import Mark

_AGAIN: Final = (Mark.RETRY_SCHEDULED, Mark.REQUEUED, Mark.NOT_EXECUTED)
"""Each of these lets a call begin once more."""


def attempts_count(case: Case) -> Verdict:
    """Attempts at a call that fail are numbered: one after the other since it was accepted or requeued, no
    matter who holds the pen; none begins before it is due. A call is given up for its attempts after as many
    as any other call of its method (and, where the policy is known, as that says), and never begun more often
    by one life of a process than the log says. What has its final outcome is not begun again by who wrote it.
    """
    look = Look(case, "attempts", "Failed attempts are counted, wait until they are due, and come to an end.")
    given_up: dict[tuple[str, str], dict[int, CallFact]] = {}
    most: dict[tuple[str, str], tuple[int, CallFact]] = {}
    registered = Counter(event.by for event in case.facts.of_type(REGISTERED))
    for call in case.facts.calls.values():
        if call.has(Mark.RETRY_SCHEDULED, Mark.DEAD_LETTERED):
            method = call.service, call.method
            tries = _check_numbers(look, call, given_up.setdefault(method, {}))
            if tries > most.get(method, (0, call))[0]:
                most[method] = tries, call
            _check_due(case, look, call)
        _check_starts(case, look, call, registered)
    for method, (tries, call) in most.items():
        limits = [*given_up.get(method, ()), *([case.bounds.attempts] if case.bounds.attempts else ())]
        if limits and tries >= min(limits):
            found_about(look, call, f"is to be run again after attempt {tries} of {min(limits)}")
    for calls in given_up.values():
        wrong = [n for n in calls if case.bounds.attempts not in (None, n)] or sorted(calls)[1:]
        for number in wrong:
            limit = case.bounds.attempts or min(calls)
            found_about(look, calls[number], f"was given up after attempt {number}, and {limit} are allowed")
    check_again(case, look)
    return look.verdict()


def _check_numbers(look: Look, call: CallFact, given_up: dict[int, CallFact]) -> int:
    """Look at the numbers of a call's attempts; returns the highest one after which it is to run again."""
    tries = most = 0
    for word in call.words:
        if word.mark is Mark.REQUEUED:
            tries = 0
        elif word.mark is Mark.RETRY_SCHEDULED:
            look.looked_at += 1
            number = number_at(said_in(word.body), "attempt")
            if number != tries + 1:
                found_about(look, call, f"has attempt {number} fail at {word.seq}, after {tries} that failed")
            tries = number
            most = max(most, number)
        elif word.mark is Mark.DEAD_LETTERED and (last := _given_up_after(word)) is not None:
            look.looked_at += 1
            if last != tries + 1:
                found_about(look, call, f"is given up at {word.seq} for attempt {last}, after {tries}")
            given_up.setdefault(last, call)
    return most


def _given_up_after(word: Word) -> int | None:
    """Return how many attempts a dead letter is one for, ``None`` if it is one for another reason."""
    said: Any = said_in(word.body)
    details = said.get("details") if isinstance(said, dict) else None
    if not isinstance(details, dict) or details.get("reason") != "attempts":
        return None
    return number_at(details, "attempts")


def _check_due(case: Case, look: Look, call: CallFact) -> None:
    """Who says when the next attempt is due does not begin it sooner. A process whose clock was set may."""
    for word in call.words:
        if word.mark is not Mark.RETRY_SCHEDULED:
            continue
        due_ns = number_at(said_in(word.body), "due_ns")
        for begun in case.begins.get(call.call_id, ()):
            at_ns = case.server_time(begun.at_ns)
            if at_ns is None or begun.instance != word.writer:
                continue
            if not call.is_pool and begun.epoch != word.epoch:
                continue
            look.looked_at += 1
            error_ns = case.bounds.clock_error_ns
            is_early = word.at_ns + error_ns < at_ns < due_ns - error_ns
            if is_early and not case.is_struck((begun.instance,), 0, begun.at_ns, "skew"):
                early_s = (due_ns - at_ns) / 1e9
                found_about(look, call, f"was begun by {begun.instance} {early_s:.3f} s before it was due")


def _check_starts(case: Case, look: Look, call: CallFact, registered: Counter[str]) -> None:
    begins = case.begins.get(call.call_id, ())
    if len(begins) < 2:
        return
    look.looked_at += 1
    logged = 1 + sum(call.count(mark) for mark in _AGAIN)
    lives = Counter((begun.life, begun.instance, begun.epoch) for begun in begins)
    for (life, instance, _), times in lives.items():
        # One that was taken for lost, and came back, knows nothing of what it had begun.
        allowed = logged + max(0, registered[instance] - 1)
        if times > allowed:
            found_about(look, call, f"was begun {times} times by {life}, and the log allows {allowed}")
