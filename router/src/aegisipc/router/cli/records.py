"""How a record of the log is shown: as a line for people, as plain data for programs.

What an event means is not checked here: facts that this version does not know are shown all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.cli.output import Paint, printable, shorten
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import CALLS_TYPE, PEN_TYPE, decode_calls, decode_pen
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import CALL, PEN, Place, Subjects

_LONGEST: Final = 160
_STYLE_OF_KIND: Final = {"ha": "green", "term": "cyan", "pen": "dim", "call": "dim", "evidence": "yellow"}

type Plain = dict[str, Any]


def as_plain(record: Record, subjects: Subjects) -> Plain:
    """Return everything about a record but the bodies of its calls and outcomes. JSON-ready."""
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
    seconds, ns = divmod(record.timestamp_ns, 1_000_000_000)
    when = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000:03}Z"
    kind = str(plain.get("kind", ""))
    if "kind" in plain:
        where = "/".join(filter(None, (plain["service"], plain["group"], kind, plain["who"])))
    else:
        where = record.subject
    said = _essence(plain)
    if len(said) > _LONGEST:
        said = f"{said[: _LONGEST - 1]}…"
    type_name = printable(str(plain["type"] or "?"))
    style = _STYLE_OF_KIND.get(kind)
    shown = paint(style, f"{type_name:<21}") if style else f"{type_name:<21}"
    return f"{paint('dim', when)} {record.seq:>7}  {printable(where):<36} {shown} {said}".rstrip()


def _content(record: Record, place: Place) -> Plain:
    if place.kind == CALL:
        calls = decode_calls(record.payload, bodies=False)
        entries = [e._asdict() | {"call_id": format_call_id(e.call_id)} for e in calls.entries]
        head = {"session": calls.session, "number": calls.number, "epoch": calls.epoch}
        return {"type": CALLS_TYPE, **head, "entries": entries}
    if place.kind == PEN:
        pen = decode_pen(record.payload, bodies=False)
        marks = [{"mark": e.mark.name.lower(), "call_id": format_call_id(e.call_id)} for e in pen.entries]
        head = {"session": pen.session, "number": pen.number, "epoch": pen.epoch}
        return {"type": PEN_TYPE, **head, "entries": marks}
    try:
        type_name, data = msgpack.unpackb(record.payload)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedPayload(f"cannot read this record: {error}") from error
    if not isinstance(type_name, str) or not isinstance(data, dict):
        raise MalformedPayload("cannot read this record: it is not [type, data]")
    return {"type": type_name, "data": data}


def _essence(plain: Plain) -> str:
    if "error" in plain:
        return printable(str(plain["error"]))
    if plain["type"] == CALLS_TYPE:
        return _calls(plain)
    if plain["type"] == PEN_TYPE:
        marks = Counter(entry["mark"] for entry in plain["entries"])
        return ", ".join(f"{count} {mark}" for mark, count in marks.items()) + f" (epoch {plain['epoch']})"
    data = plain["data"]
    event = str(plain["type"]).rpartition(".v")[0]
    try:
        return printable(_said(event, data))
    except (KeyError, TypeError, AttributeError):
        return printable(str(data))


def _calls(plain: Plain) -> str:
    entries: Sequence[Plain] = plain["entries"]
    methods = Counter(entry["method"] for entry in entries)
    shown = shorten([name if n == 1 else f"{name} ×{n}" for name, n in methods.most_common()])  # noqa: RUF001 - a times sign
    resources = list(dict.fromkeys(e["resource"] for e in entries if e["resource"] is not None))
    about = f" for {shorten(resources)}" if resources else ""
    calls = "call" if len(entries) == 1 else "calls"
    return f"{len(entries)} {calls}: {shown}{about} from {plain['who']}"


def _said(event: str, data: Mapping[str, Any]) -> str:
    template = _TEMPLATES.get(event)
    if template is not None:
        return template.format_map(data)
    if event == "instance.registered":
        methods, resources = shorten(sorted(data["contract"])), shorten(data["resources"])
        return (
            f"{data['mode']}, resources {resources}, methods {methods}, pid {data['pid']} on {data['host']}"
        )
    return ", ".join(f"{key} {value}" for key, value in data.items())


_TEMPLATES: Final = {
    "group.promoted": "epoch {epoch} to {holder}: {cause}",
    "group.vacated": "nobody holds epoch {epoch} any more: {cause}",
    "instance.admitted": "{instance} (by {decided_by})",
    "instance.draining": "{cause}",
    "instance.left": "{cause}",
    "instance.lost": "{instance} silent for {silence_ms} ms (by {decided_by})",
    "instance.ready": "incarnation {incarnation}",
    "instance.recovered": "{instance} (by {decided_by})",
    "instance.refused": "{instance}: {error[message]}",
    "instance.suspected": "{instance} silent for {silence_ms} ms (by {decided_by})",
    "router.elected": "{router} leads term {term}: {cause}",
    "router.resigned": "{router} leads term {term} no more",
}
