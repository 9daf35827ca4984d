"""``aegis replay --what-if``: which decisions would have been others."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from aegisipc.eventstore import replay as history
from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.replay import Point, Source
from aegisipc.eventstore.system import GroupKey
from aegisipc.router.application.simulating import Simulation, simulate
from aegisipc.router.cli.replaying import warn_of
from aegisipc.router.cli.what_if_text import as_text
from aegisipc.router.domain.what_if import Change, Decided, Report, Span
from aegisipc.router.domain.what_if_facts import BadPolicy, read_policy

NO_GROUP: Final = ("", "")
"""Of elections."""

type Plain = dict[str, Any]


def check(args: Namespace) -> None:
    """Refuse what can be no policy, as bad usage."""
    for flag, texts in (("--what-if", args.what_if), ("--policy", args.policy)):
        try:
            read_policy(texts or [])
        except BadPolicy as error:
            args.usage_error(f"{flag}: {error.message}")


async def run(args: Namespace, source: Source, since: Point | None, until: Point) -> int:
    """Simulate, and print what would have been otherwise."""
    changes, given = read_policy(args.what_if), read_policy(args.policy or [])
    found = await simulate(source, changes, since=since, until=until, given=given, on_skip=warn_of)
    filters = history.filters_of(args.service, args.group, args.resource)
    names = history.names_in(found.state)
    history.check_filters(filters, names)
    wanted = {
        key
        for key, resources in names.items()
        if filters.holds(*key) and filters.resource in (None, *resources)
    }
    shown = only_of(found.report, wanted if filters.said else None)
    if args.json:
        print_json({"source": source.about, **as_plain(found, shown, changes)})
    else:
        print(as_text(found, shown, changes, source.about, Paint()))
    return 0


def only_of(report: Report, wanted: set[GroupKey] | None) -> Report:
    """Leave out what is about other groups, unless it is about all of them. ``None``: leave out nothing."""
    if wanted is None:
        return report

    def of(changes: list[Change]) -> list[Change]:
        return [change for change in changes if change.shown.group in {*wanted, NO_GROUP}]

    def where(spans: list[Span]) -> list[Span]:
        return [span for span in spans if (span.service, span.group) in wanted]

    return replace(
        report,
        changes=of(report.changes),
        today=of(report.today),
        diverged=where(report.diverged),
        today_diverged=where(report.today_diverged),
        left_out={key: count for key, count in report.left_out.items() if key in wanted},
        today_left_out={key: count for key, count in report.today_left_out.items() if key in wanted},
    )


def as_plain(found: Simulation, report: Report, changes: dict[str, int]) -> Plain:
    """Return what came of it, for programs."""
    return {
        "from": {"seq": found.from_seq, "time": format_time(found.from_ns)},
        "until": {"seq": found.until_seq, "time": format_time(found.until_ns)},
        "what_if": changes,
        "policy": asdict(report.before),
        "changed_policy": asdict(report.after),
        "changes": [_change(change) for change in report.changes],
        "diverged": [_span(span) for span in report.diverged],
        "left_out": _left_out(report.left_out),
        "today": {
            "changes": [_change(change) for change in report.today],
            "diverged": [_span(span) for span in report.today_diverged],
            "left_out": _left_out(report.today_left_out),
        },
        "decisions": {"recorded": report.recorded, "simulated": report.simulated},
        "read": {"records": report.records, "heartbeats": report.pulses},
        "notes": report.notes,
    }


def _change(change: Change) -> Plain:
    about = change.shown.subject
    return {
        "how": change.how,
        "shift_ms": change.shift_ms if change.before and change.after else None,
        "seq": change.seq,
        **about._asdict(),
        "before": _decided(change.before),
        "after": _decided(change.after),
    }


def _decided(decided: Decided | None) -> Plain | None:
    if decided is None:
        return None
    return {
        "time": format_time(decided.at_ns),
        "ns": decided.at_ns,
        "cause": decided.cause,
        "data": decided.event.model_dump(mode="json") if decided.event is not None else None,
    }


def _span(span: Span) -> Plain:
    return {
        "service": span.service,
        "group": span.group,
        "from_seq": span.seq,
        "from_time": format_time(span.start_ns),
        "until_seq": span.end_seq,
        "until_time": format_time(span.end_ns) if span.end_ns is not None else None,
        "why": span.why,
    }


def _left_out(counts: Mapping[GroupKey, int]) -> Plain:
    return {"/".join(key): count for key, count in sorted(counts.items())}
