"""What is said of a run once its evidence and its log are there: the verdicts, and what shows them."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from aegisipc.chaos.checking import Bounds, judge, log_steps, shrink_history
from aegisipc.chaos.checking.case import Case
from aegisipc.chaos.checking.nodes import memory_is_flat
from aegisipc.chaos.history import Effect, Entry, Evidence, Fault, Operation, to_line
from aegisipc.chaos.log_facts import LogFacts
from aegisipc.chaos.report.model import ScenarioRun
from aegisipc.chaos.verdicts import Judgement
from aegisipc.chaos.workload import MAX_ATTEMPTS

SERVER: Final = "server"
_SPAN_S: Final = 180.0
"""Memory is judged of processes that were looked at for so long, after they warmed up: tables of outcomes
that are remembered have limits, and take minutes to fill.
"""
_SERVER_SPAN_S: Final = 240.0
"""A server remembers the ids of messages for two minutes: its memory rises for so long, and then some."""
_EVER: Final = 2**63
_SLACK_S: Final = 5.0
"""What a process on a busy machine may be late without anything being wrong with the system. The simulation,
which is never busy, allows a hundredth of it.
"""
_MOST_COMMANDS: Final = 3
_MOST_LINES: Final = 200
_VERSION: Final = re.compile(r"v?(\d+\.\d+\.\d+\S*)")
_VERSION_S: Final = 10.0


def judged(evidence: Evidence, facts: LogFacts, offset_ns: int) -> Judgement:
    """Return the verdicts. `offset_ns` is the server's time less that of the evidence. Memory of servers is
    judged apart, over a longer time, and up to the end of the faults: then the whole log is read back, and
    servers keep what they read.
    """
    until_ns = evidence.healed_at_ns or evidence.ended_at_ns or _EVER
    servers = [s for s in evidence.samples if s.process.startswith(SERVER) and s.at_ns <= until_ns]
    others = [sample for sample in evidence.samples if not sample.process.startswith(SERVER)]
    bounds = Bounds(clock_offset_ns=offset_ns, memory_span_s=_SPAN_S, attempts=MAX_ATTEMPTS, slack_s=_SLACK_S)
    judgement = judge(replace(evidence, samples=others), facts, bounds=bounds)
    apart = replace(bounds, memory_span_s=_SERVER_SPAN_S)
    memory = replace(
        memory_is_flat(Case(Evidence(samples=servers), facts, apart)),
        name="server memory",
        promise="The memory of each server is flat once its caches are full.",
    )
    numbers = {**judgement.numbers, "samples": len(evidence.samples)}
    return Judgement((*judgement.verdicts, memory), numbers)


def shortest_of(run: ScenarioRun, facts: LogFacts, offset_ns: int) -> dict[str, list[str]]:
    """Return, for each verdict that is broken, the lines of the shortest history that shows its first
    finding: what clients, handlers and faults did and what the log says, by seconds since the run began.
    """
    found: dict[str, list[str]] = {}
    for verdict in run.judgement.verdicts:
        if verdict.holds:
            continue
        finding = verdict.findings[0]
        said = [(entry.at_ns, _text(entry)) for entry in shrink_history(run.evidence, facts, finding)]
        said += [
            (step.at_ns - offset_ns if step.at_ns else 0, f"log {step.seq}: {step.text}")
            for step in log_steps(facts, finding)
        ]
        said.sort(key=lambda each: each[0])
        if said:
            found[verdict.name] = [_line(at_ns, text, run.at_ns) for at_ns, text in said[:_MOST_LINES]]
    return found


def _line(at_ns: int, text: str, began_ns: int) -> str:
    when = f"{(at_ns - began_ns) / 1e9:9.3f} s" if at_ns else " " * 11
    return f"{when}  {text}"


def _text(entry: Entry) -> str:
    match entry:
        case Operation():
            told = "" if entry.value is None else f" {entry.value!r}"
            error = f" {entry.error}" if entry.error else ""
            where = f" of {entry.resource}" if entry.resource else ""
            key = f" with key {entry.key}" if entry.key else ""
            about = f"{entry.target}{where}{key}".strip() or entry.call_id or ""
            return f"{entry.client} {entry.deed} {about} (number {entry.number}): {entry.stage}{error}{told}"
        case Effect():
            epoch = f" in epoch {entry.epoch}" if entry.epoch else ""
            return f"{entry.instance} {entry.phase} {entry.target} (number {entry.number}){epoch}"
        case Fault():
            lasted_s = (entry.until_ns - entry.at_ns) / 1e9
            return f"fault: {entry.name} of {entry.victim}, for {lasted_s:.3f} s {entry.detail}".rstrip()
        case _:
            return to_line(entry).decode().rstrip("\n")


def commands_of(run: ScenarioRun, bundle: Path) -> list[str]:
    """Return what to type, the most telling first."""
    begin = f"aegis replay --bundle {shlex.quote(str(bundle))}"
    found = [finding for verdict in run.judgement.verdicts for finding in verdict.findings]
    calls = list(dict.fromkeys(call_id for finding in found for call_id in finding.call_ids))
    seqs = list(dict.fromkeys(seq for finding in found for seq in finding.seqs))
    commands = [f"{begin} --why call {call_id}" for call_id in calls[:_MOST_COMMANDS]]
    commands += [f"{begin} --until {seq}" for seq in seqs[:_MOST_COMMANDS]]
    return [*commands, f"{begin} --verify"]


def versions_of(binaries: Sequence[Path]) -> dict[str, str]:
    """Return the versions of what was run against: of the servers, first to last, by their binaries."""
    shown = [_version_of(binary) for binary in dict.fromkeys(binaries)]
    return {"nats-server": ", then ".join(dict.fromkeys(shown))}


def _version_of(binary: Path) -> str:
    try:
        told = subprocess.run(  # noqa: S603 - the server that was just run
            [binary, "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    found = _VERSION.search(told)
    return found.group(1) if found is not None else told.strip()
