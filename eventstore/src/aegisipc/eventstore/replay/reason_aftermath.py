"""What a change of a group's pen meant for its calls, as links of the chain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.replay.reason_calls import Aftermath, Fate, Word
from aegisipc.eventstore.replay.reason_reading import Heard, Turn
from aegisipc.eventstore.replay.reason_steps import Reason, by_whom, counted, ended, error_in, lasted

MAX_TOLD: Final = 20
"""Calls in doubt that have links of their own, the oldest ones; the others are counted."""


def tell_aftermath(reason: Reason, after: Aftermath, turn: Turn, fence: int, heard: Heard) -> None:
    """Add what became of the calls, after the fence."""
    former = turn.before.holder
    fates = list(after.fates.values())
    shown = sorted(fates, key=lambda fate: (fate.doubt is None, fate.is_settled))[:MAX_TOLD]
    for fate in sorted(shown, key=lambda fate: fate.claim_seq):
        _tell_fate(reason, fate, fence)
    if after.may_have_run > len(shown):
        reason.notes.append(
            f"{after.may_have_run - len(shown)} more calls had been claimed: --json lists more"
        )
    for call in after.again[:MAX_TOLD]:
        reason.notes.append(
            f"call {format_call_id(call.call_id)} ({call.method}) had been begun alone "
            f"{counted(call.attempts, 'time')}, because it may have taken instances down, without an outcome"
        )
    if former is not None:
        _tell_late(reason, after, former, fence, heard)
    if isinstance(turn.happening.event, ev.GroupPromoted):
        _tell_first(reason, after, turn, fence)


def _tell_fate(reason: Reason, fate: Fate, fence: int) -> None:
    call = _named(fate)
    claim: list[int] = []
    if fate.claim_seq:
        said = f"{fate.claimed_by} had begun {call} as epoch {fate.claimed_epoch}, without an outcome"
        about = format_call_id(fate.call_id)
        claim = [
            reason.add("claimed", said, seq=fate.claim_seq, at_ns=fate.claimed_ns, call_id=about),
        ]
    doubt = claim
    if fate.doubt is not None:
        since = "" if fate.claim_seq else f", since before; {fate.claimed_by} had begun it"
        said = f"{call} is in doubt: it may have run{since}"
        doubt = [_word(reason, "in_doubt", said, fate, fate.doubt, [*claim, fence])]
    steps = list(doubt)
    if fate.evidence is not None:
        said = f"{fate.evidence.writer} says that {call} ran there, and {ended(fate.evidence.mark)}"
        steps.append(_word(reason, "evidence", said, fate, fate.evidence, claim))
    if fate.resolution is not None:
        how = "it ran" if fate.resolution.mark is Mark.EXECUTED else "it did not run, and runs now"
        said = f"the doubt about {call} is over: {how}, says {by_whom(fate.resolution.said)}"
        steps = [_word(reason, "resolved", said, fate, fate.resolution, steps)]
    if fate.end is not None:
        why = f" ({error_in(fate.end.said)})" if fate.end.mark not in _PLAIN_ENDS and fate.end.said else ""
        said = f"{call} {ended(fate.end.mark)}{why}, says {fate.end.writer}"
        _word(reason, "ended", said, fate, fate.end, steps)


_PLAIN_ENDS: Final = frozenset({Mark.SUCCEEDED, Mark.DUPLICATE})


def _word(reason: Reason, what: str, said: str, fate: Fate, word: Word, follows: Iterable[int]) -> int:
    about = format_call_id(fate.call_id)
    return reason.add(
        what,
        said,
        seq=word.seq,
        at_ns=word.at_ns,
        follows=follows,
        call_id=about,
        **{key: value for key, value in word.to_plain().items() if key not in ("seq", "at_ns", "what")},
        mark=word.mark.name.lower(),
    )


def _named(fate: Fate) -> str:
    about = f" for {fate.resource}" if fate.resource is not None else ""
    return f"call {format_call_id(fate.call_id)} ({fate.method}{about})"


def _tell_late(reason: Reason, after: Aftermath, former: str, fence: int, heard: Heard) -> None:
    for record, frame in after.late:
        words = counted(len(frame.entries), "word")
        said = f"{former} still wrote {words} of epoch {frame.epoch}, which came too late and do not count"
        reason.add(
            "late",
            said,
            seq=record.seq,
            at_ns=record.timestamp_ns,
            follows=[fence],
            epoch=frame.epoch,
            entries=len(frame.entries),
        )
    more = after.late_frames - len(after.late)
    if more > 0:
        reason.notes.append(f"{counted(more, 'more frame')} of {former} came too late and do not count")
    if heard.fenced:
        reason.notes.append(
            f"{former} reports that the server refused {counted(heard.fenced, 'frame')} of its own"
        )


def _tell_first(reason: Reason, after: Aftermath, turn: Turn, fence: int) -> None:
    word, call = after.first, after.first_call
    if word is None or call is None:
        waiting = f", though {counted(after.open, 'call')} waited" if after.open else ""
        reason.notes.append(f"nobody has had an outcome from the new holder yet{waiting}")
        return
    after_ns = word.at_ns - turn.happening.at_ns
    said = (
        f"first outcome by {word.writer}, {lasted(after_ns)} after the fence: call "
        f"{format_call_id(call.call_id)} ({call.method}) {ended(word.mark)}"
    )
    reason.add(
        "first_outcome",
        said,
        seq=word.seq,
        at_ns=word.at_ns,
        follows=[fence],
        call_id=format_call_id(call.call_id),
        by=word.writer,
        after_ms=after_ns // 1_000_000,
        mark=word.mark.name.lower(),
    )
