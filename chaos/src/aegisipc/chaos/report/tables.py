"""The tables of a scenario: what became of the calls, what was broken, what processes held, who serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aegisipc.chaos.history import Fault, Probe, Sample
from aegisipc.chaos.report.figures import Figures
from aegisipc.chaos.report.markup import Child, Markup, join, tag
from aegisipc.chaos.report.matrix import recovery_text
from aegisipc.chaos.report.scale import Scale
from aegisipc.chaos.report.wording import DASH, count, counted, lasting, memory, moment

_MOST_FAULTS = 20

MOST_ROWS = 60
"""Of a table; the rest is counted."""


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Child]], hidden: str = ""
) -> Markup | None:
    """Return a table; ``None`` if it has no row. Heads that begin with ``#`` are of numbers; an empty column
    is left out.
    """
    body = list(rows)
    if not body:
        return None
    used = [index for index in range(len(heads)) if any(row[index] != "" for row in body)]
    head = (
        tag("th", heads[index].removeprefix("#"), scope="col", class_=_look(heads[index])) for index in used
    )
    lines = (tag("tr", (tag("td", row[index], class_=_look(heads[index])) for index in used)) for row in body)
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", lines)),
        tag("p", hidden, class_="muted") if hidden else None,
        class_="scroll",
    )


def _look(head: str) -> str | None:
    return "number" if head.startswith("#") else None


def tables(figures: Figures) -> Markup | None:
    """Return the tables of a scenario that have something in them; ``None`` if none has."""
    evidence = figures.run.evidence
    found = (
        _outcomes(figures),
        _latency(figures),
        _counted(figures),
        _probes(evidence.probes),
        _processes(evidence.samples),
        _faults(figures.recoveries, figures.scale),
    )
    return join(tag("h3", "Numbers"), tag("div", found, class_="tables")) if any(found) else None


def _outcomes(figures: Figures) -> Markup | None:
    total = figures.called
    rows = [[name, count(number), f"{number / total:.2%}"] for name, number in figures.outcomes.most_common()]
    rows += [[f"({name})", count(number), ""] for name, number in figures.others.most_common()]
    return table(
        f"What became of {counted(total, 'call')}", ("told", "#count", "#share"), _few(rows), _rest(rows)
    )


def _latency(figures: Figures) -> Markup | None:
    rows = [[name, lasting(seconds)] for name, seconds in figures.latency_s.items()]
    return table("How long clients waited", ("quantile", "#time"), rows)


def _counted(figures: Figures) -> Markup | None:
    numbers = figures.run.judgement.numbers
    rows = [[name.replace("_", " "), count(number)] for name, number in numbers.items()]
    return table("Counted by the checker", ("what", "#count"), _few(rows), _rest(rows))


def _faults(recoveries: Sequence[tuple[Fault, float | None]], scale: Scale) -> Markup | None:
    slow = sorted(recoveries, key=lambda each: -1.0 if each[1] is None else each[1], reverse=True)[
        :_MOST_FAULTS
    ]
    slow.sort(key=lambda each: each[0].at_ns)
    rows = [
        [
            moment(scale.seconds(fault.at_ns)),
            fault.name,
            fault.victim,
            lasting((fault.until_ns - fault.at_ns) / 1e9) if fault.until_ns > fault.at_ns else "at once",
            recovery_text(seconds),
            fault.detail,
        ]
        for fault, seconds in slow
    ]
    hidden = (
        f"The {_MOST_FAULTS} slowest of {count(len(recoveries))}; report.json has all."
        if len(recoveries) > len(slow)
        else ""
    )
    return table(
        "What was broken, and how long until calls made after it succeeded, where that was slowest",
        ("#at", "fault", "victim", "#lasted", "#recovery", "detail"),
        rows,
        hidden,
    )


def _probes(probes: Sequence[Probe]) -> Markup | None:
    rows = [
        [
            probe.node,
            probe.role,
            "✓ serves" if probe.serves else tag("strong", "✕ does not serve"),
            lasting(probe.after_s),
            _digests(probe),
            probe.detail,
        ]
        for probe in sorted(probes, key=lambda probe: probe.serves)
    ]
    heads = ("node", "role", "answer", "#after", "state", "detail")
    return table("Asked after everything was healed", heads, _few(rows), _rest(rows))


def _digests(probe: Probe) -> Child:
    if not probe.digests:
        return DASH
    if len(set(probe.digests.values())) == 1:
        return f"{' = '.join(probe.digests)} ", tag("code", next(iter(probe.digests.values()))[:12])
    differ = "; ".join(f"{name} {digest[:12]}" for name, digest in probe.digests.items())
    return tag("strong", f"✕ differ: {differ}")


def _processes(samples: Sequence[Sample]) -> Markup | None:
    by_process: dict[str, list[Sample]] = {}
    for sample in samples:
        by_process.setdefault(sample.process, []).append(sample)
    rows = [
        [
            process,
            count(len(taken)),
            _change([memory(sample.rss_bytes) for sample in taken]),
            memory(max(sample.rss_bytes for sample in taken)),
            _sparkline([sample.rss_bytes for sample in taken]),
            _change([count(sample.open_files) for sample in taken]),
            _change([count(sample.connections) for sample in taken]),
            _change([count(sample.consumers) for sample in taken]),
            _fullest(taken),
        ]
        for process, taken in by_process.items()
    ]
    heads = (
        "process",
        "#samples",
        "#memory",
        "#most",
        "course",
        "#files",
        "#connections",
        "#consumers",
        "largest tables",
    )
    return table("What processes held, first → last", heads, _few(rows), _rest(rows))


def _change(values: Sequence[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]} → {values[-1]}"


def _fullest(samples: Sequence[Sample]) -> str:
    most: dict[str, int] = {}
    for sample in samples:
        for name, size in sample.tables.items():
            most[name] = max(most.get(name, 0), size)
    largest = sorted(most.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {count(size)}" for name, size in largest) or DASH


def _sparkline(values: Sequence[int]) -> Markup:
    """Return a small line from zero up, so that what looks flat is flat."""
    width, height = 90, 18
    stride = max(1, len(values) // width)
    points = values[::stride]
    top = max(points) or 1
    xs = [index * width / max(1, len(points) - 1) for index in range(len(points))]
    path = "L".join(
        f"{x:.0f},{height - 1 - (height - 2) * v / top:.1f}" for x, v in zip(xs, points, strict=True)
    )
    drawn = tag("path", class_="p50", d=f"M{path}" if len(points) > 1 else f"M{path}h{width}")
    return tag("svg", drawn, width=width, height=height, aria_hidden="true", class_="spark")


def _few[T](rows: Sequence[T]) -> Sequence[T]:
    return rows[:MOST_ROWS]


def _rest(rows: Sequence[object]) -> str:
    hidden = len(rows) - MOST_ROWS
    return f"{counted(hidden, 'more row')}." if hidden > 0 else ""
