"""Leaving somebody hostile out of what is judged: nothing is promised of what he does."""

from __future__ import annotations

from aegisipc.chaos.log_facts import LogFacts
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import decode_calls
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.subjects import CALL, Subjects


async def leave_out(facts: LogFacts, who: str, log: Log, subjects: Subjects) -> None:
    """Leave out what a writer wrote, and what others said of his calls: whether he did harm shows in what is
    left. Frames of his that no reader has to take are his, too: a worker that is given one may answer it.

    Raises:
        AegisError: the log cannot be read now.
    """
    facts.strangers[:] = [stranger for stranger in facts.strangers if stranger.writer != who]
    facts.used_twice[:] = [(i, seq) for i, seq in facts.used_twice if facts.calls[i].client != who]
    for call_id in [call_id for call_id, call in facts.calls.items() if call.client == who]:
        call = facts.calls.pop(call_id)
        if call.number is not None:
            rest = (other for other in facts.by_number[call.number] if other is not call)
            facts.by_number[call.number] = tuple(rest)
    if facts.orphans:
        own = await _calls_of(who, log, subjects)
        facts.orphans[:] = [
            (call_id, word) for call_id, word in facts.orphans if call_id not in own and word.writer != who
        ]


async def _calls_of(who: str, log: Log, subjects: Subjects) -> set[str]:
    """Return the ids of all calls in all frames of a writer, whether they count or not."""
    found: set[str] = set()
    async for record in log.read([subjects.of_kind("*", "*", CALL)]):
        try:
            if subjects.parse(record.subject).who == who:
                found |= {format_call_id(entry.call_id) for entry in decode_calls(record.payload).entries}
        except MalformedPayload:
            continue
    return found
