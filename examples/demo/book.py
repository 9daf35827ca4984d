"""The venue's book: what was really executed, in a file that no log and no fold knows of.

Each entry is one line, appended by one write; so the file has one order, on which all its readers agree, and
an entry survives the process that wrote it. Like a venue that takes fencing tokens, the book can be shut to
earlier epochs: an entry of such an epoch behind that line is void, whoever wrote it and however late it woke
up. So it takes no lock, which a frozen process could hold, to be sure that nothing is executed twice.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from aegisipc.eventstore.errors import AegisError
from examples.orders import Report

DIRECTORY: Final = "AEGIS_DEMO_BOOKS"
"""The environment variable that says where the books are."""


class ShutOut(AegisError):
    """The book takes nothing of this epoch any more: there is a later one. Field: ``epoch``."""

    code = "shut_out"


class Book:
    """One group's entries. Belongs to one thread; any number of processes may have the same file open."""

    def __init__(self, path: Path) -> None:
        self.entries: list[Report] = []
        """What counts, in the order of the file. A cancelled order has two: placed, and cancelled."""
        self.orders: dict[str, Report] = {}
        """Where each order stands now, by its execution's id, which is the id of the call that placed it."""
        self.placed: Counter[str] = Counter()
        """How often each was placed, by the same id."""
        self.void = 0
        """Entries that came too late."""
        self.shut_before = 0
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._read_to = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def shut(self, epoch: int) -> None:
        """Let nothing of an epoch before `epoch` count from here on, and read what did until now."""
        self.refresh()
        if epoch > self.shut_before:
            self._append({"shut_before": epoch})

    def placed_as(self, execution_id: str) -> Report | None:
        """Return an order as it was placed, or ``None`` if it was not."""
        self.refresh()
        return next((report for report in self.entries if report.execution_id == execution_id), None)

    def enter(self, epoch: int, report: Report) -> None:
        """Write an entry.

        Raises:
            ShutOut: it does not count, and never will.
        """
        void = self.void
        self._append({"epoch": epoch, "report": report.model_dump(mode="json")})
        if self.void > void and epoch < self.shut_before:
            raise ShutOut(f"cannot execute in epoch {epoch}: {self.shut_before} has begun", epoch=epoch)

    def refresh(self) -> None:
        """Read what has been written since the last time."""
        for line in self._new_lines():
            plain = json.loads(line)
            if "shut_before" in plain:
                self.shut_before = max(self.shut_before, plain["shut_before"])
            elif plain["epoch"] < self.shut_before:
                self.void += 1
            else:
                self._count(Report.model_validate(plain["report"]))

    def _count(self, report: Report) -> None:
        self.entries.append(report)
        known = report.execution_id in self.orders
        is_cancellation = known and report.status is not self.orders[report.execution_id].status
        self.placed[report.execution_id] += not is_cancellation
        self.orders[report.execution_id] = report

    def _append(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self.refresh()

    def _new_lines(self) -> Iterator[bytes]:
        """Whole lines behind those that were read; what is being written now comes the next time."""
        size = os.fstat(self._file).st_size
        data = os.pread(self._file, size - self._read_to, self._read_to)
        whole = data.rfind(b"\n") + 1
        self._read_to += whole
        yield from data[:whole].splitlines()


def book_of(directory: Path, group: str) -> Book:
    """Open the book of a group, making the file if there is none."""
    return Book(directory / f"book-{group}.jsonl")
