"""Incident bundles: a part of the log in a file, checked, and made a log again elsewhere."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aegisipc.eventstore.checkpoints import SkippedSnapshot
from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import print_json, printable
from aegisipc.eventstore.cli.running import interruptible
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay.bundle_files import SUFFIX
from aegisipc.eventstore.replay.bundles import Summary, open_bundle, verify
from aegisipc.eventstore.replay.exporting import export
from aegisipc.eventstore.replay.importing import Imported, import_bundle
from aegisipc.eventstore.replay.ranges import Range, around, between
from aegisipc.eventstore.replay.sources import Source, open_live
from aegisipc.eventstore.streams import LogOptions

_TELL_EVERY: Final = 100_000
_SHORT_CALL: Final = 8


async def export_bundle(args: Namespace) -> int:
    """Write the part of a log that was asked for into a file."""
    async with _source(args) as source:
        wanted = await _range(args, source)
        path = Path(args.out) if args.out else _named(args, source, wanted)
        summary = await export(
            source,
            path,
            from_seq=wanted.from_seq,
            until_seq=wanted.until_seq,
            until_ns=wanted.until_ns,
            redact=args.redact,
            force=args.force,
            on_skip=_skipped,
            told=_progress("exported"),
        )
    if args.json:
        print_json({"exported": True, **summary.to_plain()})
        return 0
    print(f"exported {_what(summary)} to {printable(summary.path)}")
    if summary.manifest.first_seq < wanted.from_seq:
        print(f"  from the beginning of the log, which is near, and not from {wanted.from_seq}")
    if summary.manifest.redacted:
        print(f"  redacted: {', '.join(map(printable, summary.manifest.redacted))}")
    print(f"  fingerprint: {summary.fingerprint}")
    return 0


@asynccontextmanager
async def _source(args: Namespace) -> AsyncIterator[Source]:
    if args.bundle:
        with interruptible():  # all of it is read
            source = open_bundle(args.bundle)
        yield source
        return
    async with open_live(args.url, args.namespace) as source:
        yield source


async def _range(args: Namespace, source: Source) -> Range:
    if args.around is not None:
        return await around(source, args.around)
    return await between(source, args.since or "start", args.until or "end")


def _named(args: Namespace, source: Source, wanted: Range) -> Path:
    """A name of its own for a file nobody named."""
    part = f"{wanted.from_seq}-{wanted.until_seq}"
    if args.around is not None:
        part = f"call-{args.around.replace('-', '')[:_SHORT_CALL].lower()}"
    return Path(f"{source.subjects.namespace}-{part}{SUFFIX}")


def _skipped(snapshot: SkippedSnapshot) -> None:
    say(f"warning: the snapshot at sequence {snapshot.seq} was not used: {snapshot.why}")


def _progress(done: str) -> Callable[[int], None]:
    told = 0

    def tell(count: int) -> None:
        nonlocal told
        if count - told >= _TELL_EVERY:
            told = count
            say(f"{done} {count:,} records")

    return tell


def _what(summary: Summary) -> str:
    manifest, ending = summary.manifest, summary.ending
    seqs = f"{manifest.first_seq} to {manifest.last_seq}"
    return f"{_count(ending.records, 'record')} ({seqs}) and {_count(ending.pulses, 'heartbeat')}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def verify_bundle(args: Namespace) -> int:
    """Check a bundle to its last byte."""
    summary = verify(args.file)
    if args.json:
        print_json({"ok": True, **summary.to_plain()})
        return 0
    manifest = summary.manifest
    print(f"ok: {printable(summary.path)} is what was exported: {_what(summary)}")
    begin, end = format_time(manifest.first_ns), format_time(manifest.last_ns)
    print(f"  of namespace {printable(manifest.namespace)}, {begin} to {end}")
    if manifest.redacted:
        print(f"  redacted: {', '.join(map(printable, manifest.redacted))}")
    if not summary.is_refolded:
        print(f"  not folded again: version {manifest.fold_version} of the fold made it")
    print(f"  fingerprint: {summary.fingerprint}")
    return 0


async def import_from(args: Namespace) -> int:
    """Make a bundle the log of a namespace that has none."""
    options = LogOptions(replicas=args.replicas)
    async with await Connection.open(ConnectOptions(args.url, name="aegis:import")) as connection:
        imported = await import_bundle(
            connection, args.file, args.namespace, options=options, told=_progress("imported")
        )
    if args.json:
        print_json({"imported": True, **imported._asdict(), "times": "of the import"})
    else:
        _tell_imported(imported)
    return 0


def _tell_imported(imported: Imported) -> None:
    seqs = f"{imported.first_seq} to {imported.last_seq}"
    print(
        f"imported {_count(imported.records, 'record')} ({seqs}) of namespace {imported.from_namespace} into "
        f"namespace {imported.namespace}"
    )
    if imported.before:
        print(f"  what was before is in {_count(imported.before, 'record')} before these")
    print("  sequences are as they were; times are those of this import, and there are no heartbeats")
