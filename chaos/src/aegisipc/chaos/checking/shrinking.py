"""The shortest history that shows a finding."""

from __future__ import annotations

from typing import NamedTuple

from aegisipc.chaos.history import Entry, Evidence
from aegisipc.chaos.log_facts import CallFact, LogFacts, Word
from aegisipc.chaos.log_words import code_of
from aegisipc.chaos.verdicts import Finding
from aegisipc.eventstore.frames import OUTCOMES


class LogStep(NamedTuple):
    """One record of the log that belongs to a finding, in words. ``at_ns`` is the server's time."""

    seq: int
    at_ns: int
    text: str


def shrink_history(evidence: Evidence, facts: LogFacts, finding: Finding) -> list[Entry]:
    """Return the operations and effects of the calls that a finding is about, and the faults that lasted
    meanwhile, in time order. See :func:`log_steps` for what the log says of them.
    """
    call_ids = set(finding.call_ids)
    numbers: set[int | None] = set(finding.numbers)
    numbers |= {facts.calls[i].number for i in call_ids if i in facts.calls} - {None}
    numbers |= {operation.number for operation in evidence.operations if operation.call_id in call_ids}
    entries: list[Entry] = [o for o in evidence.operations if o.number in numbers or o.call_id in call_ids]
    entries += [
        e for e in evidence.effects if e.call_id in call_ids or (not call_ids and e.number in numbers)
    ]
    if entries:
        begin, end = min(e.at_ns for e in entries), max(e.at_ns for e in entries)
        entries += [f for f in evidence.faults if f.at_ns <= end and f.until_ns >= begin]
    return sorted(entries, key=lambda entry: entry.at_ns)


def log_steps(facts: LogFacts, finding: Finding) -> list[LogStep]:
    """Return what the log says of the calls that a finding is about, and of the pen of their groups
    meanwhile, in its order.
    """
    calls = [facts.calls[call_id] for call_id in finding.call_ids if call_id in facts.calls]
    steps = [step for call in calls for step in _steps_of(call)]
    steps += [
        _step(against.call_id, against.word, ", a contradiction")
        for against in facts.contradictions
        if against.call_id in finding.call_ids
    ]
    seqs = [*finding.seqs, *(step.seq for step in steps)]
    if seqs:
        begin, end = min(seqs), max(seqs)
        groups = {call.place for call in calls} or set(facts.fences)
        for group in groups:
            for event in facts.fences.get(group, ()):
                if begin <= event.seq <= end or event.seq in finding.seqs:
                    who = event.data.get("holder", "")
                    text = f"{'/'.join(group)}: {event.type} epoch {event.data.get('epoch')} {who}".rstrip()
                    steps.append(LogStep(event.seq, event.at_ns, text))
    for stranger in facts.strangers:
        if stranger.seq in finding.seqs:
            text = f"{stranger.kind} by {stranger.writer} in epoch {stranger.epoch}, not the holder's"
            steps.append(LogStep(stranger.seq, 0, text))
    return sorted(set(steps))


def _steps_of(call: CallFact) -> list[LogStep]:
    accepted = f"{call.call_id} accepted: {call.service}.{call.method} of {call.client}"
    steps = [LogStep(call.seq, call.at_ns, accepted)]
    steps += [_step(call.call_id, word, "") for word in call.words]
    steps += [_step(call.call_id, word, ", void") for word in call.void]
    steps += [_step(call.call_id, word, ", evidence") for word in call.evidence]
    return steps


def _step(call_id: str, word: Word, more: str) -> LogStep:
    code = code_of(word.body) if word.mark in OUTCOMES else ""
    said = f"{call_id} {word.mark.name}{f' ({code})' if code else ''} by {word.writer}"
    return LogStep(word.seq, word.at_ns, f"{said}{f' in epoch {word.epoch}' if word.epoch else ''}{more}")
