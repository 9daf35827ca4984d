"""The report as data for programs, ``report.json``.

Keys are only ever added; ``format`` is raised when one changes its meaning. Times are seconds from the
beginning of their run, durations are seconds. The history itself is not in it: it is in the files that
``artefacts`` name.

::

    format            1
    status            "holds", "broken", "not judged" (nothing was run, or nothing was judged)
    sentence, remark  the verdict in a sentence, and what it does not cover ("" if nothing)
    written_at        ISO 8601, UTC
    command           what was run
    versions          by name: aegis, Python, system, and those of the servers, if told
    totals            scenarios; by_status: {status: scenarios}; calls; outcomes: {word: calls}; faults;
                      longest_recovery_s (null: nobody asked after a fault); unrecovered_faults
    scenarios         a list, in the order in which they were run:
      name, about, seed, duration_s
      status          "holds", "broken", "skipped", "not judged"
      skipped         why it was not run ("" if it was)
      versions, artefacts, replay      as the run has them
      calls, ok_per_s
      outcomes        {word: calls}: "ok", "open" (never told anything), or the code of the error
      other_operations {deed: number}
      latency_s       p50, p90, p99, p99.9, max: until clients were told anything ({} if none was)
      faults          name, victim, at_s, lasted_s, detail; recovery_s: until calls made after it succeeded,
                      where that was slowest (null: nobody asked, or see has_recovered); has_recovered
      longest_recovery_s, unrecovered_faults
      promotions      node, role, epoch, at_s
      probes          node, role, serves, after_s, digests, detail
      processes       process, samples; rss_bytes, open_files, connections, consumers: first, last, max;
                      tables: {name: max}
      leaks, unhandled the first 1,000 of each
      numbers         what the checker counted
      verdicts        name, promise, status ("holds", "broken", "nothing"), looked_at, findings_total,
                      findings (the first 1,000): text, call_ids, numbers, seqs (at most 1,000 of each);
                      shortest: lines of the shortest history that shows the first one
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aegisipc.chaos.history import Fault, Probe, Sample
from aegisipc.chaos.report.figures import Figures, is_endless, status_of
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.chaos.report.overview import Overview
from aegisipc.chaos.report.scale import Scale
from aegisipc.chaos.verdicts import Finding, Verdict

FORMAT = 1

_MOST = 1000
"""Of everything that has no limit of its own."""


def to_plain(all_figures: Sequence[Figures], overview: Overview) -> dict[str, Any]:
    """Return the report for JSON."""
    return {
        "format": FORMAT,
        "status": overview.status,
        "sentence": overview.sentence,
        "remark": overview.remark,
        "written_at": overview.written_at.isoformat(),
        "command": overview.command,
        "versions": overview.versions,
        "totals": {
            "scenarios": len(all_figures),
            "by_status": dict(Counter(figures.status for figures in all_figures)),
            "calls": overview.calls,
            "outcomes": dict(overview.outcomes.most_common()),
            "faults": overview.faults,
            "longest_recovery_s": _longest([seconds for f in all_figures for _, seconds in f.recoveries]),
            "unrecovered_faults": sum(_unrecovered(figures) for figures in all_figures),
        },
        "scenarios": [_scenario(figures) for figures in all_figures],
    }


def _scenario(figures: Figures) -> dict[str, Any]:
    run, evidence = figures.run, figures.run.evidence
    return {
        "name": run.name,
        "about": run.about,
        "seed": run.seed,
        "duration_s": run.duration_s,
        "status": figures.status,
        "skipped": run.skipped,
        "versions": run.versions,
        "artefacts": run.artefacts,
        "replay": run.replay,
        "calls": figures.called,
        "ok_per_s": round(figures.calls_per_s, 3),
        "outcomes": dict(figures.outcomes.most_common()),
        "other_operations": dict(figures.others.most_common()),
        "latency_s": figures.latency_s,
        "faults": [_fault(fault, seconds, figures.scale) for fault, seconds in figures.recoveries],
        "longest_recovery_s": _longest([seconds for _, seconds in figures.recoveries]),
        "unrecovered_faults": _unrecovered(figures),
        "promotions": [
            {
                "node": span.node,
                "role": span.role,
                "epoch": span.epoch,
                "at_s": figures.scale.seconds(span.at_ns),
            }
            for span in figures.promotions[:_MOST]
        ],
        "probes": [_probe(probe) for probe in evidence.probes],
        "processes": _processes(evidence.samples),
        "leaks": evidence.leaks[:_MOST],
        "unhandled": evidence.unhandled[:_MOST],
        "numbers": run.judgement.numbers,
        "verdicts": [_verdict(run, verdict) for verdict in run.judgement.verdicts],
    }


def _longest(recoveries: Sequence[float | None]) -> float | None:
    return max((each for each in recoveries if each is not None and not is_endless(each)), default=None)


def _unrecovered(figures: Figures) -> int:
    return sum(is_endless(seconds) for _, seconds in figures.recoveries)


def _fault(fault: Fault, recovery_s: float | None, scale: Scale) -> dict[str, Any]:
    return {
        "name": fault.name,
        "victim": fault.victim,
        "at_s": scale.seconds(fault.at_ns),
        "lasted_s": max(0, fault.until_ns - fault.at_ns) / 1e9,
        "detail": fault.detail,
        "recovery_s": _longest([recovery_s]),
        "has_recovered": not is_endless(recovery_s),
    }


def _probe(probe: Probe) -> dict[str, Any]:
    plain = asdict(probe)
    del plain["at_ns"]
    return plain


def _processes(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    by_process: dict[str, list[Sample]] = {}
    for sample in samples:
        by_process.setdefault(sample.process, []).append(sample)
    return [_process(process, taken) for process, taken in by_process.items()]


def _process(process: str, taken: Sequence[Sample]) -> dict[str, Any]:
    told: dict[str, Any] = {"process": process, "samples": len(taken)}
    for name in ("rss_bytes", "open_files", "connections", "consumers"):
        values = [getattr(sample, name) for sample in taken]
        told[name] = {"first": values[0], "last": values[-1], "max": max(values)}
    tables: dict[str, int] = {}
    for sample in taken:
        for name, size in sample.tables.items():
            tables[name] = max(size, tables.get(name, 0))
    return told | {"tables": tables}


def _verdict(run: ScenarioRun, verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "promise": verdict.promise,
        "status": status_of(verdict),
        "looked_at": verdict.looked_at,
        "findings_total": len(verdict.findings),
        "findings": [_finding(finding) for finding in verdict.findings[:_MOST]],
        "shortest": run.shortest.get(verdict.name, [])[:_MOST],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "text": finding.text,
        "call_ids": finding.call_ids[:_MOST],
        "numbers": finding.numbers[:_MOST],
        "seqs": finding.seqs[:_MOST],
    }
