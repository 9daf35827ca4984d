"""Linearizability per resource, against a counter.

The sequential specification: a resource is a counter that begins at 0; a call that takes effect returns how
many had done so before it (``{"seen": n}``), and adds one. A history is linearizable if every call can be
given a moment between its invocation and its completion such that in that order each returned what the
specification says.

Checkers for any specification (Wing & Gong, Lowe, Porcupine) search for such an order, which takes
exponential time at worst. A counter tells its order by what it returns, so here no search is needed: calls
that returned a value stand in the order of their values, and calls of which nobody knows whether they took
effect must fill what is missing between them. That is a matching of intervals to places whose limits both
rise, which taking the one that ends first solves exactly. It takes n log n, so that a million calls can be
judged, and is compared with a search over all orders in the tests.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from aegisipc.chaos.checking.case import ASKING, Asked, Case, Look
from aegisipc.chaos.checking.outcomes import numbers_of
from aegisipc.chaos.history import Deed, Stage
from aegisipc.chaos.log_facts import CallFact
from aegisipc.chaos.log_words import said_in
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import Mark

type Lane = tuple[str, str, str]
"""A service, one of its groups, and a resource."""

NEVER: Final = 1 << 63
"""Later than any time: of what nobody was told the end of."""


class Counted(NamedTuple):
    """A call on a counter: between which times it took effect, and how many it had seen. ``seen`` is ``None``
    if it is not known whether it took effect. ``name`` tells it from others.
    """

    invoked: int
    completed: int
    seen: int | None
    name: str = ""


class Contrary(NamedTuple):
    """Why there is no order: calls that cannot all be right."""

    text: str
    names: tuple[str, ...]


def check_counter(calls: Sequence[Counted]) -> Contrary | None:
    """Return why calls on one counter are not linearizable, or ``None`` if they are."""
    fixed = sorted((call for call in calls if call.seen is not None), key=lambda c: (c.seen, c.invoked))
    for one, other in pairwise(fixed):
        if one.seen == other.seen:
            return Contrary(f"both saw {one.seen} calls before them", (one.name, other.name))
    if not fixed:
        return None
    latest = fixed[0]  # of those so far, the one that was invoked last
    for call in fixed:
        if call.completed < latest.invoked:
            return Contrary(
                f"the first one saw {latest.seen} calls before it and the other one {call.seen}, though "
                "the other one had completed before the first one was made",
                (latest.name, call.name),
            )
        if call.invoked > latest.invoked:
            latest = call
    return _fill(fixed, [call for call in calls if call.seen is None])


def _fill(fixed: Sequence[Counted], unknown: Sequence[Counted]) -> Contrary | None:
    """Fill the places between `fixed` with calls that may have taken effect."""
    limits = [NEVER] * len(fixed)
    for index in range(len(fixed) - 1, -1, -1):
        after = limits[index + 1] if index + 1 < len(fixed) else NEVER
        limits[index] = min(fixed[index].completed, after)
    waiting = sorted(unknown, reverse=True)
    heap: list[tuple[int, int]] = []
    reached, expected = 0, 0  # the latest invocation before this place, and what a call here would see
    for index, (call, limit) in enumerate(zip(fixed, limits, strict=True)):
        missing = (call.seen or 0) - expected
        while missing and waiting and waiting[-1].invoked <= limit:
            found = waiting.pop()
            heapq.heappush(heap, (found.completed, found.invoked))
        while missing:
            while heap and heap[0][0] < reached:
                heapq.heappop(heap)
            if not heap:
                before = fixed[index - 1].name if index else ""
                return Contrary(
                    f"it saw {call.seen} calls before it, {missing} more than there can have been",
                    (before, call.name) if before else (call.name,),
                )
            heapq.heappop(heap)
            missing -= 1
        expected = (call.seen or 0) + 1
        reached = max(reached, call.invoked)
    return None


def linearizable(case: Case) -> Verdict:
    """Calls of each resource of an owned group whose results say how many came before them (``seen``) are
    linearizable; and they were recorded in that order. What readers were told counts, else what the log has.

    A call that was in doubt and was found to have run keeps no place: its result is of the time before the
    doubt, its effect of the time of the resolution. It may count for others wherever it fits.
    """
    look = Look(case, "linearizable", "Per resource, the order of effects agrees with real time.")
    windows, strays = _windows(case)
    lanes: dict[Lane, list[Counted]] = {}
    for call_id, (invoked, completed, told) in windows.items():
        call = case.facts.calls[call_id]
        if call.resource is None or call.is_pool:
            continue
        seen = _seen(call, told)
        if seen is not None or _may_count(call):
            end = completed if seen is not None else NEVER
            counted = Counted(invoked, end, seen, call_id)
            lanes.setdefault((*call.place, call.resource), []).append(counted)
    for lane, calls in lanes.items():
        fixed = sorted((c for c in calls if c.seen is not None), key=lambda c: c.seen or 0)
        if not fixed:
            continue
        look.looked_at += len(calls)
        unknown = [Counted(at, NEVER, None) for at in strays.get(lane[2], ())]
        contrary = check_counter([*calls, *unknown]) or _recorded_otherwise(case, fixed)
        if contrary is not None:
            _found(case, look, lane, contrary)
    return look.verdict()


def _recorded_otherwise(case: Case, fixed: Sequence[Counted]) -> Contrary | None:
    """Return two calls whose outcomes are in the log in another order than that of what they saw."""
    last = 0
    before = ""
    for counted in fixed:
        final = case.facts.calls[counted.name].final
        if final is None or final.mark is not Mark.SUCCEEDED:
            continue
        if final.seq < last:
            text = (
                f"the first one saw fewer calls, and its outcome at {last} stands after that at {final.seq}"
            )
            return Contrary(text, (before, counted.name))
        last, before = final.seq, counted.name
    return None


def _windows(case: Case) -> tuple[dict[str, tuple[int, int, Any]], dict[str, list[int]]]:
    """Return when each call was made and first read, and its value if it was; and per resource when calls
    were made of which it is not known which they are.
    """
    windows: dict[str, tuple[int, int, Any]] = {}
    strays: dict[str, list[int]] = {}
    for asked in case.asked.values():
        if asked.invoke.deed not in (*ASKING, Deed.ATTACH):
            continue
        own = case.call_of(asked) or _first_of_key(case, asked)
        if own is None:
            if _may_have_run(asked) and asked.invoke.resource is not None:
                strays.setdefault(asked.invoke.resource, []).append(asked.invoke.at_ns)
            continue
        call = case.owner_of(own)
        invoked, completed, told = windows.get(call.call_id, (NEVER, NEVER, None))
        if asked.invoke.deed in ASKING:
            invoked = min(invoked, asked.invoke.at_ns)
        answer = asked.answer
        if answer is not None and answer.stage is Stage.OK and answer.deed is not Deed.SUBMIT:
            completed = min(completed, answer.at_ns)
            told = answer.value if told is None else told
        windows[call.call_id] = invoked, completed, told
    for call_id in [call_id for call_id, window in windows.items() if window[0] == NEVER]:
        invoked, completed, told = windows[call_id]
        windows[call_id] = 0, completed, told  # its maker left no history
    return windows, strays


def _first_of_key(case: Case, asked: Asked) -> CallFact | None:
    """Return the call that succeeded with the key of an operation: whichever its own is, that one ran.
    (One that was cancelled, or expired, gives the key free.)
    """
    calls = case.keyed.get(asked.invoke.key or "", ())
    return next((call for call in calls if call.final and call.final.mark is Mark.SUCCEEDED), None)


def _may_have_run(asked: Asked) -> bool:
    """Tell whether an operation that belongs to no call that is known may have made one that took effect."""
    answer = asked.answer
    return asked.invoke.deed in ASKING and (answer is None or answer.stage is Stage.INFO)


def _seen(call: CallFact, told: Any) -> int | None:
    if call.has(Mark.EXECUTED, Mark.IN_DOUBT) and not call.has(Mark.NOT_EXECUTED):
        return None
    if told is None and call.final is not None and call.final.mark is Mark.SUCCEEDED:
        told = said_in(call.final.body)
    seen = told.get("seen") if isinstance(told, dict) else None
    return seen if type(seen) is int else None


def _may_count(call: CallFact) -> bool:
    """Tell whether a call that does not say what it saw may have taken effect."""
    final = call.final
    return final is None or final.mark is Mark.SUCCEEDED


def _found(case: Case, look: Look, lane: Lane, contrary: Contrary) -> None:
    calls = [case.facts.calls[name] for name in contrary.names if name in case.facts.calls]
    look.found(
        f"on {lane[2]} of {lane[0]}/{lane[1]}: {', '.join(call.call_id for call in calls)}: {contrary.text}",
        calls=[call.call_id for call in calls],
        numbers=[number for call in calls for number in numbers_of(call)],
        seqs=[seq for call in calls for seq in (call.seq, *(word.seq for word in call.words))],
    )
