"""Receipts: what callers were told of how a call is kept, against the log and the servers that keep it."""

from __future__ import annotations

from typing import Any, Final

from aegisipc.chaos.checking.case import Asked, Case, Look
from aegisipc.chaos.history import Keeping, Operation
from aegisipc.chaos.log_facts import CallFact
from aegisipc.chaos.verdicts import Verdict

QUORUM: Final = 3
"""From so many replicas on, a majority is more than one server."""


def receipts_are_true(case: Case) -> Verdict:
    """Every receipt names a record that holds its call (a frame may be stored twice, and then each of its
    records does), and claims of the servers what they are configured to do, or less where that is not known.
    """
    look = Look(case, "receipts", "A receipt says where a call is in the log, and how it is really kept.")
    for number, asked in case.asked.items():
        answer = asked.answer
        if answer is None or answer.receipt is None:
            continue
        look.looked_at += 1
        call = case.facts.calls.get(answer.receipt.get("call_id", ""))
        wrong = []
        if call is not None and case.is_whole:  # else it is lost, see G1
            wrong += [] if _may_be_unknown(asked) else _wrong_place(answer.receipt, call)
        if case.evidence.keeping is not None:
            wrong += _wrong_claims(answer.receipt, case.evidence.keeping)
        if wrong:
            _found(look, number, answer, call, "; ".join(wrong))
    return look.verdict()


def _may_be_unknown(asked: Asked) -> bool:
    """Tell whether a receipt names no record, and its caller's time was up: an outcome may come before the
    acknowledgement, and then the log is asked for so long.
    """
    invoke, answer = asked.invoke, asked.answer
    if answer is None or (answer.receipt or {}).get("seq") != 0 or invoke.timeout_s is None:
        return False
    return answer.at_ns - invoke.at_ns >= invoke.timeout_s * 1e9


def _wrong_place(receipt: dict[str, Any], call: CallFact) -> list[str]:
    seq = receipt.get("seq")
    if seq in (call.seq, *call.copies):
        return []
    return [f"record {seq}, and it is in record {call.seq}"]


def _wrong_claims(receipt: dict[str, Any], kept: Keeping) -> list[str]:
    wrong = []
    if receipt.get("durability") not in _true_words(kept):
        wrong.append(f"{receipt.get('durability')!r}, and {_shown(kept)}")
    if receipt.get("replicas") != kept.replicas:
        wrong.append(f"{receipt.get('replicas')} replicas, and there are {kept.replicas}")
    if receipt.get("fsync") not in ("unknown", "always" if kept.syncs else "interval"):
        wrong.append(f"fsync {receipt.get('fsync')!r}, and {_shown(kept)}")
    if receipt.get("durability") == "fsynced" and receipt.get("fsync") != "always":
        wrong.append(f"'fsynced' with fsync {receipt.get('fsync')!r}")
    return wrong


def _true_words(kept: Keeping) -> tuple[str, ...]:
    """Return what may be claimed. That servers sync may be unknown to those who ask."""
    if kept.storage != "file":
        return ("memory",)
    if kept.replicas >= QUORUM:
        return ("replicated",)
    return ("written", "fsynced") if kept.syncs else ("written",)


def _shown(kept: Keeping) -> str:
    syncs = "synced before it is acknowledged" if kept.syncs else "not synced before it is acknowledged"
    return f"the log is kept in {kept.storage}, by {kept.replicas}, {syncs}"


def _found(look: Look, number: int, answer: Operation, call: CallFact | None, wrong: str) -> None:
    call_id = str((answer.receipt or {}).get("call_id"))
    look.found(
        f"operation {number} ({answer.deed}) by {answer.client} has a receipt for call {call_id} that says "
        f"{wrong}",
        calls=(call_id,),
        numbers=(number,),
        seqs=() if call is None else (call.seq, *call.copies),
    )
