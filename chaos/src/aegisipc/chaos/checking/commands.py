"""What operators said of doubts and dead letters, and what they were answered, against the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from aegisipc.chaos.checking.case import Asked, Case, Look
from aegisipc.chaos.checking.outcomes import numbers_of, plain, told_by
from aegisipc.chaos.history import Deed, Operation, Stage
from aegisipc.chaos.log_facts import PAUSED, RESUMED, CallFact, Word
from aegisipc.chaos.log_words import CallState, said_in
from aegisipc.chaos.operators import DISCARD, REQUEUE, RESOLVE, number_in
from aegisipc.eventstore.codec import BODY_LIMITS, decode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.frames import Mark

_S: Final = 1_000_000_000
_COMMANDS: Final = (RESOLVE, REQUEUE, DISCARD)
_WORDS: Final = (Mark.EXECUTED, Mark.NOT_EXECUTED, Mark.REQUEUED, Mark.DISCARDED)
_REFUSALS: Final = frozenset(
    {
        "invalid_request",
        "invalid_result",
        "no_responders",
        "not_dead_lettered",
        "not_in_doubt",
        "overloaded",
        "payload_too_large",
        "unknown_call",
    }
)
"""Answers that say: nothing was changed. What others say of it is that nobody knows."""
_CATCHES_UP_NS: Final = 5 * _S
"""One that was cut off, or just lost its place, may not know it for so long, and answer for the one that has
it.
"""


@dataclass(frozen=True, slots=True)
class _Order:
    """What an operator said of one call. ``words`` are those in the log that give it as their reason."""

    number: int
    asked: Asked
    words: list[tuple[CallFact, Word]]

    @property
    def command(self) -> str:
        return str(self.asked.invoke.value["command"])

    @property
    def call_id(self) -> str:
        return str(self.asked.invoke.call_id)

    @property
    def mark(self) -> Mark:
        """The word that does it."""
        if self.command == RESOLVE:
            return Mark.EXECUTED if self.asked.invoke.value.get("executed") else Mark.NOT_EXECUTED
        return Mark.REQUEUED if self.command == REQUEUE else Mark.DISCARDED

    @property
    def text(self) -> str:
        """What was said, in words."""
        who = self.asked.invoke.client
        return f"operation {self.number} by {who} ({self.mark.name} of call {self.call_id})"


def check_commands(case: Case, look: Look) -> None:
    """What an operator said of a call is in the log of that call, as it was said, at most once; if it was
    confirmed, it is there, and takes effect; if it was refused, it is not. Of what was not answered nobody
    knows, but it is of that call all the same.
    """
    orders = {number: _Order(number, asked, []) for number, asked in case.asked.items() if is_order(asked)}
    if not orders:
        return
    for call, word, number in _words_by_hand(case):
        if number in orders:
            orders[number].words.append((call, word))
    for order in orders.values():
        if order.words:
            _check_words(case, look, order)
        answer = order.asked.answer
        if answer is None or answer is order.asked.invoke:
            continue
        if answer.stage is Stage.OK:
            look.looked_at += 1
            _check_confirmed(case, look, order, answer)
        elif answer.stage is Stage.FAIL and answer.error in _REFUSALS:
            look.looked_at += 1
            _check_refused(case, look, order, answer)


def is_order(asked: Asked) -> bool:
    """Tell whether an operation is what an operator says of a call: of its doubt, or as a dead letter."""
    invoke = asked.invoke
    return (
        invoke.deed is Deed.OPERATE
        and invoke.call_id is not None
        and isinstance(invoke.value, dict)
        and invoke.value.get("command") in _COMMANDS
    )


def _words_by_hand(case: Case) -> Iterator[tuple[CallFact, Word, int]]:
    """Iterate over the words that count and are by an operator who wrote down what he asked for."""
    for call in case.facts.calls.values():
        if not call.has(*_WORDS):
            continue
        for word in call.words:
            if word.mark in _WORDS:
                number = number_in(_said(word).get("reason"))
                if number is not None:
                    yield call, word, number


def _said(word: Word) -> dict[str, Any]:
    said = said_in(word.body)
    return said if isinstance(said, dict) else {}


# -- what is in the log ----------------------------------------------------------------------------------


def _check_words(case: Case, look: Look, order: _Order) -> None:
    look.looked_at += 1
    for call, word in order.words:
        why = _mismatch(order, call, word)
        if why is not None:
            _found(look, order, f"{order.text} is the reason of record {word.seq}, {why}", call, word)
    if len(order.words) > 1:
        last = max(word.at_ns for _, word in order.words)
        if not _is_disturbed(case, order, case.evidence_time(last)):
            records = ", ".join(str(word.seq) for _, word in order.words)
            _found(look, order, f"{order.text} was carried out more than once: by records {records}")


def _mismatch(order: _Order, call: CallFact, word: Word) -> str | None:
    """Return how a word differs from what was said, ``None`` if it does not."""
    said = _said(word)
    if call.call_id != order.call_id or word.mark is not order.mark:
        return f"which says {word.mark.name} of call {call.call_id}"
    if said.get("author") != order.asked.invoke.client or said.get("source", "operator") != "operator":
        return f"which is by {said.get('source', 'operator')} {said.get('author')}"
    return _other_result(order, call, word) if word.mark is Mark.EXECUTED else None


def _other_result(order: _Order, call: CallFact, word: Word) -> str | None:
    """Return how the outcome differs from the result that was said, ``None`` if it does not."""
    expected = order.asked.invoke.value.get("result")
    after = next_word(call, word)
    if after is None or after.mark is not Mark.SUCCEEDED or after.seq != word.seq:
        return f"which is not followed by its result: {told_by(call)}"
    result = _value_in(after)
    if result == plain(expected):
        return None
    return f"with the result {result!r:.100}, and {expected!r:.100} was said"


def next_word(call: CallFact, word: Word) -> Word | None:
    """Return what was said of a call next."""
    at = next((n for n, other in enumerate(call.words) if other is word), len(call.words))
    return call.words[at + 1] if at + 1 < len(call.words) else None


def _value_in(word: Word) -> Any:
    try:
        return plain(decode(word.body or b"", limits=BODY_LIMITS))
    except CodecError:
        return None


# -- what was answered -----------------------------------------------------------------------------------


def _check_confirmed(case: Case, look: Look, order: _Order, answer: Operation) -> None:
    call = case.facts.calls.get(order.call_id)
    if call is None:
        _found(look, order, f"{order.text} was confirmed, and the log does not have that call")
        return
    if call.is_pool and order.command == REQUEUE:
        _check_stored_again(case, look, order, answer, call)
        return
    words = [word for of, word in order.words if of is call and word.mark is order.mark]
    if not words:
        _found(look, order, f"{order.text} was confirmed, and the log says {told_by(call)}", call)
        return
    seq = _seq_in(answer)
    if seq is not None and seq not in [word.seq for word in words]:
        _found(look, order, f"{order.text} was confirmed at {seq}, and is at {words[0].seq}", call, words[0])
    elif case.is_before(answer.at_ns, words[0].at_ns):
        _found(look, order, f"{order.text} was confirmed before it was in the log", call, words[0])


def _check_stored_again(case: Case, look: Look, order: _Order, answer: Operation, call: CallFact) -> None:
    """A pool's dead letter is stored again; who gets it says that it may run. Whatever became of that, it is
    this dead letter no more, unless its pool is paused.
    """
    seq = _seq_in(answer)
    again = [(at, dead) for at, dead in call.again if seq in (None, at)]
    if not again:
        _found(look, order, f"{order.text} was confirmed, and its call is not stored again at {seq}", call)
        return
    at, dead = again[-1]
    letters = [word.seq for word in call.words if word.mark is Mark.DEAD_LETTERED]
    has_settled = any(probe.role == "system" and probe.serves for probe in case.evidence.probes)
    waited_ns = case.evidence.ended_at_ns - max(answer.at_ns, case.evidence.healed_at_ns)
    is_due = has_settled or waited_ns > int(case.bounds.recovery_s * _S)
    if is_due and not _is_paused(case, call) and call.state is CallState.DEAD and letters[-1:] == [dead]:
        _found(look, order, f"{order.text} was confirmed at {at}, and it is that dead letter still", call)


def _is_paused(case: Case, call: CallFact) -> bool:
    """Tell whether the group of a call is paused in the end."""
    said = [e.type for e in case.facts.of_type(PAUSED, RESUMED) if (e.service, e.group) == call.place]
    return said[-1:] == [PAUSED]


def _check_refused(case: Case, look: Look, order: _Order, answer: Operation) -> None:
    for call, word in order.words:
        if not _is_disturbed(case, order, answer.at_ns):
            done = f"record {word.seq} says {word.mark.name}"
            _found(look, order, f"{order.text} was refused with {answer.error}, and {done}", call, word)


def _is_disturbed(case: Case, order: _Order, until_ns: int | None) -> bool:
    """Tell whether two may have taken a command each for theirs to answer: a former holder, or a worker that
    takes itself for the eldest, and the one that is it; or one of them twice.
    """
    since_ns = order.asked.invoke.at_ns - _CATCHES_UP_NS
    call = case.facts.calls.get(order.call_id)
    since, until = case.server_time(since_ns), None if until_ns is None else case.server_time(until_ns)
    if since is None or until is None or until_ns is None or call is None:
        return True
    if any(case.is_struck((victim,), since_ns, until_ns) for victim in case.struck):
        return True
    return any(
        since <= event.at_ns <= until + case.slack_ns and (event.service, event.group) == call.place
        for event in case.facts.events
    )


def _seq_in(answer: Operation) -> int | None:
    seq = answer.value.get("seq") if isinstance(answer.value, dict) else None
    return seq if type(seq) is int else None


def _found(
    look: Look, order: _Order, text: str, call: CallFact | None = None, word: Word | None = None
) -> None:
    calls = [order.call_id] if call is None else [order.call_id, call.call_id]
    seqs = [] if call is None else [call.seq, *(said.seq for said in call.words)]
    look.found(
        text,
        calls=calls,
        numbers=(order.number, *(() if call is None else numbers_of(call))),
        seqs=[*seqs, *(() if word is None else (word.seq,))],
    )
