"""What handlers did, by an independent ledger, against what the log allowed and says came of it."""

from __future__ import annotations

from collections import Counter
from typing import Final

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.outcomes import TOO_LATE, found_about, numbers_of, told_by
from aegisipc.chaos.checking.starts import check_deadlines
from aegisipc.chaos.history import Deed, Stage
from aegisipc.chaos.log_facts import CallFact, Word
from aegisipc.chaos.log_words import code_of, said_in
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.frames import Mark

ONCE: Final = "once"
TRANSACTIONAL: Final = "transactional"
"""Runs that keep effects in a database, in the transaction of the outcome, give this declaration in their
ledgers, though the method is an ``idempotent`` one for the log: what ended there took effect.
"""

_KEEPS_LEDGER: Final = frozenset({ONCE, "idempotent", TRANSACTIONAL})
_RAN_BEFORE: Final = (Mark.RETRY_SCHEDULED, Mark.REQUEUED, Mark.NOT_EXECUTED, Mark.ATTEMPTED)
"""After these a call may have begun, whatever is said of its latest attempt."""
_BY_HAND: Final = frozenset({"operator", "reconcile"})
_ENDING: Final = frozenset(
    {Mark.SUCCEEDED, Mark.FAILED, Mark.RETRY_SCHEDULED, Mark.CANCELLED, Mark.DEAD_LETTERED}
)


_UNSTARTED: Final = frozenset({TOO_LATE, "overloaded"})
"""Errors of the system that say that a call was not started. Handlers of runs raise none of them."""


def once_at_most(case: Case) -> Verdict:
    """G3. Each start of a ``once`` method has a claim of its own in the log, by the instance that began it
    and under the epoch in which it did (and it was there by then, where the clocks can be compared). Since a
    call is claimed again only after an attempt was recorded to have failed, a doubt was resolved to "not
    executed", or an operator requeued it, it starts at most once otherwise.

    A call whose claimant lost the pen goes through a doubt before anything else is said of it. What succeeded
    took effect, unless somebody from outside said so. A former holder that was frozen after its claim may
    still begin it: that is the one start that its claim allows.
    """
    look = Look(case, "G3", "A method declared once starts at most once; if nobody can know, it is in doubt.")
    for call in case.facts.calls.values():
        effect = case.effect_of(call)
        if effect == ONCE:
            look.looked_at += 1
            _check_claims(case, look, call)
            _check_doubt(look, call)
        elif effect == TRANSACTIONAL and len(ends := case.ends.get(call.call_id, ())) > 1:
            found_about(
                look, call, f"took effect {len(ends)} times, though in a transaction with its outcome"
            )
        if effect in _KEEPS_LEDGER:
            look.looked_at += effect != ONCE
            _check_success(case, look, call)
    return look.verdict()


def _check_claims(case: Case, look: Look, call: CallFact) -> None:
    begins = case.begins.get(call.call_id)
    if not begins:
        return
    claims: dict[tuple[str, int], list[Word]] = {}
    for word in call.words:
        if word.mark is Mark.CLAIMED:
            claims.setdefault(_who(call, word.writer, word.epoch), []).append(word)
    starts: Counter[tuple[str, int]] = Counter()
    for begun in begins:
        who = _who(call, begun.instance, begun.epoch)
        own = claims.get(who, ())
        starts[who] += 1
        where = f"{begun.instance}{f' in epoch {begun.epoch}' if begun.epoch else ''}"
        if starts[who] > len(own):
            allowed = f"claimed it {len(own)} times" if own else "has no claim on it in the log"
            found_about(look, call, f"was begun {starts[who]} times by {where}, which {allowed}")
            return
        if case.is_before(begun.at_ns, own[starts[who] - 1].at_ns):
            found_about(look, call, f"was begun by {where} before its claim was in the log")
            return


def _who(call: CallFact, instance: str, epoch: int) -> tuple[str, int]:
    return instance, 0 if call.is_pool else epoch


def _check_doubt(look: Look, call: CallFact) -> None:
    """In an owned group the claimant's epoch ends with its pen: what another one says next is a doubt."""
    if call.is_pool:
        return
    claim: Word | None = None
    resolved = True
    for word in call.words:
        if word.mark is Mark.CLAIMED:
            claim = word
        elif word.mark is Mark.IN_DOUBT:
            claim, resolved = None, False
        elif word.mark in (Mark.EXECUTED, Mark.NOT_EXECUTED):
            resolved = True
        elif word.mark in _ENDING:
            if claim is not None and (word.writer, word.epoch) != (claim.writer, claim.epoch):
                found_about(
                    look,
                    call,
                    f"was claimed by {claim.writer} in epoch {claim.epoch}, and {word.writer} says "
                    f"{word.mark.name} in epoch {word.epoch}, without a doubt",
                )
            if not resolved:
                found_about(look, call, f"was in doubt, and is {word.mark.name} without a resolution")
            claim, resolved = None, True


