"""Writing histories down: by clients, durably before they go on; by handlers, in one write each."""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic_core import from_json, to_json

from aegisipc.chaos.history import (
    Deed,
    Effect,
    Entry,
    Evidence,
    Operation,
    Phase,
    Stage,
    from_line,
    to_line,
)

HISTORY: Final = "*.history"
"""All files of histories and ledgers in a folder."""
_EFFECT: Final = b'"kind":"effect"'
_KEY: Final = b'"key":'


_FIELDS: Final[dict[type[Entry], tuple[tuple[str, Any], ...]]] = {
    kind: tuple(
        (of.name, of.default if of.default_factory is MISSING else of.default_factory())
        for of in fields(kind)
    )
    for kind in (Operation, Effect)
}


def line_of(entry: Entry) -> bytes:
    """Return what :func:`~aegisipc.chaos.history.to_line` does, in a fraction of the time for what there is
    most of.
    """
    names = _FIELDS.get(type(entry))
    if names is None:
        return to_line(entry)
    kept: dict[str, Any] = {}
    for name, default in names:
        value = getattr(entry, name)
        if value is not default and (value != default or type(value) is not type(default)):
            kept[name] = value
    kept["kind"] = type(entry).__name__.lower()
    return to_json(kept) + b"\n"


def entry_of(line: bytes) -> Entry:
    """Return what :func:`~aegisipc.chaos.history.from_line` does, faster for what there is most of.

    Raises:
        ValueError: the line cannot be read.
    """
    try:
        plain = from_json(line)
        match plain["kind"]:
            case "operation":
                del plain["kind"]
                plain["stage"], plain["deed"] = Stage(plain["stage"]), Deed(plain["deed"])
                return Operation(**plain)
            case "effect":
                del plain["kind"]
                plain["phase"] = Phase(plain["phase"])
                return Effect(**plain)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"cannot read a line of a history: {error!r}") from error
    return from_line(line)


def now_ns() -> int:
    """The clock of a run: CLOCK_MONOTONIC, which all processes of a machine share."""
    return time.monotonic_ns()


class Recorder:
    """The history of one process, in a file of its own. Group commit: while one fsync runs, whatever comes
    gathers for the next.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[bytes] = []
        self._gathering = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._failure: OSError | None = None
        self.syncs = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def note(self, entry: Entry) -> None:
        """Write an entry down soon, and do not wait for it."""
        self._lines.append(line_of(entry))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="history")

    async def keep(self, entry: Entry) -> None:
        """Write an entry down; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        batch = self._gathering
        self.note(entry)
        await batch.wait()
        if self._failure is not None:
            raise self._failure

    async def _write(self) -> None:
        while self._lines:
            lines, batch = self._lines, self._gathering
            self._lines, self._gathering = [], asyncio.Event()
            try:
                await asyncio.to_thread(self._sync, b"".join(lines))
            except OSError as error:
                self._failure = error
                raise
            finally:
                batch.set()

    def _sync(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)
        self.syncs += 1

    async def close(self) -> None:
        """Write down what is left, and close the file."""
        if self._writing is not None:
            await self._writing
        os.close(self._file)


class Ledger:
    """What the handlers of one life of a process did, beside the system. Each line is one write: it is there
    if the process is killed a moment later.
    """

    def __init__(self, path: Path, instance: str, life: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._instance, self._life = instance, life
        self.folder: Final = path.parent

    def write(
        self,
        number: int,
        phase: Phase,
        *,
        call_id: str,
        epoch: int,
        target: str,
        effect: str,
        resource: str | None,
    ) -> None:
        """Write an effect down.

        Raises:
            OSError: it cannot be written; then the handler must not go on.
        """
        entry = Effect(
            number,
            phase,
            call_id,
            self._instance,
            self._life,
            epoch,
            now_ns(),
            target=target,
            effect=effect,
            resource=resource,
        )
        os.write(self._file, line_of(entry))


def began_in(folder: Path, call_id: str, *, instance: str, epoch: int) -> int | None:
    """Return the number of the call if an instance began it under an epoch (0: any, as in a pool), by its
    ledgers of all lives; ``None`` if it did not. This is what a service would ask its venue.
    """
    for path in folder.glob(f"{instance}.{HISTORY}"):
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ledger:
                for line in _lines_with(ledger, f'"call_id":"{call_id}"'.encode()):
                    entry = entry_of(line)
                    if isinstance(entry, Effect) and epoch in (0, entry.epoch):
                        return entry.number
    return None


def _lines_with(ledger: mmap.mmap, text: bytes) -> Iterator[bytes]:
    """Return all complete lines with a text."""
    at = ledger.find(text)
    while at >= 0:
        end = ledger.find(b"\n", at)
        if end < 0:
            return
        yield ledger[ledger.rfind(b"\n", 0, at) + 1 : end]
        at = ledger.find(text, end)


def no_effect(line: bytes) -> bool:
    """Tell whether a line is one of a history, not of a ledger."""
    return _EFFECT not in line


def with_key(line: bytes) -> bool:
    """Tell whether a line may be about a call with an idempotency key."""
    return _KEY in line


def gathered(
    folder: Path, more: Iterable[Entry] = (), *, wanted: Callable[[bytes], bool] | None = None
) -> Evidence:
    """Read all histories and ledgers in a folder, and put them in the order of their times; only the lines
    that are `wanted`, since it takes long to read millions. The last line of a file may be cut off, if its
    writer was killed.

    Raises:
        ValueError: another line cannot be read.
    """
    evidence = Evidence()
    for path in sorted(folder.glob(HISTORY)):
        lines = path.read_bytes().split(b"\n")
        for line in lines[:-1]:
            if wanted is None or wanted(line):
                evidence.take(entry_of(line))
    for entry in more:
        evidence.take(entry)
    evidence.operations.sort(key=lambda entry: entry.at_ns)
    evidence.effects.sort(key=lambda entry: entry.at_ns)
    evidence.faults.sort(key=lambda entry: entry.at_ns)
    evidence.probes.sort(key=lambda entry: entry.at_ns)
    evidence.samples.sort(key=lambda entry: entry.at_ns)
    return evidence
