"""One process to be killed or frozen, and what it holds according to ``/proc`` (Linux only).

A process id can be given to another process after the first has ended. So a victim remembers when its process
began, and never touches one that began at another time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from aegisipc.chaos.history import Sample
from aegisipc.chaos.nemeses.errors import NemesisFailed, unavailable

_PROC: Final = Path("/proc")
_POLL_S: Final = 0.002


class Victim:
    """The process `pid`, which exists now. ``name`` is for people.

    Raises:
        Unavailable: there is no ``/proc`` here.
        NemesisFailed: there is no such process.
    """

    def __init__(self, pid: int, name: str = "") -> None:
        if sys.platform != "linux":
            raise unavailable("look into processes", "there is no /proc", "run on Linux")
        began = _began(pid)
        if began is None:
            raise NemesisFailed(f"cannot find process {pid}: it has ended", what=f"process {pid}")
        self.pid = pid
        self.name = name or str(pid)
        self._began = began

    # -- life -------------------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Whether it runs or is frozen; not if it has ended and is only waited for."""
        return _began(self.pid) == self._began and self._state() not in {"Z", "X", ""}

    def is_frozen(self) -> bool:
        """Whether all of it stands still."""
        return self.is_alive() and all(state in {"T", "t"} for state in self._thread_states())

    def kill(self) -> bool:
        """SIGKILL; return whether it was there. See :meth:`wait_gone`."""
        return self._send(signal.SIGKILL)

    def terminate(self) -> bool:
        """SIGTERM: it may end in its own way, and take its time; return whether it was there."""
        return self._send(signal.SIGTERM)

    async def freeze(self, timeout_s: float = 5.0) -> None:
        """SIGSTOP, and wait until all its threads stand still. Its kernel keeps its connections open.

        Raises:
            NemesisFailed: it has ended, or did not stop in time.
        """
        self._send(signal.SIGSTOP)
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_frozen():
                    if not self.is_alive():
                        raise NemesisFailed(f"cannot freeze {self.name}: it has ended", what="freeze")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise NemesisFailed(
                f"cannot freeze {self.name}: it still ran {timeout_s:g} s after SIGSTOP", what="freeze"
            ) from None

    def thaw(self) -> bool:
        """SIGCONT; return whether it was there."""
        return self._send(signal.SIGCONT)

    async def wait_gone(self, timeout_s: float = 10.0) -> None:
        """Return once it has ended.

        Raises:
            NemesisFailed: it has not, in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.is_alive():  # noqa: ASYNC110 - nobody tells us
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise NemesisFailed(
                f"cannot see {self.name} (process {self.pid}) end: it is there after {timeout_s:g} s; "
                "kill it by hand",
                what="end",
            ) from None

    def _send(self, signum: signal.Signals) -> bool:
        """A handle on the process is taken first: what it refers to cannot be replaced while we look."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():
                return False
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signum)
                return True
            return False
        finally:
            os.close(handle)

    # -- what it holds; zero of everything once it has ended -----------------------------------------------

    def rss_bytes(self) -> int:
        """Memory that is in RAM now."""
        pages = self._read("statm").split()
        return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0

    def open_files(self) -> list[str]:
        """What each of its descriptors refers to, sorted (``/path``, ``socket:[17]``, ``pipe:[18]`` …)."""
        found = []
        for link in self._descriptors():
            with suppress(OSError):
                found.append(str(link.readlink()))
        return sorted(found)

    def sockets(self) -> int:
        """How many of its descriptors are sockets of any kind."""
        return sum(name.startswith("socket:") for name in self.open_files())

    def connections(self) -> int:
        """How many TCP connections it holds that are established."""
        established = self._established()
        return sum(
            name.removeprefix("socket:[").removesuffix("]") in established for name in self.open_files()
        )

    def threads(self) -> int:
        """How many threads it has."""
        return len(self._thread_states())

    def sample(self, at_ns: int) -> Sample:
        """Return what it holds as an entry of a history."""
        return Sample(
            self.name,
            at_ns,
            rss_bytes=self.rss_bytes(),
            open_files=len(self.open_files()),
            connections=self.connections(),
        )

    def _established(self) -> set[str]:
        """The inodes of established connections in its network namespace."""
        inodes = set()
        for table in ("net/tcp", "net/tcp6"):
            for row in self._read(table).splitlines()[1:]:
                columns = row.split()
                if columns[3] == "01":
                    inodes.add(columns[9])
        return inodes

    def _descriptors(self) -> list[Path]:
        try:
            return list((_PROC / str(self.pid) / "fd").iterdir()) if self.is_alive() else []
        except OSError:
            return []

    def _read(self, name: str) -> str:
        if not self.is_alive():
            return ""
        try:
            return (_PROC / str(self.pid) / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _state(self) -> str:
        columns = _stat(_PROC / str(self.pid))
        return columns[0] if columns else ""

    def _thread_states(self) -> list[str]:
        try:
            tasks = list((_PROC / str(self.pid) / "task").iterdir())
        except OSError:
            return []
        return [stat[0] for task in tasks if (stat := _stat(task))]


def is_running(pid: int) -> bool:
    """Whether there is a process `pid`, whosever it is."""
    return _began(pid) is not None


def _stat(entry: Path) -> list[str]:
    """The columns of ``stat`` from the third on: state, parent, … (the second may contain anything)."""
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _began(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; ``None``: there is none."""
    columns = _stat(_PROC / str(pid))
    return int(columns[19]) if len(columns) > 19 else None
