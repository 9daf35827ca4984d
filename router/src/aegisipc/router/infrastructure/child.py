"""A child process that cannot outlive its parent.

Linux can signal a child when its parent dies (``PR_SET_PDEATHSIG``), with two traps:

- the signal fires when the *thread* that forked ends, not only when the process does. So each child gets a
  thread of its own, which starts it and then waits for it: the thread lives exactly as long as the child.
- code that runs between fork and exec is unsafe in a process with threads. So a minimal interpreter makes
  the call and then replaces itself by the program; the setting and the process id survive ``exec``.

Elsewhere than on Linux the child is started the same way, without that protection.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

# argv of the launcher: parent's pid, then the program and its arguments. The parent may die before prctl() is
# called; then there is no signal to come, which is why the parent's pid is compared afterwards.
_LAUNCHER = """
import os, sys
parent, program = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    import ctypes
    if ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0) != 0:
        sys.exit("cannot set the parent-death signal: errno %d" % ctypes.get_errno())
    if os.getppid() != parent:
        sys.exit("the parent process has gone")
os.execv(program[0], program)
"""


class ChildProcess:
    """A running program, tied to the life of this process.

    ``exit_status`` is a concurrent future (any thread, any event loop may wait for it) that holds the exit
    code, negative for a signal, as in ``subprocess``.
    """

    def __init__(
        self,
        argv: Sequence[str],
        output: Path,
        keep_open: Sequence[int] = (),
        *,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start ``argv`` and append its output to ``output``; ``keep_open`` are file descriptors it
        inherits, ``env`` is its environment (default: a copy of ours).

        Raises ``OSError`` when the interpreter or the output file cannot be opened. A program that cannot
        be executed shows as an exit with a message in ``output``.
        """
        self.exit_status: Future[int] = Future()
        self._started: Future[subprocess.Popen[bytes]] = Future()
        thread = threading.Thread(
            target=self._run,
            args=(list(argv), output, tuple(keep_open), None if env is None else dict(env)),
            name=f"child {argv[0]}",
            daemon=True,
        )
        thread.start()
        self._popen = self._started.result()

    def _run(
        self, argv: list[str], output: Path, keep_open: tuple[int, ...], env: dict[str, str] | None
    ) -> None:
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv]
        try:
            with output.open("ab") as log:
                popen = subprocess.Popen(  # noqa: S603 - the command line is ours
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=keep_open,
                    env=env,
                    start_new_session=True,  # Ctrl-C is for us: we stop the child when we no longer need it
                )
        except OSError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(popen)
        self.exit_status.set_result(popen.wait())

    @property
    def pid(self) -> int:
        """Process id (of the program itself: the launcher replaces itself by it)."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """False once the exit was noticed."""
        return not self.exit_status.done()

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.is_running:
            self._popen.send_signal(signum)

    async def wait(self, timeout_s: float) -> int:
        """Exit code. Raises ``TimeoutError`` if the process still runs after ``timeout_s``."""
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.exit_status)), timeout_s)