def _check_success(case: Case, look: Look, call: CallFact) -> None:
    final = call.final
    if final is None or final.mark is not Mark.SUCCEEDED or call.call_id in case.ends:
        return
    for word in call.words:
        if word.mark is Mark.EXECUTED:
            said = said_in(word.body)
            if isinstance(said, dict) and said.get("source") in _BY_HAND:
                return
    if call.call_id in case.begins and not case.ends:
        return  # handlers of this run do not write down that they ended
    began = "was begun, but never ended" if call.call_id in case.begins else "never had an effect"
    found_about(look, call, f"succeeded at {final.seq}, and {began} by the ledger")


def expired_never_starts(case: Case) -> Verdict:
    """G7. A call that expired, was cancelled before it started, was claimed too late, or was turned away, has
    no start in the ledger; for an ``idempotent`` or ``pure`` call the record may say that an earlier holder
    may have begun it. None starts after its deadline (:mod:`~aegisipc.chaos.checking.starts`). ``attach``
    knows every accepted call, and once all is healed it gives the outcome that the log has.
    """
    look = Look(case, "G7", "An expired call never starts; a reply is never lost.")
    for call in case.facts.calls.values():
        final = call.final
        if final is None:
            continue
        if _says_unstarted(final):
            look.looked_at += 1
            begins = case.begins.get(call.call_id, [])
            # A claim that came too late allows no start; what was claimed before it did.
            if final.mark is Mark.FAILED and code_of(final.body) == TOO_LATE:
                is_wrong = len(begins) > call.count(Mark.CLAIMED) - 1
            else:
                is_wrong = bool(begins) and not call.has(*_RAN_BEFORE)
            if is_wrong:
                found_about(look, call, f"was begun by {begins[0].instance}, and {told_by(call)}")
    check_deadlines(case, look)
    _check_attached(case, look)
    return look.verdict()


def _says_unstarted(final: Word) -> bool:
    if final.mark is Mark.EXPIRED:
        return not final.body
    if final.mark is Mark.CANCELLED:
        said = said_in(final.body)
        details = said.get("details") if isinstance(said, dict) else None
        return isinstance(details, dict) and details.get("started") is False
    return final.mark is Mark.FAILED and code_of(final.body) in _UNSTARTED


def _check_attached(case: Case, look: Look) -> None:
    accepted, settled = _known_since(case)
    for number, asked in case.asked.items():
        answer, at_ns = asked.answer, asked.invoke.at_ns
        if asked.invoke.deed is not Deed.ATTACH or answer is None:
            continue
        look.looked_at += 1
        call = case.call_of(asked)
        if call is None:
            continue
        owner = case.owner_of(call)
        if answer.error == "call_unknown":
            is_lost = accepted.get(call.call_id, at_ns) < at_ns
        else:
            is_healed = at_ns >= case.evidence.healed_at_ns
            is_open = answer.stage is Stage.INFO and answer.error != "call_in_doubt"
            is_lost = is_open and is_healed and settled.get(owner.call_id, at_ns) < at_ns
        if is_lost:
            look.found(
                f"{answer.client} attached to call {call.call_id} and got {answer.error or answer.stage}, "
                f"and the log says {told_by(owner)}",
                calls=(call.call_id,),
                numbers=(number, *numbers_of(call)),
                seqs=(call.seq, *(word.seq for word in call.words)),
            )


def _known_since(case: Case) -> tuple[dict[str, int], dict[str, int]]:
    """Return since when each call was known to be in the log, and since when its final outcome was: because
    somebody had been told, or by the clock of the log where it is known how that compares.
    """
    accepted: dict[str, int] = {}
    settled: dict[str, int] = {}
    for asked in case.asked.values():
        call = case.call_of(asked) if asked.is_accepted else None
        if call is None or asked.answer is None:
            continue
        _note_earliest(accepted, call.call_id, asked.answer.at_ns)
        # A dead letter may be open again.
        is_final = asked.answer.stage is not Stage.INFO and asked.answer.error != "dead_lettered"
        if asked.is_read and is_final:
            _note_earliest(settled, case.owner_of(call).call_id, asked.answer.at_ns)
    if case.bounds.clock_offset_ns is not None:
        for call in case.facts.calls.values():
            _note_earliest(accepted, call.call_id, case.evidence_time(call.at_ns))
            if call.final is not None:
                _note_earliest(settled, call.call_id, case.evidence_time(call.final.at_ns))
    return accepted, settled


def _note_earliest(times: dict[str, int], call_id: str, at_ns: int | None) -> None:
    if at_ns is not None and at_ns < times.get(call_id, at_ns + 1):
        times[call_id] = at_ns


def begun_under_a_promotion(case: Case, look: Look) -> None:
    """No handler of an owned group began under an epoch that its instance never held. (A former holder that
    does not know yet that it lost the pen may begin harmless work under its old epoch; ``once`` calls need a
    claim, see G3.)
    """
    held = {
        (group, event.data.get("holder"), event.data.get("epoch"))
        for group, events in case.facts.promotions.items()
        for event in events
    }
    for call_id, begins in case.begins.items():
        call = case.facts.calls.get(call_id)
        if call is None or call.is_pool:
            continue
        for begun in begins:
            look.looked_at += 1
            if (call.place, begun.instance, begun.epoch) not in held:
                found_about(
                    look, call, f"was begun by {begun.instance} in epoch {begun.epoch}, which it never held"
                )
                break
