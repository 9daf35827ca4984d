"""The stage: a broker, a router and the services, each in a process of its own.

They are the real ones, started as anyone would start them: ``aegis router``, ``aegis serve``. Each ends when
the demonstration does, even if that one is killed; each writes to a file, and when one ends before its time
the tail of that file says why.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aegisipc.eventstore.errors import AegisError
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer

NAMESPACE: Final = "demo"
QUOTE_WORKERS: Final = 2

_READY_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.02
_TAIL_LINES: Final = 15

type Tell = Callable[[str, str], None]
"""Takes the name of a process and what it is doing now."""


class ProcessFailed(AegisError):
    """A process of the stage ended, or did not get ready. Fields: ``process``, ``exit_code``."""

    code = "process_failed"


@dataclass(frozen=True, slots=True)
class Part:
    """One process to start: its name here, and the words of its command line."""

    name: str
    words: tuple[str, ...]


def parts(url: str, groups: Mapping[str, Sequence[str]]) -> list[Part]:
    """Return the processes beside the broker: a router, the groups that own accounts, and a pool."""
    where = ("--url", url, "--namespace", NAMESPACE)
    cast = [Part("router", ("router", "--name", "router-1", *where))]
    for group, accounts in groups.items():
        owned = [word for account in accounts for word in ("--resource", account)]
        if owned:
            member = ("--group", group, "--instance", f"orders-{group}-1", *owned)
            cast.append(Part(f"orders {group}", ("serve", "examples.orders:orders", *member, *where)))
    for number in range(1, QUOTE_WORKERS + 1):
        worker = ("--instance", f"quotes-{number}")
        cast.append(Part(f"quotes {number}", ("serve", "examples.quotes:quotes", *worker, *where)))
    return cast


class Stage:
    """Starts everything (``async with``) and ends everything, each process by its own id."""

    def __init__(
        self, data_dir: Path, groups: Mapping[str, Sequence[str]], *, fsync: bool, tell: Tell
    ) -> None:
        self._data_dir = data_dir
        self._groups = groups
        self._tell = tell
        self._server = EmbeddedServer(data_dir, fsync=fsync)
        self._children: dict[str, ChildProcess] = {}
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """Where the broker is."""
        return self._server.url

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self._tell("broker", "starting")
        await self._stack.enter_async_context(self._server)
        self._tell("broker", "ready")
        self._stack.push_async_callback(self._end)
        for part in parts(self.url, self._groups):
            self._tell(part.name, "starting")
            argv = [sys.executable, "-m", "aegisipc.router.cli.main", *part.words]
            self._children[part.name] = ChildProcess(argv, self._output(part.name))
        await self._all_ready()

    async def _all_ready(self) -> None:
        waiting = set(self._children)
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while waiting:
                    for name in sorted(waiting):
                        self._check(name)
                        if "ready" in {line.split(" ", 1)[0] for line in _lines(self._output(name))}:
                            self._tell(name, "ready")
                            waiting.discard(name)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            name = min(waiting)
            what = f"was not ready within {_READY_TIMEOUT_S:g} s"
            raise _failed(name, what, None, self._output(name)) from None

    async def watch(self) -> None:
        """Return never: raises as soon as a process has ended.

        Raises:
            ProcessFailed: with the end of what that process wrote.
        """
        while True:
            if not self._server.is_running:
                raise _failed("broker", "ended", None, self._server.log_path)
            for name in self._children:
                self._check(name)
            await asyncio.sleep(_POLL_S * 5)

    def _check(self, name: str) -> None:
        child = self._children[name]
        if not child.is_running:
            code = child.exit_status.result()
            raise _failed(name, f"ended with exit code {code}", code, self._output(name))

    async def _end(self) -> None:
        """Ask all of them to leave; the router last, so that it sees the others go."""
        names = sorted(self._children, key=lambda name: name == "router")
        for name in names:
            if name == "router":
                await self._gone(names[:-1])
            self._tell(name, "leaving")
            self._children[name].send(signal.SIGTERM)
        await self._gone(names)

    async def _gone(self, names: Sequence[str]) -> None:
        async def end(name: str) -> None:
            child = self._children[name]
            try:
                await child.wait(_STOP_TIMEOUT_S)
            except TimeoutError:
                child.send(signal.SIGKILL)
                await child.wait(_STOP_TIMEOUT_S)
            self._tell(name, "gone")

        await asyncio.gather(*map(end, names))

    def _output(self, name: str) -> Path:
        return self._data_dir / f"{name.replace(' ', '-')}.log"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _failed(name: str, what: str, exit_code: int | None, output: Path) -> ProcessFailed:
    tail = "\n".join(f"  {line}" for line in _lines(output)[-_TAIL_LINES:]) or "  (nothing)"
    return ProcessFailed(f"the process '{name}' {what}; it wrote:\n{tail}", process=name, exit_code=exit_code)
