"""The rows of who was what: for each instance and router its role as spans, with the epoch."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aegisipc.chaos.history import Probe
from aegisipc.chaos.report.figures import Figures
from aegisipc.chaos.report.markup import Markup, tag
from aegisipc.chaos.report.model import RoleSpan
from aegisipc.chaos.report.rows import Row, fits, title
from aegisipc.chaos.report.scale import WIDTH, Scale
from aegisipc.chaos.report.wording import counted, lasting, moment

HEIGHT = 20
MOST_NODES = 24
MOST_SPANS = 150
"""In one row; of more, the longest are shown."""

ROLES = ("active", "standby", "suspected", "lost", "draining", "leading", "following")

_GROUP = "Roles"
_ROUTER_ROLES = frozenset({"leading", "following"})
_DIGITS = re.compile(r"(\d+)")


def role_rows(figures: Figures) -> Iterator[Row]:
    """Yield a row for each node: routers first, then by name; of very many, those that were most."""
    spans: dict[str, list[RoleSpan]] = {}
    for span in figures.run.roles:
        spans.setdefault(span.node, []).append(span)
    probes = {probe.node: probe for probe in figures.run.evidence.probes}
    for node in sorted(spans, key=lambda node: _order(node, spans[node]))[:MOST_NODES]:
        yield _row(node, spans[node], probes.get(node), figures.scale)


def left_out(figures: Figures) -> str:
    """Return what the picture does not show of the roles, as a sentence; empty if it shows all."""
    nodes = {span.node for span in figures.run.roles}
    hidden = len(nodes) - MOST_NODES
    return f"{counted(hidden, 'more node has', 'more nodes have')} no row." if hidden > 0 else ""


def role_class(role: str) -> str:
    """Return the class of the look of a role."""
    return f"role-{role}" if role in ROLES else "role-other"


def _order(node: str, spans: list[RoleSpan]) -> tuple[bool, list[tuple[bool, int, str]]]:
    is_router = any(span.role in _ROUTER_ROLES for span in spans)
    parts = [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in _DIGITS.split(node)]
    return not is_router, parts


def _row(node: str, spans: list[RoleSpan], probe: Probe | None, scale: Scale) -> Row:
    drawn = sorted(spans, key=lambda span: _until(span, scale) - span.at_ns, reverse=True)[:MOST_SPANS]
    drawn.sort(key=lambda span: span.at_ns)
    shapes = [_span(span, scale) for span in drawn]
    return Row(_GROUP, node, HEIGHT, tag("g", shapes, _probe(probe, scale) if probe else None))


def _until(span: RoleSpan, scale: Scale) -> int:
    """Return when it was over; one without an end, or with one before its beginning, lasted to the end."""
    return span.until_ns if span.until_ns >= span.at_ns and span.until_ns else scale.end_ns


def _span(span: RoleSpan, scale: Scale) -> Markup:
    x, until = scale.x(span.at_ns), scale.x(_until(span, scale))
    width = max(until - x, 1.0)
    epoch = f"e{span.epoch}" if span.epoch else ""
    seconds = (_until(span, scale) - span.at_ns) / 1e9
    words = next(
        (each for each in (f"{span.role} {epoch}".strip(), epoch or span.role) if each and fits(each, width)),
        "",
    )
    return tag(
        "g",
        title(
            f"{span.node}: {span.role}{f', epoch {span.epoch}' if span.epoch else ''}",
            f"{moment(scale.seconds(span.at_ns))}, for {lasting(seconds)}",
        ),
        tag("rect", class_=role_class(span.role), x=x, y=3, width=width, height=HEIGHT - 6, rx=1.5),
        tag("text", words, class_=f"in-{role_class(span.role)}", x=x + 4, y=HEIGHT / 2 + 3.5)
        if words
        else None,
    )


def _probe(probe: Probe, scale: Scale) -> Markup:
    """Mark when the node was asked after everything was healed, and whether it served."""
    x = min(max(scale.x(probe.at_ns), 8.0), WIDTH - 8.0)
    told = (
        f"serves {lasting(probe.after_s)} after the repair"
        if probe.serves
        else "does not serve after the repair"
    )
    return tag(
        "g",
        title(f"{probe.node} {told}", probe.detail),
        tag("circle", class_="probe-ok" if probe.serves else "probe-bad", cx=x, cy=HEIGHT / 2, r=7.0),
        tag("text", "✓" if probe.serves else "✕", class_="in-probe", x=x, y=HEIGHT / 2 + 3.5),
    )
