"""What is kept of a run: its plan, its history, and its log as an incident bundle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.history import Entry, Evidence, to_line
from aegisipc.chaos.sim.cast import NAMESPACE
from aegisipc.chaos.sim.plan import Plan
from aegisipc.chaos.sim.simulation import Result
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.replay.bundle_files import SUFFIX
from aegisipc.eventstore.replay.exporting import export
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.subjects import subjects_of

PLAN_FILE: Final = "plan.json"
HISTORY_FILE: Final = "history.jsonl"
VERDICTS_FILE: Final = "verdicts.json"
BUNDLE_FILE: Final = f"log{SUFFIX}"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where it is. ``bundle`` is ``None`` if there was nothing in the log."""

    plan: Path
    history: Path
    verdicts: Path
    bundle: Path | None

    def to_plain(self) -> dict[str, str | None]:
        """Return it for JSON."""
        return {
            "plan": str(self.plan),
            "history": str(self.history),
            "verdicts": str(self.verdicts),
            "bundle": None if self.bundle is None else str(self.bundle),
        }


def keep(result: Result, folder: str | Path) -> Kept:
    """Write what is to be kept of a run into a folder, which is made; files of those names are replaced.

    Raises:
        OSError: something cannot be written.
        LogHasGap: records are missing in the middle of the log.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = Kept(
        folder / PLAN_FILE,
        folder / HISTORY_FILE,
        folder / VERDICTS_FILE,
        folder / BUNDLE_FILE if result.records else None,
    )
    write_json(kept.plan, plan_data(result.plan))
    kept.history.write_bytes(b"".join(map(to_line, history_of(result.evidence))))
    write_json(kept.verdicts, {"trace": result.trace, **result.judgement.to_plain()})
    if kept.bundle is not None:
        asyncio.run(_bundle(result, kept.bundle))
    return kept


def plan_data(plan: Plan) -> dict[str, Any]:
    """Return a plan as it looks in a file."""
    plain: dict[str, Any] = json.loads(json.dumps(plan.to_plain()))
    return plain


def write_json(path: Path, value: Any) -> None:
    """Write `value` for people and programs."""
    path.write_text(f"{json.dumps(value, indent=1, ensure_ascii=False)}\n", encoding="utf-8")


def history_of(evidence: Evidence) -> list[Entry]:
    """Return everything that happened, in the order of its times."""
    entries: list[Entry] = [
        *evidence.operations,
        *evidence.effects,
        *evidence.faults,
        *evidence.probes,
        *evidence.samples,
    ]
    return sorted(entries, key=lambda entry: entry.at_ns)


async def _bundle(result: Result, path: Path) -> None:
    """Write the log and the heartbeats as an incident bundle."""
    records = result.records
    source = Source(
        log=await _log_of(records),
        subjects=subjects_of(NAMESPACE),
        about=f"simulation of seed {result.plan.seed}, trace {result.trace}",
        pulses=await _log_of(result.pulses),
    )
    last = records[-1]
    ends_ns = max([last.timestamp_ns, *(pulse.timestamp_ns for pulse in result.pulses)])
    await export(source, path, from_seq=records[0].seq, until_seq=last.seq, until_ns=ends_ns, force=True)


async def _log_of(records: Sequence[Record]) -> MemoryLog:
    """Return records as a log, with the times at which they were stored."""
    now_ns = records[0].timestamp_ns if records else 0
    log = MemoryLog(lambda: now_ns, max_record_bytes=1 << 30)
    for record in records:
        now_ns = record.timestamp_ns
        await log.append(record.subject, record.payload)
    return log
