"""The snapshots of the system that a log holds, against the log itself.

A snapshot saves whoever begins with it the fold of what came before. So what it holds has to be what that
fold gives, and to go on from it has to give what folding everything gives. Here alone in the reading of logs
the production fold is used: it is compared with itself, over two ways. Nothing is folded without a snapshot.
"""

from __future__ import annotations

from typing import Final

from aegisipc.chaos.log_shapes import SnapshotFact
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.snapshot_records import SnapshotIndex, decode_index, load_snapshot
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of

type _Indexed = tuple[int, SnapshotIndex]
"""Where an index stands, and what it says."""

HOLDS: Final = "holds"
LOADED: Final = "gives when it is loaded"
TAIL: Final = "gives with all that follows it"


class Snapshots:
    """The snapshots that were seen in a log. Only the parts of the first and the latest one are kept: these
    are loaded, of the others what they say of themselves is compared.

    Snapshots that cannot be read, are of another version of the fold, or stand before what they cover (after
    a loss of acknowledged records) are left out: routers do not use them either.
    """

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._parts: dict[int, bytes] = {}
        self.indices: list[_Indexed] = []

    def take(self, record: Record) -> None:
        """Keep what is needed of a record of the kind ``snapshot``."""
        if record.subject == self._subjects.snapshot_part:
            self._parts[record.seq] = record.payload
        if record.subject != self._subjects.snapshot_index:
            return
        try:
            index = decode_index(record.payload)
        except MalformedPayload:
            return
        if index.fold_version != FOLD_VERSION or index.covers >= record.seq:
            return
        self.indices.append((record.seq, index))
        kept = {*self.indices[0][1].parts, *index.parts}
        self._parts = {seq: part for seq, part in self._parts.items() if seq in kept}

    def load(self, index: SnapshotIndex) -> SystemState | None:
        """Return the state that a snapshot holds, ``None`` if there is none in it."""
        try:
            return load_snapshot(index, [self._parts[seq] for seq in index.parts], self._subjects)
        except (KeyError, MalformedPayload):
            return None


class Refold:
    """Compares snapshots with the log as it is folded from its beginning."""

    def __init__(self, snapshots: Snapshots, subjects: Subjects) -> None:
        self._snapshots = snapshots
        self._due = sorted(snapshots.indices, key=lambda at: at[1].covers, reverse=True)
        self._loaded = {snapshots.indices[0][0], snapshots.indices[-1][0]} if snapshots.indices else set()
        self._state = SystemState(subjects)
        self._tails: list[tuple[int, SnapshotIndex, SystemState]] = []
        self._found: list[SnapshotFact] = []

    def take(self, record: Record) -> None:
        """Fold the next record; the first one has to be the first of the log."""
        self._state.fold(record)
        for *_, tail in self._tails:
            tail.fold(record)
        while self._due and self._due[-1][1].covers <= record.seq:
            seq, index = self._due.pop()
            if index.covers == record.seq:  # else that record is not there any more
                self._compare(seq, index)

    def _compare(self, seq: int, index: SnapshotIndex) -> None:
        folded = digest_of(self._state)
        self._found.append(SnapshotFact(seq, index.covers, HOLDS, index.digest, folded))
        if seq not in self._loaded:
            return
        loaded = self._snapshots.load(index)
        digest = "nothing that could be read" if loaded is None else digest_of(loaded)
        self._found.append(SnapshotFact(seq, index.covers, LOADED, digest, folded))
        if loaded is not None:
            self._tails.append((seq, index, loaded))

    def end(self) -> list[SnapshotFact]:
        """Return what was found, when the last record was taken."""
        folded = digest_of(self._state) if self._tails else ""
        tails = [
            SnapshotFact(seq, index.covers, TAIL, digest_of(tail), folded) for seq, index, tail in self._tails
        ]
        return [*self._found, *tails]
