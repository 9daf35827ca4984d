"""How a record of the log is shown: as a line for people, as plain data for programs.

What an event means is not checked here: facts that this version does not know are shown all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.cli.output import Paint, printable
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError, MalformedPayload
from aegisipc.eventstore.frames import (
    CALLS_TYPE,
    NO_CALL,
    PEN_TYPE,
    CallEntry,
    Mark,
    decode_calls,
    decode_pen,
)
from aegisipc.eventstore.group_snapshots import SNAPSHOT_TYPE, decode_snapshot
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.keys import SEGMENT_TYPE, decode_segment
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.snapshot_records import PART_TYPE, decode_part
from aegisipc.eventstore.subjects import (
    CALL,
    CONCLUSIONS,
    EVIDENCE,
    KEYS,
    SNAPSHOT,
    SNAPSHOT_PART,
    STATE,
    Place,
    Subjects,
)
from aegisipc.router.cli import sayings
from aegisipc.router.cli.times import shown_time

_LONGEST: Final = 200
_STYLE_OF_KIND: Final = {
    "ha": "green",
    "term": "cyan",
    "pen": "dim",
    "call": "dim",
    "evidence": "yellow",
    "state": "dim",
    "keys": "dim",
    "snapshot": "dim",
    "dead": "yellow",
    "cancel": "yellow",
}
_OPEN_CALLS: Final = 4
"""Where a snapshot's dump of the calls has the open ones."""

type Plain = dict[str, Any]


def as_plain(record: Record, subjects: Subjects) -> Plain:
    """Return everything about a record but arguments, results and states. JSON-ready."""
    plain: Plain = {
        "seq": record.seq,
        "time": format_time(record.timestamp_ns),
        "subject": record.subject,
        "bytes": len(record.payload),
    }
    try:
        place = subjects.parse(record.subject)
        return plain | place._asdict() | _content(record, place)
    except MalformedPayload as error:
        return plain | {"type": None, "error": error.message}


def as_line(record: Record, subjects: Subjects, paint: Paint) -> str:
    """Return a record as one line: time, sequence, place, type and what matters."""
    plain = as_plain(record, subjects)
    when = shown_time(record.timestamp_ns)
    if "kind" in plain:
        where = "/".join(filter(None, (plain["service"], plain["group"], plain["kind"], plain["who"])))
    else:
        where = record.subject
    said = _essence(plain)
    if len(said) > _LONGEST:
        said = f"{said[: _LONGEST - 1]}…"
    type_name = f"{printable(str(plain['type'] or '?')):<25}"
    style = _style(plain)
    shown = paint(style, type_name) if style else type_name
    return f"{paint('dim', when)} {record.seq:>7}  {printable(where):<36} {shown} {said}".rstrip()


def _style(plain: Plain) -> str | None:
    if _event(plain) in sayings.TROUBLE:
        return "yellow"
    if plain["type"] == PEN_TYPE and not sayings.TROUBLING_MARKS.isdisjoint(
        entry["mark"] for entry in plain["entries"]
    ):
        return "yellow"
    return _STYLE_OF_KIND.get(str(plain.get("kind", "")))


def _event(plain: Plain) -> str:
    return str(plain["type"]).rpartition(".v")[0]


def _content(record: Record, place: Place) -> Plain:
    if place.kind == CALL:
        calls = decode_calls(record.payload, bodies=False)
        entries = [_call_plain(entry) for entry in calls.entries]
        head = {"session": calls.session, "number": calls.number, "epoch": calls.epoch}
        return {"type": CALLS_TYPE, **head, "entries": entries}
    if place.kind in CONCLUSIONS or place.kind == EVIDENCE:
        pen = decode_pen(record.payload)
        marks = [_entry(*entry, body) for entry, body in zip(pen.entries, pen.bodies, strict=True)]
        head = {"session": pen.session, "number": pen.number, "epoch": pen.epoch}
        return {"type": PEN_TYPE, **head, "entries": marks}
    if place.kind == STATE:
        return _snapshot(record.payload)
    if place.kind == KEYS:
        return _segment(record.payload)
    if place.kind == SNAPSHOT and place.who == SNAPSHOT_PART:
        return _part(record.payload)
    try:
        type_name, data = msgpack.unpackb(record.payload)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedPayload(f"cannot read this record: {error}") from error
    if not isinstance(type_name, str) or not isinstance(data, dict):
        raise MalformedPayload("cannot read this record: it is not [type, data]")
    return {"type": type_name, "data": data}


