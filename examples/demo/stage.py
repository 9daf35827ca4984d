"""The stage: a broker, a router and the services, each in a process of its own.

They are the real ones, started as anyone would start them: ``aegis router``, ``aegis serve``. Each ends when
the demonstration does, even if that one is killed; each writes to a file, and when one ends before its time
the tail of that file says why.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aegisipc.eventstore.errors import AegisError
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from examples.demo.book import DIRECTORY

NAMESPACE: Final = "demo"
QUOTE_WORKERS: Final = 2
MEMBERS: Final = 2
"""Instances of a group that has a standby."""

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
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that it gets beside ours."""


def parts(url: str, groups: Mapping[str, Sequence[str]], books: Path | None = None) -> list[Part]:
    """Return the processes beside the broker: a router, the groups that own accounts, and a pool.

    With `books`, where the venue keeps them, each group has a standby.
    """
    where = ("--url", url, "--namespace", NAMESPACE)
    cast = [Part("router", ("router", "--name", "router-1", *where))]
    for group, accounts in groups.items():
        owned = [word for account in accounts for word in ("--resource", account)]
        if owned and books is None:
            member = ("--group", group, "--instance", f"orders-{group}-1", *owned)
            cast.append(Part(f"orders {group}", ("serve", "examples.orders:orders", *member, *where)))
        elif owned:
            cast += _members(group, ("--group", group, *owned, *where), {DIRECTORY: str(books)})
    for number in range(1, QUOTE_WORKERS + 1):
        worker = ("--instance", f"quotes-{number}")
        cast.append(Part(f"quotes {number}", ("serve", "examples.quotes:quotes", *worker, *where)))
    return cast


def _members(group: str, words: Sequence[str], settings: Mapping[str, str]) -> list[Part]:
    return [
        Part(
            f"orders {group} {number}",
            ("serve", "examples.demo.gateway:gateway", "--instance", f"orders-{group}-{number}", *words),
            settings,
        )
        for number in range(1, MEMBERS + 1)
    ]


def part_of(instance: str) -> str:
    """Return the name of the process that runs an instance of a group that has a standby."""
    return instance.replace("-", " ")


class Stage:
    """Starts everything (``async with``) and ends everything, each process by its own id."""

    def __init__(
        self,
        data_dir: Path,
        groups: Mapping[str, Sequence[str]],
        *,
        fsync: bool,
        tell: Tell,
        books: Path | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._groups = groups
        self._books = books
        self._tell = tell
        self._server = EmbeddedServer(data_dir, fsync=fsync)
        self._children: dict[str, ChildProcess] = {}
        self._frozen: set[str] = set()
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
        for part in parts(self.url, self._groups, self._books):
            self._tell(part.name, "starting")
            argv = [sys.executable, "-m", "aegisipc.router.cli.main", *part.words]
            env = {**os.environ, **part.settings}
            if part.name == "router":  # it hears at once of instances that die
                env["AEGIS_SYSTEM_URL"] = self._server.system_url
            self._children[part.name] = ChildProcess(argv, self._output(part.name), env=env)
        await self._all_ready()

    # -- faults -----------------------------------------------------------------------------------------

    def kill(self, name: str) -> int:
        """Kill a process; it gets no chance to do anything any more. Returns when (Unix nanoseconds)."""
        return self._signal(self._children.pop(name), signal.SIGKILL, name, "killed")

    def freeze(self, name: str) -> int:
        """Stop a process where it is: it lives, and does nothing. Returns when (Unix nanoseconds)."""
        self._frozen.add(name)
        return self._signal(self._children[name], signal.SIGSTOP, name, "frozen")

    def thaw(self, name: str) -> None:
        """Let a frozen process go on, as if no time had passed."""
        if name in self._frozen:
            self._frozen.discard(name)
            self._signal(self._children[name], signal.SIGCONT, name, "ready")

    def _signal(self, child: ChildProcess, signum: signal.Signals, name: str, state: str) -> int:
        at_ns = time.time_ns()
        os.kill(child.pid, signum)
        self._tell(name, state)
        return at_ns

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
        for name in list(self._frozen):
            self.thaw(name)
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
