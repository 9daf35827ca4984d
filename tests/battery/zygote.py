"""Processes that start at once: ``python -m tests.battery.zygote`` imports everything, and then forks.

Each line on stdin is a request, and each line on stdout its answer, in JSON:

==========================================  =============================================
``{"fork": "module:function", "args": {},   ``{"pid": 1}``: runs ``function(**args)``, with its
"output": "path"}``                         output appended to that file
``{"kill": 1}``                             ``{"code": -9}``: SIGKILL, and it is gone
``{"poll": 1}``                             ``{"code": null}`` while it runs
==========================================  =============================================

An exit code is negative for a signal. When stdin ends, all are killed. A process that nobody asked about
since it ended keeps its id, so an id never means another one.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

_ROOT: Final = Path(__file__).parents[2]
_PR_SET_PDEATHSIG: Final = 1
_GONE_S: Final = 10.0
_FIRST: Final = (
    "tests.battery.roles",
    "aegisipc.router.cli.dispatch",
    "aegisipc.router.cli.router",
    "aegisipc.router.cli.routing",
    "aegisipc.router.application.router",
    "aegisipc.eventstore.cli.running",
    "aegisipc.eventstore.cli.logs",
    "aegisipc.sdk.instance",
    "aegisipc.sdk.transactions.opening",
    "aiosqlite",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)


# -- in the tests -----------------------------------------------------------------------------------------


class Child:
    """A process that was forked."""

    def __init__(self, zygote: Zygote, pid: int, output: Path) -> None:
        self._zygote = zygote
        self.pid = pid
        self.output = output
        self.code: int | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        if self.code is None:
            self.code = self._zygote.ask(poll=self.pid)["code"]
        return self.code is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.code is None:
            self.code = self._zygote.ask(kill=self.pid)["code"]

    def said(self) -> list[dict[str, Any]]:
        """What it printed as JSON, a line each."""
        text = self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""
        complete = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in complete if line.startswith("{")]


class Zygote:
    """The process that forks; made by :func:`running_zygote`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def fork(self, function: str, output: Path, **args: Any) -> Child:
        """Run ``module:function`` with these arguments in a process of its own."""
        told = self.ask(fork=function, args=args, output=str(output))
        return Child(self, told["pid"], output)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Make a request and return the answer."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, f"the zygote is gone, with exit code {process.wait(_GONE_S)}"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def running_zygote() -> Iterator[Zygote]:
    """Start one, and end it with all that it forked."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.battery.zygote"],
        cwd=_ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("AEGIS_")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Zygote(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_GONE_S)
            except subprocess.TimeoutExpired:
                process.kill()  # and those that it forked end with it


# -- in the process that forks ----------------------------------------------------------------------------


def _main() -> None:
    for module in _FIRST:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    running: set[int] = set()
    ended: dict[int, int] = {}
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if "fork" in request:
                pid = _fork(request["fork"], request["args"], request["output"])
                running.add(pid)
                answer: dict[str, Any] = {"pid": pid}
            else:
                answer = {"code": _look(request, running, ended)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _look(request: dict[str, int], running: set[int], ended: dict[int, int]) -> int | None:
    pid = request.get("kill") or request["poll"]
    if pid in running:
        if "kill" in request:
            os.kill(pid, signal.SIGKILL)
        found, status = os.waitpid(pid, 0 if "kill" in request else os.WNOHANG)
        if found == pid:
            running.remove(pid)
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended.get(pid)


def _fork(function: str, args: dict[str, Any], output: str) -> int:
    sys.stdout.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_a_child(parent, function, args, output)
    return pid


def _be_a_child(parent: int, function: str, args: dict[str, Any], output: str) -> NoReturn:
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        module, _, name = function.partition(":")
        code = int(getattr(importlib.import_module(module), name)(**args) or 0)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
        sys.stderr.write(f"{leaving.code}\n")
    except BaseException:  # noqa: BLE001 - nothing above this catches it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _main()
