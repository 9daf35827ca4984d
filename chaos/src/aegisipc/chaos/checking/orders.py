"""What callers, operators and members say beside calls: that it is done, and when."""

from __future__ import annotations

from typing import Final

from aegisipc.chaos.checking.case import Asked, Case, Look
from aegisipc.chaos.checking.commands import check_commands
from aegisipc.chaos.checking.evidence import check_evidence
from aegisipc.chaos.checking.outcomes import numbers_of, told_by
from aegisipc.chaos.checking.starts import check_pauses
from aegisipc.chaos.checking.withdrawn import check_withdrawn
from aegisipc.chaos.history import Deed, Stage
from aegisipc.chaos.log_facts import CallFact
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import Mark

_S: Final = 1_000_000_000
_FINISHED: Final = "call_finished"
_TIMEOUT: Final = "call_timeout"


def orders_obeyed(case: Case) -> Verdict:
    """A call of which a client was told that it is cancelled has that outcome, by then, and none of which it
    was told that it is too late for that. No handler begins while its group is paused, nor at an instance in
    quarantine, or that drains or left. What operators say of doubts and dead letters is done as they said it,
    and what a former holder says of a doubt ends that.
    """
    look = Look(case, "orders", "What was ordered is done, as it was said; what may start nothing does not.")
    _check_cancels(case, look)
    check_pauses(case, look)
    check_withdrawn(case, look)
    check_commands(case, look)
    check_evidence(case, look)
    return look.verdict()


def _check_cancels(case: Case, look: Look) -> None:
    for number, asked in case.asked.items():
        answer = asked.answer
        if asked.invoke.deed is not Deed.CANCEL or answer is None:
            continue
        call = case.call_of(asked)
        if call is None:
            continue  # it was dropped before it was sent, or G1
        if answer.stage is Stage.OK:
            look.looked_at += 1
            final = call.final
            if final is None or final.mark is not Mark.CANCELLED:
                _found(look, number, call, "was told that it cancelled")
            elif case.is_before(answer.at_ns, final.at_ns):
                _found(look, number, call, "was told before that was in the log that it cancelled")
        elif answer.error == _FINISHED:
            look.looked_at += 1
            is_over = call.has(Mark.DEAD_LETTERED) or (
                call.final is not None and call.final.mark is not Mark.CANCELLED
            )
            if not is_over:
                _found(look, number, call, "was told that it is too late to cancel")


def _found(look: Look, number: int, call: CallFact, text: str) -> None:
    look.found(
        f"operation {number} {text} call {call.call_id}, and the log says {told_by(call)}",
        calls=(call.call_id,),
        numbers=(number, *numbers_of(call)),
        seqs=(call.seq, *(word.seq for word in call.words)),
    )


def answered_in_time(case: Case) -> Verdict:
    """Who calls hears of it by its timeout: of the outcome, or that there is none yet, and of the latter not
    before its time is up. A client about whose process something was broken may have to wait.
    """
    look = Look(case, "timeouts", "A call comes back by its timeout, and does not give up before.")
    for number, asked in case.asked.items():
        invoke, answer = asked.invoke, asked.answer
        if invoke.deed is not Deed.CALL or invoke.timeout_s is None:
            continue
        look.looked_at += 1
        due_ns = invoke.at_ns + int(invoke.timeout_s * _S)
        until_ns = answer.at_ns if answer is not None else case.evidence.ended_at_ns
        if answer is not None and answer.error == _TIMEOUT and until_ns + _EARLY_NS < due_ns:
            look.found(
                f"operation {number} by {invoke.client} gave up {(due_ns - until_ns) / _S:.3f} s before its "
                f"timeout of {invoke.timeout_s:g} s",
                numbers=(number,),
            )
        if until_ns - due_ns > _GRACE_NS + case.slack_ns and not _is_excused(case, asked, until_ns):
            look.found(
                f"operation {number} by {invoke.client} was {'not ' if answer is None else ''}answered "
                f"{(until_ns - due_ns) / _S:.3f} s after its timeout of {invoke.timeout_s:g} s",
                numbers=(number,),
            )
    return look.verdict()


_EARLY_NS: Final = 300_000_000
"""A frame is not sent once more if its time would be up before: so much earlier may its calls be given up."""
_GRACE_NS: Final = 1 * _S
"""A client waits a little longer than its timeout for an outcome that was in time."""


def _is_excused(case: Case, asked: Asked, until_ns: int) -> bool:
    client = asked.invoke.client
    # A process may have several clients, whose names are its own and a number.
    return case.is_struck((client, client.rpartition("-")[0]), asked.invoke.at_ns, until_ns)
