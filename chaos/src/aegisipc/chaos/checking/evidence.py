"""Late evidence: what a former holder says of a call that it had claimed ends the doubt about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.commands import next_word
from aegisipc.chaos.checking.outcomes import found_about
from aegisipc.chaos.checking.starts import servers_of
from aegisipc.chaos.log_facts import CallFact, Word
from aegisipc.chaos.log_words import said_in
from aegisipc.eventstore.frames import FINAL, Mark

_S: Final = 1_000_000_000
_CATCHES_UP_NS: Final = 5 * _S
"""A holder about which something was broken may read the log so much later."""
_EVIDENCE: Final = "evidence"
_REOPENED: Final = (Mark.RETRY_SCHEDULED, Mark.REQUEUED)


def check_evidence(case: Case, look: Look) -> None:
    """In an owned group the first word of the instance that had claimed a call, once it is in the log, ends
    the doubt about it: by that word, and by no other that comes later than what was on its way. A doubt that
    is said to have ended by evidence has that evidence. In a pool evidence is by its own writer, who had
    claimed the call.
    """
    for call in case.facts.calls.values():
        if call.is_pool:
            if call.has(Mark.EXECUTED):
                _check_pool(look, call)
        elif call.evidence or call.has(Mark.EXECUTED):
            _check_group(case, look, call)


def _check_pool(look: Look, call: CallFact) -> None:
    claimed_by: set[str] = set()
    for word in call.words:
        if word.mark is Mark.CLAIMED:
            claimed_by.add(word.writer)
        elif word.mark is Mark.EXECUTED and _source(word) == _EVIDENCE:
            look.looked_at += 1
            if _author(word) != word.writer or word.writer not in claimed_by:
                found_about(
                    look,
                    call,
                    f"was said at {word.seq} to be executed by the evidence of {_author(word)}, written by "
                    f"{word.writer}, and claimed by {', '.join(sorted(claimed_by)) or 'nobody'}",
                )


@dataclass(slots=True)
class _Standing:
    """What is known of a call so far: who claimed it, since when it is in doubt, and the evidence that
    counts.
    """

    claimed_by: str = ""
    doubted_ns: int | None = None
    evidence: Word | None = None


def _check_group(case: Case, look: Look, call: CallFact) -> None:
    standing = _Standing()
    for word, is_evidence in _in_order(call):
        if is_evidence:
            if standing.evidence is None and word.writer == standing.claimed_by:
                standing.evidence = word
        elif word.mark is Mark.CLAIMED:
            standing.claimed_by = word.writer
        elif word.mark is Mark.IN_DOUBT:
            standing.doubted_ns = word.at_ns
        elif word.mark is Mark.EXECUTED:
            _check_end(case, look, call, standing, word)
            standing = _Standing()
        elif word.mark is Mark.NOT_EXECUTED:
            _check_ignored(case, look, call, standing, word.at_ns, word)
            standing = _Standing()
        elif word.mark in _REOPENED or word.mark in FINAL:
            standing = _Standing()
    if standing.doubted_ns is not None:
        _check_ignored(case, look, call, standing, case.facts.last_at_ns, None)


def _in_order(call: CallFact) -> Iterator[tuple[Word, bool]]:
    """Iterate over words and evidence as they stand in the log."""
    said = [(word, False) for word in call.words] + [(word, True) for word in call.evidence]
    yield from sorted(said, key=lambda each: each[0].seq)  # those of one frame stay in their order


def _check_end(case: Case, look: Look, call: CallFact, standing: _Standing, word: Word) -> None:
    """A doubt ended by its call having run."""
    if _source(word) != _EVIDENCE:
        _check_ignored(case, look, call, standing, word.at_ns, word)
        return
    look.looked_at += 1
    evidence = standing.evidence
    if evidence is None or _author(word) != evidence.writer:
        found_about(
            look,
            call,
            f"was said at {word.seq} to be executed by the evidence of {_author(word)}, which the log does "
            f"not have ({_claim(standing)})",
        )
        return
    after = next_word(call, word)
    if after is None or (after.seq, after.mark, after.body) != (word.seq, evidence.mark, evidence.body):
        found_about(
            look,
            call,
            f"ended at {word.seq} by the evidence of {evidence.writer} at {evidence.seq}, which says "
            f"{evidence.mark.name}, with {'nothing' if after is None else after.mark.name}"
            f"{' and another body' if after is not None and after.mark is evidence.mark else ''}",
        )


def _claim(standing: _Standing) -> str:
    return f"it was claimed by {standing.claimed_by}" if standing.claimed_by else "nobody had claimed it"


def _check_ignored(
    case: Case, look: Look, call: CallFact, standing: _Standing, at_ns: int, word: Word | None
) -> None:
    """A doubt ended otherwise, or not at all, until `at_ns`: there must have been no evidence by then, but
    for what came while the word was on its way.
    """
    evidence = standing.evidence
    if evidence is None or standing.doubted_ns is None:
        return
    look.looked_at += 1
    due_ns = max(evidence.at_ns, standing.doubted_ns)
    late_ns = at_ns - due_ns
    if late_ns <= case.slack_ns:
        return
    if word is None and late_ns <= int(case.bounds.recovery_s * _S):
        return  # there may be nobody who holds the pen
    since_ns, until_ns = case.evidence_time(due_ns - _CATCHES_UP_NS), case.evidence_time(at_ns)
    if since_ns is None or until_ns is None:
        return
    if word is not None and case.is_struck((word.writer, *servers_of(case)), since_ns, until_ns):
        return
    ended = (
        "nothing has ended it"
        if word is None
        else f"{word.mark.name} by {_source(word)} at {word.seq} ended it"
    )
    found_about(
        look,
        call,
        f"was in doubt, {evidence.writer} gave evidence at {evidence.seq} that it {evidence.mark.name}, and "
        f"{late_ns / _S:.3f} s later {ended}",
    )


def _source(word: Word) -> str:
    return _text(word, "source")


def _author(word: Word) -> str:
    return _text(word, "author")


def _text(word: Word, name: str) -> str:
    said = said_in(word.body)
    return str(said.get(name, "")) if isinstance(said, dict) else ""
