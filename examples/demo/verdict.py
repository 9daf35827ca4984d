"""The summary for people."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from examples.demo.audit import Audit
from examples.demo.stage import NAMESPACE
from examples.demo.summary import Summary
from examples.demo.tally import Ending, percentile

_WORDS: Final = {
    "lost": "lost",
    "duplicates": "duplicates",
    "started_twice": "started twice",
    "accepted_twice": "accepted twice",
    "unreadable": "unreadable frames",
    "strays": "outcomes of unknown calls",
    "mismatches": "seen otherwise by their caller",
    "not_accepted": "not accepted",
    "fenced_frames": "frames of a former holder",
    "failovers_missing": "failovers missing",
    "executed_twice": "executed twice",
    "not_executed": "placed, but not executed",
    "unexplained": "executed without a result",
}


def verdict(summary: Summary, total_s: float, kept: Path | None) -> RenderableType:
    """Return the figures, the recount and the verdict."""
    columns = Table.grid(padding=(0, 6))
    columns.add_row(_outcomes(summary), _figures(summary, total_s))
    parts: list[RenderableType] = ["", columns, ""]
    if summary.audit is not None:
        parts += [_failovers(summary.audit), _doubts(summary.audit), ""]
    parts += [_faults(summary), "", _sentence(summary)]
    parts += [Text(f"  {line}", "red") for line in summary.first_mismatches]
    if kept is not None:
        parts.append(Text(f"The log is kept: aegis dev --data {kept} --namespace {NAMESPACE}", "dim"))
    return Padding(Group(*parts), (0, 2), expand=False)


def _outcomes(summary: Summary) -> Table:
    counted = summary.counted
    table = _two_columns("recounted from the log")
    table.add_row("calls accepted", Text(f"{len(counted.calls):,}", "bold"))
    for ending, count in sorted(counted.endings.items(), key=lambda item: -item[1]):
        table.add_row(f"  {ending.replace('_', ' ')}", f"{count:,}")
        if ending is Ending.FAILED:
            for code, times in counted.codes.most_common():
                table.add_row(Text(f"    {code}", "yellow"), Text(f"{times:,}", "yellow"))
    return table


def _figures(summary: Summary, total_s: float) -> Table:
    tally = summary.tally
    p50, p99 = (percentile(tally.latencies_s, share) * 1000 for share in (0.5, 0.99))
    table = _two_columns("seen by the clients")
    table.add_row("calls ended", Text(f"{tally.done:,}", "bold"))
    table.add_row("calls per second", f"{tally.calls_per_s:,.0f}")
    table.add_row("from call to result: p50", f"{p50:.1f} ms")
    table.add_row("from call to result: p99", f"{p99:.1f} ms")
    table.add_row("all calls took", f"{tally.seconds:.1f} s")
    table.add_row("with starting and stopping", f"{total_s:.1f} s")
    table.add_row("frames the calls travelled in", f"{summary.counted.frames:,}")
    return table


def _failovers(audit: Audit) -> Table:
    table = Table("fault", "instance", "taken over by", "first outcome", box=None, padding=(0, 3, 0, 0))
    table.columns[3].justify = "right"
    for found in audit.failovers:
        what = "kill -9" if found.fault == "kill" else "frozen"
        row = (
            what,
            found.victim,
            f"{found.holder} (epoch {found.epoch})",
            Text(f"{found.ms:,.1f} ms", "bold"),
        )
        table.add_row(*row)
    return table


def _doubts(audit: Audit) -> Text:
    text = Text.assemble(("calls in doubt: ", "dim"), f"{audit.doubted:,}.")
    if audit.found_executed or audit.found_not_executed:
        text.append(
            f" The gateway asked the venue: {audit.found_executed:,} had been executed, "
            f"{audit.found_not_executed:,} had not, and ran then."
        )
    if audit.still_open:
        text.append(f" {audit.still_open:,} still in doubt.", "yellow")
    text.append(
        f"\nthe venue's book: {audit.executed:,} orders, {audit.doubted_executed:,} of them had been in doubt"
    )
    return text


def _two_columns(title: str) -> Table:
    table = Table(title, "", box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.columns[1].justify = "right"
    return table


def _faults(summary: Summary) -> Text:
    text = Text("must be 0: ", "dim")
    for number, (name, count) in enumerate(summary.faults.items()):
        text.append(", " if number else "", "dim")
        text.append(f"{count:,} {_WORDS[name]}", "bold red" if count else "green")
    return text


def _sentence(summary: Summary) -> Text:
    if summary.is_good:
        text = "Every call has exactly one outcome in the log, and it is the one that its caller saw."
        if summary.audit is not None:
            text += " Every order that was placed was executed once, whoever died on the way."
        return Text(f"✔ {text}", "bold green")
    return Text("✘ Something is wrong: see the figures in red.", "bold red")
