"""Processes that start at once: one process imports everything, and forks the others.

``python -m aegisipc.chaos.real.zygote MODULE…`` imports these modules. Then it reads requests from stdin, a
line of JSON each, and answers each with a line on stdout:

==============================================  =========================================
``{"fork": "module:function", "args": {},       ``{"pid": 1}``: runs ``function(**args)``, with
"output": "path", "env": {}, "netns": ""}``     its output appended to that file; in a network
                                                namespace, and with a wrong wall clock if `env`
                                                names one (:mod:`aegisipc.chaos.nemeses.skew`)
``{"kill": 1}``                                 ``{"code": -9}``: SIGKILL, and it is gone
``{"poll": 1}``                                 ``{"code": null}`` while it runs
==============================================  =========================================

An exit code is negative for a signal. When stdin ends, all are killed, so nothing outlives who started it.
The id of a process that has ended is kept until it is asked about, so an id never means another process.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

from aegisipc.chaos.nemeses.skew import skew_from_environment
from aegisipc.eventstore.errors import AegisError

_PR_SET_PDEATHSIG: Final = 1
_GONE_S: Final = 10.0
_NETNS: Final = Path("/run/netns")
_FIRST: Final = (
    "aegisipc.chaos.real.roles",
    "aegisipc.router.cli.dispatch",
    "aegisipc.router.cli.router",
    "aegisipc.router.cli.routing",
    "aegisipc.eventstore.cli.running",
    "aegisipc.eventstore.cli.logs",
)
"""What is imported before anything is forked, unless other modules are named."""


class ZygoteGone(AegisError):
    """The process that forks all others has ended. Field: ``exit_code``."""

    code = "zygote_gone"


class Child:
    """A process that was forked. ``code`` is its exit code, once that is known."""

    def __init__(self, zygote: Zygote, pid: int, output: Path) -> None:
        self._zygote = zygote
        self.pid = pid
        self.output = output
        self.code: int | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs; a frozen one does."""
        if self.code is None:
            self.code = self._zygote.ask(poll=self.pid)["code"]
        return self.code is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Idempotent."""
        if self.code is None:
            self.code = self._zygote.ask(kill=self.pid)["code"]

    def send(self, signum: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.is_alive:
            os.kill(self.pid, signum)

    def said(self) -> list[dict[str, Any]]:
        """What it printed as JSON, a line each."""
        text = self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""
        complete = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in complete if line.startswith("{")]


class Zygote:
    """The process that forks; made by :func:`running_zygote`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fork(
        self,
        function: str,
        output: Path,
        args: dict[str, Any],
        *,
        env: dict[str, str] | None = None,
        netns: str = "",
    ) -> Child:
        """Run ``module:function`` with these arguments in a process of its own; `netns` is the name of a
        network namespace.

        Raises:
            ZygoteGone: there is nobody to fork it.
        """
        told = self.ask(fork=function, args=args, output=str(output), env=env or {}, netns=netns)
        return Child(self, told["pid"], output)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Make a request and return the answer; it takes milliseconds.

        Raises:
            ZygoteGone: there is nobody to answer.
        """
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise ZygoteGone("cannot start processes: the one that forks them has no pipes", exit_code=None)
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            code = process.poll()
            raise ZygoteGone(
                f"cannot start processes: the one that forks them has ended (exit code {code}); was it "
                "killed for want of memory? Run again with fewer scenarios",
                exit_code=code,
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def running_zygote(folder: Path, *, first: Sequence[str] = _FIRST) -> Iterator[Zygote]:
    """Start one, and end it with all that it forked. Temporary files of its processes go to `folder`. `first`
    are the modules that it imports before it forks anything.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("AEGIS_")}
    with (
        (folder / "zygote.log").open("ab") as log,
        subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", "aegisipc.chaos.real.zygote", *first],
            env={**env, "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for who started it, who ends them in order
        ) as process,
    ):
        try:
            yield Zygote(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_GONE_S)
            except subprocess.TimeoutExpired:
                process.kill()  # and those that it forked end with it


# -- in the process that forks ----------------------------------------------------------------------------


def _main() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    running: set[int] = set()
    ended: dict[int, int] = {}
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if "fork" in request:
                pid = _fork(request)
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


def _fork(request: dict[str, Any]) -> int:
    sys.stdout.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_a_child(parent, request)
    return pid


def _be_a_child(parent: int, request: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if request["netns"]:
            os.setns(os.open(_NETNS / request["netns"], os.O_RDONLY), os.CLONE_NEWNET)
        os.environ.update(request["env"])
        skew_from_environment()
        module, _, name = request["fork"].partition(":")
        code = int(getattr(importlib.import_module(module), name)(**request["args"]) or 0)
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