def _call_plain(entry: CallEntry) -> Plain:
    plain = entry._asdict() | {"call_id": format_call_id(entry.call_id)}
    options = plain.pop("options")
    return plain if options is None else plain | options._asdict()


def _segment(payload: bytes) -> Plain:
    segment = decode_segment(payload)
    return {
        "type": SEGMENT_TYPE,
        "session": segment.session,
        "epoch": segment.epoch,
        "since": segment.since,
        "covers": segment.covers,
        "keys": len(segment.entries),
    }


def _entry(mark: Mark, call_id: CallId, body: bytes | None) -> Plain:
    """Results and errors of calls are left out; of an event of the shared state, its name is told."""
    name = mark.name.lower()
    entry: Plain = {"mark": name, "call_id": None if call_id == NO_CALL else format_call_id(call_id)}
    if mark is Mark.CHECKED:
        return entry | {"says": (body or b"").hex()}
    if mark is Mark.EMITTED:
        return entry | {"event": _event_name(_said(body))}
    if mark is Mark.DUPLICATE and body is not None and len(body) == len(NO_CALL):
        return entry | {"says": format_call_id(body)}
    if mark is Mark.REQUEUED:
        said = _said(body)
        return entry | {"says": {**said, "call": None} if isinstance(said, dict) else said}
    return entry | {"says": _said(body)} if sayings.says_more(name) else entry


def _said(body: bytes | None) -> Any:
    if body is None:
        return None
    try:
        return decode(body)
    except CodecError:
        return f"(unreadable, {len(body)} bytes)"


def _event_name(event: Any) -> str | None:
    match event:
        case [str(name), _]:
            return name
    return None


def _snapshot(payload: bytes) -> Plain:
    snapshot = decode_snapshot(payload)
    try:
        open_calls = len(snapshot.calls[_OPEN_CALLS])
    except (LookupError, TypeError) as error:
        raise MalformedPayload("cannot read the calls in a snapshot") from error
    return {
        "type": SNAPSHOT_TYPE,
        "covers": snapshot.covers,
        "epoch": snapshot.epoch,
        "open_calls": open_calls,
        "state_bytes": None if snapshot.state is None else len(snapshot.state),
    }


def _part(payload: bytes) -> Plain:
    part = decode_part(payload)
    return {
        "type": PART_TYPE,
        "snapshot": part.snapshot_id.hex(),
        "number": part.number,
        "piece_bytes": len(part.piece),
    }


def _essence(plain: Plain) -> str:
    if "error" in plain:
        return printable(str(plain["error"]))
    if plain["type"] == PEN_TYPE and plain["kind"] == EVIDENCE:
        return sayings.of_evidence(plain["entries"], plain["who"])
    say = _OF_FRAMES.get(plain["type"])
    return say(plain) if say is not None else sayings.of_event(_event(plain), plain["data"])


_OF_FRAMES: Final[Mapping[str, Callable[[Plain], str]]] = {
    CALLS_TYPE: lambda plain: sayings.of_calls(plain["entries"], plain["who"]),
    PEN_TYPE: lambda plain: sayings.of_marks(plain["entries"], plain["epoch"]),
    SNAPSHOT_TYPE: sayings.of_snapshot,
    SEGMENT_TYPE: sayings.of_segment,
    PART_TYPE: sayings.of_part,
}
