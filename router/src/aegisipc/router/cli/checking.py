"""``aegis replay --verify``: is what snapshots hold and routers believe what the log says?"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Final

from aegisipc.eventstore.cli.output import Cell, Paint, print_json, printable, table
from aegisipc.eventstore.replay import Point, Source
from aegisipc.eventstore.replay.checking import Check, Finding, Progress, Report, check
from aegisipc.eventstore.replay.router_claims import router_claims

MAX_ROWS: Final = 40
MAX_CHANGES: Final = 8

_DIGITS: Final = 12
_STYLE: Final = {
    Finding.AGREES: "green",
    Finding.DIFFERS: "red",
    Finding.DAMAGED: "red",
    Finding.SKIPPED: "yellow",
}
_COMPARED: Final = {"snapshot": "what it holds", "tail": "that, folded on", "claim": "what it says"}


async def run(args: Namespace, source: Source, point: Point) -> int:
    """Fold the log again, compare, and print what was found."""
    claims = await router_claims(source)
    until_seq = point.seq if args.until else None
    report = await check(source, claims, until_seq=until_seq, progress=_progress())
    if args.json:
        print_json(report.to_plain())
    else:
        print(as_text(report, Paint()))
    return 0 if report.ok else 1


def _progress() -> Progress | None:
    """On a terminal, say on one line of stderr how far it is."""
    if not sys.stderr.isatty():
        return None

    def tell(seq: int, last_seq: int) -> None:
        sys.stderr.write(f"\rfolding: {seq:,} of {last_seq:,}\x1b[K")
        if seq + 10_000 > last_seq:
            sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()

    return tell


def as_text(report: Report, paint: Paint) -> str:
    """Return the answer, what it rests on, and a table of what was compared."""
    lines = [_answer(report, paint), *_arose(report), "", *_scope(report)]
    if shown := _shown(report.checks):
        rows = map(_row, shown)
        lines += ["", table(("after record", "of", "compared", "finding", "state, or why"), rows, paint)]
        if len(shown) < len(report.checks):
            lines.append(f"and {len(report.checks) - len(shown)} more (--json lists all)")
        for found in shown:
            lines += _changed(found)
    return "\n".join(lines)


def _answer(report: Report, paint: Paint) -> str:
    agree, skipped = report.count(Finding.AGREES), report.count(Finding.SKIPPED)
    aside = f", {skipped} skipped" if skipped else ""
    failed = report.count(Finding.DIFFERS) + report.count(Finding.DAMAGED)
    if failed:
        parts = [f"{report.count(finding)} {finding}" for finding in (Finding.DIFFERS, Finding.DAMAGED)]
        found = ", ".join(part for part in parts if not part.startswith("0 "))
        return paint("red", f"{failed} of {agree + failed} checks failed") + f": {found}{aside}"
    if not agree:
        return (
            paint("yellow", "nothing to compare with") + f": no snapshot, and no router that answers{aside}"
        )
    return paint("green", f"all {agree} checks agree" if agree > 1 else "the one check agrees") + aside


def _arose(report: Report) -> list[str]:
    first, agreed = report.first_difference, report.agreed_until
    if first is None:
        return []
    of = f"{_COMPARED[first.kind]} ({printable(first.who)})"
    before = f"all agreed after {agreed}" if agreed >= report.first_seq else "nothing was compared before"
    return [
        f"the first difference is after record {first.seq}: {of} is not what the log says",
        f"it arose between records {agreed + 1} and {first.seq}: {before}",
    ]


def _scope(report: Report) -> list[str]:
    records = f"records {report.first_seq} to {report.last_seq}"
    if report.last_seq < report.first_seq:
        records = "no records"
    folded = f"{records} folded anew, beginning with {report.began_with}"
    return [
        f"{report.about}: {folded}",
        f"state after record {report.last_seq}: {report.digest}",
    ]


def _shown(checks: Sequence[Check]) -> list[Check]:
    """Return all of them, or what matters most: what does not agree, and the latest that do."""
    agreeing = [found for found in checks if found.finding is Finding.AGREES]
    others = [found for found in checks if found.finding is not Finding.AGREES][:MAX_ROWS]
    room = MAX_ROWS - len(others)
    return sorted([*others, *(agreeing[-room:] if room else [])], key=lambda found: found.seq)


def _row(found: Check) -> tuple[object, ...]:
    finding = Cell(found.finding, _STYLE[found.finding])
    why = printable(found.why) or _digests(found)
    return found.seq, printable(found.who), _COMPARED[found.kind], finding, why


def _digests(found: Check) -> str:
    digest = f"{found.found[:_DIGITS]}…"
    return digest if found.finding is Finding.AGREES else f"{digest}, not {found.claimed[:_DIGITS]}…"


def _changed(found: Check) -> list[str]:
    if not found.changes:
        return []
    what = f"{_COMPARED[found.kind]} ({printable(found.who)})"
    changes = [f"  {printable(change)}" for change in found.changes[:MAX_CHANGES]]
    return ["", f"from what the log says after record {found.seq} to {what}:", *changes]
