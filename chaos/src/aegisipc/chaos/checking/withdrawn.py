"""Instances that may start nothing: in quarantine, on their way out, or gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.outcomes import found_about
from aegisipc.chaos.checking.starts import begun_calls, servers_of
from aegisipc.chaos.history import Effect
from aegisipc.chaos.log_facts import REGISTERED, RESUMED, Group, LogEvent
from aegisipc.eventstore.names import POOL_GROUP

DRAINING: Final = "instance.draining.v1"
LEFT: Final = "instance.left.v1"
STOP: Final = "stop"

_S: Final = 1_000_000_000
_QUARANTINE: Final = "was put into quarantine"


@dataclass(slots=True)
class _Span:
    """Since when one run of an instance may start nothing, until when (``None``: for good), and why."""

    since_ns: int
    why: str
    until_ns: int | None = None


type _Who = tuple[Group, str]


def check_withdrawn(case: Case, look: Look) -> None:
    """An instance in quarantine begins nothing until its group is resumed; one that drains (in a pool: that
    left) begins nothing more, once it had said so. The same instance may do so in its next run. One about
    which something was broken may have had a claim on its way.
    """
    spans = _spans(case)
    look.looked_at += sum(len(each) for each in spans.values())
    if not spans:
        return
    struck_for_ns = int(case.bounds.recovery_s * _S)
    for call, begun, at_ns in begun_calls(case):
        span = _span_at(spans.get((call.place, begun.instance), ()), at_ns)
        if span is None or at_ns - span.since_ns <= case.slack_ns:
            continue
        from_ns = case.evidence_time(span.since_ns - struck_for_ns) or 0
        is_known = span.why == _QUARANTINE  # from its own registration on, whatever is broken
        if is_known or not _is_excused(case, begun, from_ns):
            late_s = (at_ns - span.since_ns) / _S
            found_about(look, call, f"was begun by {begun.instance} {late_s:.3f} s after that {span.why}")


def _is_excused(case: Case, begun: Effect, since_ns: int) -> bool:
    """Tell whether something was broken that can have kept a claim on its way. To be stopped in good order is
    why it drains.
    """
    if case.is_struck(servers_of(case), since_ns, begun.at_ns):
        return True
    return any(
        fault.name != STOP and fault.at_ns <= begun.at_ns and fault.until_ns >= since_ns
        for fault in case.struck.get(begun.instance, ())
    )


def _spans(case: Case) -> dict[_Who, list[_Span]]:
    found: dict[_Who, list[_Span]] = {}
    runs: dict[_Who, object] = {}
    for event in case.facts.of_type(REGISTERED, RESUMED, DRAINING, LEFT):
        group = event.service, event.group
        if event.type == RESUMED:
            for span in _open(found, group):
                span.until_ns = event.at_ns
            continue
        who = group, event.by
        run = event.data.get("incarnation")
        if event.type == REGISTERED:
            _begin_run(found.get(who, []), event)
            runs[who] = run
        elif runs.get(who) != run:
            continue  # a late word of an earlier run
        why = _why(event)
        if why is not None:
            found.setdefault(who, []).append(_Span(event.at_ns, why))
    return found


def _open(found: dict[_Who, list[_Span]], group: Group) -> Iterator[_Span]:
    """Iterate over the quarantines of a group that nobody has lifted."""
    for (of, _), spans in found.items():
        if of == group:
            yield from (span for span in spans if span.why == _QUARANTINE and span.until_ns is None)


def _begin_run(spans: list[_Span], event: LogEvent) -> None:
    for span in spans:
        if span.until_ns is None:
            span.until_ns = event.at_ns


def _why(event: LogEvent) -> str | None:
    """Return what an event says that keeps an instance from starting calls, ``None`` if nothing."""
    if event.type == REGISTERED:
        return _QUARANTINE if event.data.get("quarantined") is True else None
    if event.type == DRAINING:
        # A worker ends what it has in hand.
        return None if event.group == POOL_GROUP else "said that it drains"
    return "left"


def _span_at(spans: list[_Span] | tuple[()], at_ns: int) -> _Span | None:
    """Return the first span that a time is in."""
    return next(
        (s for s in spans if s.since_ns <= at_ns and (s.until_ns is None or at_ns < s.until_ns)), None
    )
