"""Running the ``aegis`` command as people do: as a process, of which one sees output and exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

SERVICES: Final = Path(__file__).with_name("services")
COMMAND: Final = (sys.executable, "-m", "aegisipc.router.cli.main")
PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error that ``--json`` printed."""
        found: dict[str, Any] = self.json["error"]
        return found


class Program:
    """A command that runs. Its lines are collected as they come."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.popen = subprocess.Popen(
            [*COMMAND, *words],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = threading.Condition()
        self._open_streams = 2
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.popen.stdout, self.out), (self.popen.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        stream.close()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def line(self, has: str, *, stream: str = "out", within_s: float = PATIENCE_S) -> str:
        """Wait for a line that holds `has`."""
        lines: list[str] = getattr(self, stream)
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in lines if has in line][:1]
            return bool(found) or not self._open_streams

        with self._changed:
            self._changed.wait_for(look, within_s)
            assert found, f"no line with {has!r}; out: {self.out}, err: {self.err}"
        return found[0]

    def ready(self) -> str:
        return self.line("ready")

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(PATIENCE_S)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        return self.ended()

    def ended(self) -> int:
        code = self.popen.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code


@dataclass
class Aegis:
    """Runs commands in one environment; what still runs at the end is killed."""

    env: dict[str, str]
    cwd: Path
    running: list[Program]

    def __call__(self, *words: str, **env: str) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [*COMMAND, *words],
            env=self.env | env,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, **env: str) -> Program:
        """Start a command."""
        program = Program(words, self.env | env, self.cwd)
        self.running.append(program)
        return program

    def at(self, url: str, namespace: str = "default") -> Aegis:
        """The same, with a default server."""
        return Aegis(self.env | {"AEGIS_URL": url, "AEGIS_NAMESPACE": namespace}, self.cwd, self.running)

    def kill_all(self) -> None:
        for program in self.running:
            if program.popen.poll() is None:
                program.kill()
        self.running.clear()


@dataclass(frozen=True)
class System:
    """A running ``aegis dev`` with an instance of ``orders`` for ``acc_1`` and ``acc_2``."""

    url: str
    instance: str
    aegis: Aegis


def start_dev(aegis: Aegis, data: Path, *options: str) -> tuple[Program, dict[str, Any]]:
    """Start ``aegis dev`` and return it with what its ready line says."""
    dev = aegis.start("dev", "--data", str(data), "--no-fsync", "--json", *options)
    told: dict[str, Any] = json.loads(dev.ready())
    return dev, told


def clean_environment(cache: Path) -> dict[str, str]:
    """Return an environment without AegisIPC's settings, in which compiled modules are kept (in `cache`)."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("AEGIS_")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env.setdefault("PYTHONPYCACHEPREFIX", str(cache))
    return env


def until(true: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait for a condition that no line announces."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
