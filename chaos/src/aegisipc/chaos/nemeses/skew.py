"""A process whose wall clock is wrong, and jumps.

Only that process: the machine's clock stays as it is. A file that both map into memory holds how wrong it is,
so a jump is seen at once, without a system call. The process must call :func:`skew_from_environment` first of
all, before it imports what it is to deceive.

Wrong are ``time.time``, ``time.time_ns``, ``time.clock_gettime`` and ``clock_gettime_ns`` of the realtime
clock, and ``datetime.now`` where our own code asks for it (:data:`ASK_DATETIME`; the class itself is written
in C and cannot be changed, so other libraries keep the true one). ``time.monotonic`` stays true: a kernel's
steady clock does not jump either. Time stamps of files, and of what a server stores, stay true.

A nats-server's clock cannot be set apart from that of its machine: Linux has time namespaces for the
monotonic and the boot-time clock only, not for the realtime clock, and a Go program reads it without a system
call that could be intercepted.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final, Self

from aegisipc.chaos.nemeses.errors import NemesisFailed

VARIABLE: Final = "AEGIS_CHAOS_CLOCK"
"""The environment variable that names the file."""

ASK_DATETIME: Final = (
    "aegisipc.eventstore.objects",
    "aegisipc.sdk.outbox.relay",
    "aegisipc.sdk.transactions.table",
)
"""Our modules that ask ``datetime`` for the time."""

_NS: Final = 1_000_000_000
_SLOT: Final = struct.Struct("<ddq")  # offset in s, drift in s per s, since when (monotonic ns)
_SLOTS_AT: Final = (8, 8 + _SLOT.size)
_SIZE: Final = _SLOTS_AT[1] + _SLOT.size

_true_time_ns: Final = time.time_ns
_true_clock_gettime: Final = time.clock_gettime
_true_clock_gettime_ns: Final = time.clock_gettime_ns


class _Error:
    """How wrong a clock is now: two slots and, in the first byte, which of them counts, so that nobody reads
    a half of one.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _SIZE)

    def write(self, offset_s: float, drift: float) -> None:
        slot = 1 - self._shared[0]
        _SLOT.pack_into(self._shared, _SLOTS_AT[slot], offset_s, drift, time.monotonic_ns())
        self._shared[0] = slot

    def read_ns(self) -> int:
        offset_s: float
        offset_s, drift, since_ns = _SLOT.unpack_from(self._shared, _SLOTS_AT[self._shared[0]])
        drifted = drift * (time.monotonic_ns() - since_ns) if drift else 0
        return round(offset_s * _NS + drifted)

    def close(self) -> None:
        self._shared.close()


class WallClock:
    """The wall clock of processes that are started with :attr:`environment`, for the duration of the block.
    True at first.
    """

    def __init__(self, offset_s: float = 0.0, drift: float = 0.0) -> None:
        self._first = (offset_s, drift)
        self._path: Path | None = None
        self._error: _Error | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the environment of a process."""
        return {VARIABLE: str(self._path)} if self._path is not None else {}

    def __enter__(self) -> Self:
        descriptor, name = tempfile.mkstemp(prefix="aegis-clock-")
        os.truncate(descriptor, _SIZE)
        os.close(descriptor)
        self._path = Path(name)
        self._error = _Error(self._path)
        self.set(*self._first)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._error is not None and self._path is not None:
            self._error.close()
            self._path.unlink(missing_ok=True)
        self._error = self._path = None

    def set(self, offset_s: float, drift: float = 0.0) -> None:
        """Let it be `offset_s` ahead (behind, if negative) at once, and go wrong by another `drift` seconds
        in each second from now on.

        Raises:
            NemesisFailed: outside of the block.
        """
        if self._error is None:
            raise NemesisFailed("cannot set a wall clock that is not there: enter it first", what="clock")
        self._error.write(offset_s, drift)


def skew_from_environment(environment: Mapping[str, str] = os.environ) -> bool:
    """Make this process's wall clock wrong if :data:`VARIABLE` says so, for good; return whether it does.

    Raises:
        NemesisFailed: the file that it names cannot be used.
    """
    name = environment.get(VARIABLE)
    if not name:
        return False
    try:
        error = _Error(Path(name))
    except (OSError, ValueError) as cause:
        raise NemesisFailed(
            f"cannot use the clock {name}: {cause}; unset {VARIABLE}", what="clock"
        ) from cause
    _replace(error)
    return True


def skew_wall_clock(offset_s: float, drift: float = 0.0) -> None:
    """Make this process's own wall clock wrong, for good; see :meth:`WallClock.set`."""
    with WallClock(offset_s, drift) as clock:
        skew_from_environment(clock.environment)  # a mapping outlives its file


def _replace(error: _Error) -> None:
    def wrong_ns() -> int:
        return _true_time_ns() + error.read_ns()

    def clock_gettime_ns(clock: int, /) -> int:
        return wrong_ns() if clock == time.CLOCK_REALTIME else _true_clock_gettime_ns(clock)

    def clock_gettime(clock: int, /) -> float:
        return wrong_ns() / _NS if clock == time.CLOCK_REALTIME else _true_clock_gettime(clock)

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / _NS
    time.clock_gettime_ns = clock_gettime_ns
    time.clock_gettime = clock_gettime
    for name in ASK_DATETIME:
        if name in sys.modules:
            _deceive(sys.modules[name])
    sys.meta_path.insert(0, _DeceivedFinder())
    _own_time_functions(wrong_ns)


def _own_time_functions(wrong_ns: object) -> None:
    """Modules that took the functions themselves at their import, not ``time``."""
    for module in list(sys.modules.values()):
        for attribute, value in list(vars(module).items()):
            if value is _true_time_ns and module.__name__ != __name__:
                setattr(module, attribute, wrong_ns)


def _deceive(module: ModuleType) -> None:
    module.__dict__["datetime"] = _WrongDatetime


class _DeceivedFinder(MetaPathFinder):
    """Finds the modules of :data:`ASK_DATETIME` that are imported later, and deceives them then."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - the import system names it
        /,
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in ASK_DATETIME else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_deceive(module: ModuleType) -> None:
            execute(module)
            _deceive(module)

        spec.loader.exec_module = execute_and_deceive  # type: ignore[method-assign]
        return spec


class _WrongDatetime(datetime):
    """Says when it is now as ``time.time_ns`` does; its moments are plain ones."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        wrong = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time.time_ns() // 1000)
        return wrong.astimezone(tz) if tz is not None else wrong.astimezone().replace(tzinfo=None)
