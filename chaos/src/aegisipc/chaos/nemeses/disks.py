"""Disks that are slow, that fail, and that are full.

The first two are done to a running process from outside: a tracer (``strace``) delays its calls of ``fsync``
and ``fdatasync``, or answers them itself with an error. While it is attached, *every* system call of that
process stops twice, so it is slower as a whole, even at a delay of zero. What the process writes is in the
kernel's hands all the same: no data is lost by this, only the promise that it is on disk is. Writes are not
touched, nor are files opened with ``O_SYNC``.

The third is a small file system in memory. It can be full, but it is not slow, and ``fsync`` costs nothing
there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aegisipc.chaos.nemeses.commands import find_tool, need_root, run
from aegisipc.chaos.nemeses.errors import NemesisFailed, unavailable
from aegisipc.chaos.nemeses.processes import Victim, is_running
from aegisipc.router.infrastructure.child import ChildProcess

_CALLS: Final = "fsync,fdatasync"
_POLL_S: Final = 0.005
_ATTACH_S: Final = 15.0
_REFUSED: Final = ("Operation not permitted", "Permission denied", "Function not implemented")
_BLOCK: Final = b"\0" * 65536
_DISK_PREFIX: Final = "aegis-disk-"
_MOUNT: Final = re.compile(rf"^tmpfs (\S*/{_DISK_PREFIX}(\d+)-\S*) tmpfs ", re.MULTILINE)


class FaultySync:
    """Breaks the fsyncs of process `pid` for the duration of the block: each is delayed by `delay_s`, or
    fails with the error `fails_with` (``"EIO"``) and does not happen. `every` n-th call of each thread only;
    its first is hit.

    Raises, on entering, ``Unavailable`` without ``strace`` or where it may not trace; ``NemesisFailed`` if
    the process has ended. The process may end meanwhile.
    """

    def __init__(
        self, pid: int, *, delay_s: float = 0.0, fails_with: str | None = None, every: int = 1
    ) -> None:
        if (fails_with is None) == (delay_s <= 0):
            raise NemesisFailed(
                "cannot break fsync: say either by how long or with which error", what="fsync"
            )
        what = f"error={fails_with}" if fails_with else f"delay_enter={round(delay_s * 1e6)}"
        self._inject = f"inject={_CALLS}:{what}:when=1+{max(1, every)}"
        self._pid = pid
        self._child: ChildProcess | None = None
        self._dir: tempfile.TemporaryDirectory[str] | None = None
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many fsyncs were seen, and (with `every` at 1) broken, so far."""
        if self._dir is not None:
            trace = Path(self._dir.name, "trace")
            text = trace.read_bytes() if trace.exists() else b""
            self._calls = text.count(b"sync(")
        return self._calls

    async def __aenter__(self) -> Self:
        strace = find_tool("strace", "break fsync")
        Victim(self._pid)
        self._dir = tempfile.TemporaryDirectory(prefix="aegis-strace-")
        folder = Path(self._dir.name)
        argv = [strace, "-f", "-o", str(folder / "trace"), "-e", f"trace={_CALLS}", "-e", self._inject]
        self._child = ChildProcess([*argv, "-p", str(self._pid)], folder / "said")
        try:
            await self._wait_attached(folder / "said")
        except BaseException:
            await self._detach()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._detach()

    async def _wait_attached(self, said: Path) -> None:
        assert self._child is not None  # noqa: S101 - just made
        deadline = time.monotonic() + _ATTACH_S
        while True:
            has_ended = not self._child.is_running  # asked first: then its last words are there
            text = _text(said)
            if any(refusal in text for refusal in _REFUSED):
                raise unavailable("break fsync", text.strip()[-200:], "run as root, with ptrace allowed")
            if " attached" in text:
                return
            if has_ended or time.monotonic() > deadline:
                raise NemesisFailed(
                    f"cannot attach strace to process {self._pid}: {text.strip()[-200:] or 'no answer'}; "
                    "look whether the process has ended, or is traced by somebody else",
                    what="strace",
                )
            await asyncio.sleep(_POLL_S)

    async def _detach(self) -> None:
        """On SIGINT strace lets go of all threads; if it is killed, the kernel does that for it."""
        if self._child is not None:
            self._child.send(signal.SIGINT)
            try:
                await self._child.wait(5.0)
            except TimeoutError:
                self._child.send(signal.SIGKILL)
                await self._child.wait(5.0)
            self._child = None
        if self._dir is not None:
            _ = self.calls
            self._dir.cleanup()
            self._dir = None


class SmallDisk:
    """A file system of `size_bytes` at ``path``, for the duration of the block (Linux, root).

    Raises ``Unavailable`` when entered by somebody else than root, or where nothing may be mounted. A
    nats-server there reckons with the space that it finds at its start, and refuses to make streams that
    reserve more: start it with a ``jetstream_max_store_bytes`` far beyond it.
    """

    def __init__(self, size_bytes: int, parent: Path | None = None) -> None:
        self.size_bytes = size_bytes
        self._parent = parent
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Where it is mounted."""
        if self._path is None:
            raise NemesisFailed("cannot name the small disk: it is not mounted", what="small disk")
        return self._path

    @property
    def free_bytes(self) -> int:
        """How much can still be written."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    async def __aenter__(self) -> Self:
        need_root("mount a small disk")
        mount = find_tool("mount", "mount a small disk")
        await sweep_disks()
        path = Path(tempfile.mkdtemp(prefix=f"{_DISK_PREFIX}{os.getpid()}-", dir=self._parent))
        try:
            await run([mount, "-t", "tmpfs", "-o", f"size={self.size_bytes},mode=0700", "tmpfs", str(path)])
        except NemesisFailed as error:
            _remove(path)
            raise unavailable("mount a small disk", error.message, "run where root may mount") from error
        self._path = path
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        path, self._path = self.path, None
        await _unmount(path)

    async def fill(self, leave_bytes: int = 0) -> int:
        """Write until only `leave_bytes` are free; return how many bytes were written."""
        return await asyncio.to_thread(self._fill, leave_bytes)

    def _fill(self, leave_bytes: int) -> int:
        written = 0
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            try:
                while (room := self.free_bytes - leave_bytes) > 0:
                    written += ballast.write(_BLOCK[: min(len(_BLOCK), room)])
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        return written

    def free(self) -> None:
        """Remove what :meth:`fill` wrote."""
        (self.path / "ballast").unlink(missing_ok=True)


async def sweep_disks() -> list[Path]:
    """Unmount and remove the small disks of processes that have ended; return where they were.

    Raises:
        Unavailable: as for :class:`SmallDisk`.
    """
    need_root("unmount small disks")
    mounts = _text(Path("/proc/mounts"))
    left = [Path(found[1]) for found in _MOUNT.finditer(mounts) if not is_running(int(found[2]))]
    for path in left:
        await _unmount(path)
    return left


async def _unmount(path: Path) -> None:
    """Lazily: who still has a file open there keeps it until he closes it."""
    await run([find_tool("umount", "unmount a small disk"), "--lazy", str(path)])
    _remove(path)


def _remove(mount_point: Path) -> None:
    with contextlib.suppress(OSError):  # something else is mounted below, or was written before the mount
        mount_point.rmdir()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
