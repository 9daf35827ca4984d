"""What ``aegis replay --what-if`` shows to people: the answer first, then a line for each decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from aegisipc.eventstore.cli.output import Paint, printable
from aegisipc.eventstore.system import GroupKey
from aegisipc.router.application.simulating import Simulation
from aegisipc.router.cli import sayings
from aegisipc.router.cli.times import shown_time
from aegisipc.router.domain.what_if import Change, Decided, Report, Span

_MOST: Final = 1000
"""So many lines of a kind are shown; JSON has them all."""

_LONGEST: Final = 160
_STYLE: Final = {
    "missing": "red",
    "additional": "green",
    "later": "yellow",
    "earlier": "yellow",
    "otherwise": "yellow",
}


def as_text(found: Simulation, report: Report, changes: Mapping[str, int], about: str, paint: Paint) -> str:
    """Return all of it. `report` is what is to be shown of what was found."""
    return "\n".join(_lines(found, report, changes, about, paint))


def _lines(
    found: Simulation, report: Report, changes: Mapping[str, int], about: str, paint: Paint
) -> Iterator[str]:
    if changes:
        yield paint("bold", _answer(report, changes))
        yield from _listed(report.changes, paint)
        yield from _spans(report.diverged, report.left_out, "with it", paint)
        if report.today:
            yield ""
    if report.today or not changes:
        yield paint("bold", _today(report))
        yield from _listed(report.today, paint)
    yield from _spans(report.today_diverged, report.today_left_out, "with today's code", paint)
    yield ""
    yield paint("dim", printable(_what_was_read(found, report, about)))
    yield from (paint("yellow", printable(f"note: {note}")) for note in report.notes)


def _answer(report: Report, changes: Mapping[str, int]) -> str:
    before = {key: getattr(report.before, key) for key in changes}
    with_it = ", ".join(f"{key}={value} (was {before[key]})" for key, value in changes.items())
    count = len(report.changes)
    if not count:
        return f"No decision would change with {with_it}."
    return f"{_count(count, 'decision')} would change with {with_it}:"


def _today(report: Report) -> str:
    if not report.today:
        return f"Today's code decides as was recorded: {_count(report.recorded, 'decision')}."
    count = _count(len(report.today), "difference")
    return f"With the same policy, today's code decides otherwise than was recorded: {count}"


def _listed(changes: Sequence[Change], paint: Paint) -> Iterator[str]:
    for change in changes[:_MOST]:
        yield _line(change, paint)
    if len(changes) > _MOST:
        yield f"  and {len(changes) - _MOST} more: --json has them all"


def _line(change: Change, paint: Paint) -> str:
    shown = change.shown
    about = shown.subject
    where = f"{about.service}/{about.group}" if about.service else "-"
    how = paint(_STYLE[change.how], f"{_how(change):<17}")
    seq = str(change.seq) if change.seq is not None else "-"
    name = about.type.rpartition(".v")[0] or about.type
    when = shown_time((change.after if change.before is None and change.after is not None else shown).at_ns)
    told = f"{when}  {seq:>7}  {how} {where:<16} {name:<22} {_said(change)}"
    return f"  {told.rstrip()}"


def _how(change: Change) -> str:
    match change.how:
        case "missing":
            return "would not be"
        case "additional":
            return "would be, too"
        case "otherwise":
            return "would be another"
    return f"{abs(change.shift_ms)} ms {change.how}"


def _said(change: Change) -> str:
    """What it says; of one that is another, both."""
    texts = [_tells(decided) for decided in (change.before, change.after) if decided is not None]
    said = texts[0] if change.how != "otherwise" else " -> ".join(texts)
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 1]}…"


def _tells(decided: Decided) -> str:
    if decided.event is None:
        return printable(decided.cause)
    name = decided.subject.type.rpartition(".v")[0]
    return sayings.of_event(name, decided.event.model_dump(mode="json"))


def _spans(
    spans: Sequence[Span], left_out: Mapping[GroupKey, int], which: str, paint: Paint
) -> Iterator[str]:
    if not spans:
        return
    yield ""
    yield paint("yellow", f"Where the recorded facts do not apply {which}:")
    for span in spans[:_MOST]:
        until = f" to {span.end_seq}" if span.end_seq is not None else " on"
        yield f"  {span.service}/{span.group} from sequence {span.seq}{until}: {printable(span.why)}"
    if len(spans) > _MOST:
        yield f"  and {len(spans) - _MOST} more: --json has them all"
    for (service, group), count in sorted(left_out.items()):
        yield f"  {service}/{group}: {_count(count, 'difference')} in that time not judged"


def _what_was_read(found: Simulation, report: Report, about: str) -> str:
    return (
        f"{about}, sequences {found.from_seq} to {found.until_seq}, {shown_time(found.from_ns)} to "
        f"{shown_time(found.until_ns)}: {_count(report.records, 'record')}, "
        f"{_count(report.pulses, 'heartbeat')}, {_count(report.recorded, 'recorded decision')}"
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
