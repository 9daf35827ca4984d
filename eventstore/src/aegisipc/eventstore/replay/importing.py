"""Making an incident bundle a log again, in a namespace of its own: for a rehearsal.

Every record gets the sequence that it had, so whatever names a sequence is right again. Subjects move to the
new namespace; times are those of the import. If there were records before the bundle's first one, the new log
begins with what stands for them: the newest records on the subjects that compare-and-set looks at (*roots*),
and a snapshot of the state, which says where these stand now. They end just before the first record.

Snapshots of the whole system that the bundle has are kept, but named by no index any more: they speak of the
old namespace. Heartbeats are not imported: they would be of now.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.group_snapshots import decode_snapshot, encode_snapshot
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.replay.bundle_errors import CannotImport, NamespaceInUse
from aegisipc.eventstore.replay.bundle_log import BundleLog
from aegisipc.eventstore.replay.bundles import open_bundle
from aegisipc.eventstore.replay.exporting import parts_in
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.snapshot_records import PART_TYPE
from aegisipc.eventstore.streams import LogOptions, create_log, create_log_from, delete_log
from aegisipc.eventstore.subjects import STATE, Subjects, subjects_of
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import dump_state, load_state

WINDOW_RECORDS: Final = 128
"""So many records, and not more than so many bytes, are under way at once."""
WINDOW_BYTES: Final = 4 << 20

_APPEND_TIMEOUT_S: Final = 30.0
_NO_SNAPSHOT_BYTES: Final = 32
"""The id of no snapshot: so many zeros."""


class Imported(NamedTuple):
    """What became a log: its records from ``first_seq`` to ``last_seq``, behind ``before`` records that stand
    for what came before them.
    """

    namespace: str
    from_namespace: str
    records: int
    first_seq: int
    last_seq: int
    before: int


@dataclass(frozen=True)
class _Before:
    """What goes before the first record. ``room`` is how many records the parts of the snapshot get."""

    state: SystemState
    roots: tuple[Record, ...]
    room: int


async def import_bundle(
    connection: Connection,
    path: str | Path,
    namespace: str,
    *,
    options: LogOptions | None = None,
    told: Callable[[int], None] | None = None,
) -> Imported:
    """Make the log of `namespace` from a bundle. Start a router there when it is done, not before. `told`
    hears how many records were written, now and then. If anything fails, what was made is removed.

    Raises:
        NamespaceInUse: it has a log.
        CannotImport: there is no room before the bundle's first record, somebody else wrote to the new log,
            or the bundle does not say what came before its first record.
        NotABundle, BundleTooNew, BundleOutdated, BundleDamaged: as :func:`open_bundle`.
        InvalidName: that can be no namespace.
        AegisError: the server failed.
    """
    subjects, options = subjects_of(namespace), options or LogOptions()
    source = await asyncio.to_thread(open_bundle, path)
    bounds = await source.log.bounds()
    before = await _before(source, connection, subjects, bounds.first_seq)
    behind = _records_before(before)
    log = await create_log_from(
        connection,
        subjects,
        options,
        first_seq=bounds.first_seq - behind,
        description=f"imported from namespace {source.subjects.namespace} ({secrets.token_hex(8)})",
    )
    if log is None:
        raise NamespaceInUse(
            f"cannot import into namespace {namespace!r}: it has a log; choose a namespace that has none",
            namespace=namespace,
        )
    try:
        writer = _Writer(log, subjects, bounds.first_seq - behind)
        if before is not None:
            await _write_before(writer, before, source)
        await _write_records(writer, source, told)
        await create_log(connection, subjects, options)
    except BaseException:
        await _take_back(connection, subjects)
        raise
    return Imported(
        namespace,
        source.subjects.namespace,
        bounds.last_seq - bounds.first_seq + 1,
        bounds.first_seq,
        bounds.last_seq,
        behind,
    )


async def _take_back(connection: Connection, subjects: Subjects) -> None:
    """Remove what was made. If the server is gone, it stays; whoever tries again is told that it is there."""
    removing = asyncio.ensure_future(delete_log(connection, subjects))
    try:
        await asyncio.shield(removing)
    except AegisError:
        return


# -- what comes before ------------------------------------------------------------------------------------


async def _before(
    source: Source, connection: Connection, subjects: Subjects, first_seq: int
) -> _Before | None:
    if first_seq == 1:
        return None
    if source.base is None:
        raise CannotImport(
            f"cannot import into namespace {subjects.namespace!r}: the bundle begins in the middle of a log, "
            "and does not say what came before; export it again, with this version",
            namespace=subjects.namespace,
        )
    state = await asyncio.to_thread(source.base)
    roots = source.log.roots if isinstance(source.log, BundleLog) else ()
    max_bytes = JetStreamLog(connection, subjects.stream).max_record_bytes
    moved = _settled(state, subjects, {}, first_seq - 1)  # what names the namespace may be longer there
    before = _Before(state, roots, await asyncio.to_thread(parts_in, moved, max_bytes))
    if _records_before(before) >= first_seq:
        raise CannotImport(
            f"cannot import into namespace {subjects.namespace!r}: what stands for the time before record "
            f"{first_seq} takes {_records_before(before)} records, and there is room for {first_seq - 1}; "
            "raise the server's max_payload, or export from the beginning (--from start)",
            namespace=subjects.namespace,
        )
    return before


def _records_before(before: _Before | None) -> int:
    return 0 if before is None else len(before.roots) + before.room + 1


async def _write_before(writer: _Writer, before: _Before, source: Source) -> None:
    """The roots, as many empty parts as are not needed, the parts of the snapshot, and its index."""
    placed = {}
    for root in before.roots:
        placed[writer.moved(root.subject, source.subjects)] = await writer.put(root, source.subjects)
    state = _settled(before.state, writer.subjects, placed, writer.next_seq - 1)
    plain = dump_state(state)
    needed = await asyncio.to_thread(parts_in, state, writer.log.max_record_bytes) - 1
    for number in range(before.room - needed):
        await writer.append(writer.subjects.snapshot_part, _empty_part(number))
    snapshot = await checkpoints.write(
        writer.log, writer.subjects, plain, router="import", taken_ns=state.position_ns
    )
    writer.skip_to(snapshot.seq, needed + 1)


def _empty_part(number: int) -> bytes:
    """Return a part of no snapshot: it takes the place of one that is not needed."""
    packed: bytes = msgpack.packb([PART_TYPE, bytes(_NO_SNAPSHOT_BYTES), number, b""])
    return packed


def _settled(state: SystemState, subjects: Subjects, placed: dict[str, int], position: int) -> SystemState:
    """Return the state as one of the new namespace, in which the roots stand elsewhere."""
    former = state.subjects
    state = load_state(dump_state(state), subjects)
    state.position = state.topology.position = position
    state.topology.leadership.seq = placed.get(subjects.term, 0)
    for group in state.topology.groups():
        group.fence_seq = placed.get(subjects.fence(group.service, group.name), 0)
        group.watch_seq = placed.get(subjects.watch(group.service, group.name), 0)
    for calls in state.calls.values():
        heard = calls.sessions.dump()
        calls.sessions.load(
            (_moved(subject, former, subjects), session, number) for subject, session, number in heard
        )
    return state


# -- the records ------------------------------------------------------------------------------------------


async def _write_records(writer: _Writer, source: Source, told: Callable[[int], None] | None) -> None:
    window: list[Record] = []
    size_bytes = written = 0
    first_seq = (await source.log.bounds()).first_seq
    async for record in source.log.read([source.subjects.everything], start=Start(first_seq)):
        window.append(record)
        size_bytes += len(record.payload)
        if len(window) >= WINDOW_RECORDS or size_bytes >= WINDOW_BYTES:
            written += await writer.put_all(window, source.subjects)
            window, size_bytes = [], 0
            if told is not None:
                told(written)
    await writer.put_all(window, source.subjects)
    writer.check_end((await source.log.bounds()).last_seq)


class _Writer:
    """Appends to a log that nobody else may write to, and checks that nobody does."""

    def __init__(self, log: JetStreamLog, subjects: Subjects, next_seq: int) -> None:
        self.log = log
        self.subjects = subjects
        self.next_seq = next_seq

    def moved(self, subject: str, former: Subjects) -> str:
        """Return where a record of the bundle goes."""
        moved = _moved(subject, former, self.subjects)
        return self.subjects.snapshot_part if moved == self.subjects.snapshot_index else moved

    async def put(self, record: Record, former: Subjects) -> int:
        """Append a record of the bundle; returns its sequence."""
        return await self.append(self.moved(record.subject, former), self._payload(record, former))

    async def put_all(self, records: list[Record], former: Subjects) -> int:
        """Append records of the bundle; returns how many."""
        # Each is sent before the next one is looked at, and the server takes them in that order.
        appends = [
            self.log.append(
                self.moved(record.subject, former),
                self._payload(record, former),
                timeout_s=_APPEND_TIMEOUT_S,
            )
            for record in records
        ]
        for appended in await asyncio.gather(*appends):
            self._check(appended.seq)
        return len(records)

    async def append(self, subject: str, payload: bytes) -> int:
        """Append one record; returns its sequence."""
        appended = await self.log.append(subject, payload, timeout_s=_APPEND_TIMEOUT_S)
        self._check(appended.seq)
        return appended.seq

    def skip_to(self, seq: int, count: int) -> None:
        """So many records were appended by others for us, the last one at `seq`."""
        self.next_seq += count - 1
        self._check(seq)

    def check_end(self, last_seq: int) -> None:
        """See that the next record would be the one behind `last_seq`."""
        if self.next_seq != last_seq + 1:
            raise CannotImport(
                f"cannot import into namespace {self.subjects.namespace!r}: some of its records are of no "
                "log, and cannot be stored; export it again",
                namespace=self.subjects.namespace,
            )

    def _check(self, seq: int) -> None:
        if seq != self.next_seq:
            raise CannotImport(
                f"cannot import into namespace {self.subjects.namespace!r}: something else writes there, and "
                f"record {self.next_seq} came to stand at {seq}; stop its routers and clients, and try again",
                namespace=self.subjects.namespace,
            )
        self.next_seq += 1

    def _payload(self, record: Record, former: Subjects) -> bytes:
        """A group's snapshot names the subjects of the frames that were seen; all others go as they are."""
        try:
            if former.parse(record.subject).kind == STATE:
                return _snapshot_moved(record.payload, former, self.subjects)
        except MalformedPayload:
            return record.payload
        return record.payload


def _snapshot_moved(payload: bytes, former: Subjects, subjects: Subjects) -> bytes:
    snapshot = decode_snapshot(payload)
    match snapshot.calls:
        case [accepted, concluded, anomalies, list(sessions), open_calls, keys]:
            heard = [
                [_moved(subject, former, subjects), session, number] for subject, session, number in sessions
            ]
            calls = [accepted, concluded, anomalies, heard, open_calls, keys]
            return encode_snapshot(snapshot._replace(calls=calls))
        case _:
            return payload


def _moved(subject: str, former: Subjects, subjects: Subjects) -> str:
    """Return a subject of one namespace as the same one of another."""
    return subjects.log_root + subject.removeprefix(former.log_root)
