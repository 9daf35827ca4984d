"""What the read model knows of one call, as text: where it stands, and how it came there."""

from __future__ import annotations

from collections.abc import Iterator

from aegisipc.eventstore.cli.output import Paint, printable
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.sql.queries import CallStory, Row
from aegisipc.router.cli.history_tables import error_in, latency, style_of, took
from aegisipc.router.cli.times import shown_time


def story_text(story: CallStory, now_ns: int, paint: Paint) -> str:
    """Tell what the read model knows of a call."""
    lines = [f"{name:<10} {printable(text)}" for name, text in _facts(story.call)]
    state = story.call["status"]
    shown, style = state.replace("_", " "), style_of(state)
    lines.append(f"{'state':<10} {paint(style, shown) if style else shown}")
    if story.call["concluded_ns"] is None:
        lines[-1] += f" ({took(story.call, now_ns)})"
    told = [*_ending(story.call), *(("doubt", _doubt(row)) for row in story.doubts)]
    if story.dead_letter is not None:
        told.append(("given up", _dead_letter(story.dead_letter)))
    return "\n".join([*lines, *(f"{name:<10} {printable(text)}" for name, text in told)])


def _facts(call: Row) -> Iterator[tuple[str, str]]:
    yield "call", call["call_id"]
    resource = "none" if call["resource"] is None else call["resource"]
    yield "method", f"{call['service']}.{call['method']} (group {call['group_name']}, resource {resource})"
    if call["arguments"] is not None:
        yield "arguments", call["arguments"]
    if call["idempotency_key"] is not None:
        yield "key", call["idempotency_key"]
    yield "client", call["client"]
    yield "accepted", f"{shown_time(call['accepted_ns'])} (sequence {call['accepted_seq']})"
    yield "deadline", shown_time(call["deadline_ns"])
    if call["claimed_by"] is not None:
        at = f" at {shown_time(call['started_ns'])}" if call["started_ns"] is not None else ""
        yield "claimed", f"by {call['claimed_by']}{_epoch(call)}{at}"


def _ending(call: Row) -> Iterator[tuple[str, str]]:
    if call["tries"]:
        yield "tries", f"{call['tries']} failed and were to be made again"
    if call["attempts"]:
        yield "attempts", f"begun again {call['attempts']} times after whoever ran it went down"
    if call["concluded_ns"] is not None:
        by = f" by {call['concluded_by']}" if call["concluded_by"] is not None else ""
        after = f", after {latency(call['latency_us'])}" if call["latency_us"] is not None else ""
        yield "outcome", f"{shown_time(call['concluded_ns'])}{by} (sequence {call['concluded_seq']}){after}"
    if call["error_code"] is not None:
        yield "error", str(error_in(call))
    if call["result"] is not None:
        yield "result", call["result"]


def _doubt(row: Row) -> str:
    claimed = f", claimed by {row['claimed_by']}{_epoch(row)}" if row["claimed_by"] is not None else ""
    text = f"since {shown_time(row['at_ns'])} (sequence {row['seq']}){claimed}"
    if row["resolved_ns"] is None:
        return f"{text}; nobody has found out yet"
    who = f", says {row['author']}" if row["author"] else ""
    source = f" ({row['source']})" if row["source"] else ""
    why = f": {row['reason']}" if row["reason"] else ""
    how = str(row["resolution"]).replace("_", " ")
    return f"{text}; {how} at {shown_time(row['resolved_ns'])}{who}{source}{why}"


def _dead_letter(row: Row) -> str:
    text = f"{shown_time(row['at_ns'])} (sequence {row['seq']}): {row['reason']}: {row['message']}"
    if row["dealt_ns"] is None:
        return f"{text}; it waits for aegis dlq requeue or discard"
    return f"{text}; {row['state']} at {shown_time(row['dealt_ns'])} by {row['dealt_by']}"


def _epoch(row: Row) -> str:
    """A pool has none."""
    return "" if row["group_name"] == POOL_GROUP else f" in epoch {row['claimed_epoch']}"
