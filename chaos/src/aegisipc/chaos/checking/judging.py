"""The judgement: one verdict for each invariant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from aegisipc.chaos.checking.attempts import attempts_count
from aegisipc.chaos.checking.bounds import DEFAULT_BOUNDS, Bounds
from aegisipc.chaos.checking.case import Case, case_of
from aegisipc.chaos.checking.commands import is_order
from aegisipc.chaos.checking.executions import expired_never_starts, once_at_most
from aegisipc.chaos.checking.failovers import failovers_needed
from aegisipc.chaos.checking.keyed import keys_lead_to_owners, one_effect_per_key
from aegisipc.chaos.checking.linearizable import linearizable
from aegisipc.chaos.checking.nodes import (
    memory_is_flat,
    nothing_leaked,
    nothing_unhandled,
    recovered,
    rejected_changes_nothing,
    states_agree,
)
from aegisipc.chaos.checking.order import in_order
from aegisipc.chaos.checking.orders import answered_in_time, orders_obeyed
from aegisipc.chaos.checking.outcomes import accepted_is_kept, never_expired_and_succeeded, one_outcome
from aegisipc.chaos.checking.pens import epochs_rise, one_writer
from aegisipc.chaos.checking.receipts import receipts_are_true
from aegisipc.chaos.history import Evidence, Stage
from aegisipc.chaos.log_facts import LogFacts
from aegisipc.chaos.log_words import CallState
from aegisipc.chaos.verdicts import Judgement, Verdict

INVARIANTS: Final[tuple[Callable[[Case], Verdict], ...]] = (
    accepted_is_kept,
    one_outcome,
    once_at_most,
    one_writer,
    in_order,
    one_effect_per_key,
    expired_never_starts,
    states_agree,
    rejected_changes_nothing,
    linearizable,
    epochs_rise,
    never_expired_and_succeeded,
    recovered,
    nothing_leaked,
    nothing_unhandled,
    memory_is_flat,
    attempts_count,
    orders_obeyed,
    answered_in_time,
    receipts_are_true,
    keys_lead_to_owners,
    failovers_needed,
)


def judge(evidence: Evidence, facts: LogFacts, *, bounds: Bounds = DEFAULT_BOUNDS) -> Judgement:
    """Return what is to be said of a run. Linear in the evidence and the log, but for sorting."""
    case = case_of(evidence, facts, bounds)
    return Judgement(tuple(check(case) for check in INVARIANTS), _numbers(case))


def _numbers(case: Case) -> dict[str, int]:
    facts, evidence = case.facts, case.evidence
    numbers = {
        "operations": len(case.asked),
        "calls": len(facts.calls),
        "effects": sum(len(begins) for begins in case.begins.values()),
        "records": facts.records,
        "frames": facts.frames,
        "stored_twice": facts.stored_twice,
        "void": facts.void,
        "promotions": sum(len(events) for events in facts.promotions.values()),
        "commands": sum(is_order(asked) for asked in case.asked.values()),
        "late_evidence": sum(len(call.evidence) for call in facts.calls.values()),
        "faults": len(evidence.faults),
        "samples": len(evidence.samples),
    }
    stages = Counter((a.answer.stage if a.answer is not None else Stage.INVOKE) for a in case.asked.values())
    for stage in Stage:
        numbers[f"operations_{'open' if stage is Stage.INVOKE else stage}"] = stages[stage]
    states = Counter(call.state for call in facts.calls.values())
    numbers["calls_open"] = states[CallState.OPEN] + states[CallState.CLAIMED] + states[CallState.WAITING]
    numbers["calls_in_doubt"] = states[CallState.DOUBT]
    for mark, times in sorted(facts.marks.items()):
        numbers[mark.name.lower()] = times
    return numbers
