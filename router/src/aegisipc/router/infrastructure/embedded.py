"""An embedded nats-server: a child process on loopback, for development, demonstrations and tests.

::

    async with EmbeddedServer(Path("data")) as server:
        ...                       # server.url, server.system_url, server.monitor_url

The data directory holds the configuration, the log (``nats-server.log``), JetStream's files and the
passwords; it is locked while the server runs. The first start chooses free ports, which a restart keeps.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from aegisipc.eventstore.errors import AegisError

from .child import ChildProcess
from .data_dir import lock, persistent_password, server_name_for, write_private
from .free_ports import choose_free_port
from .server_config import SYSTEM_USER, ServerConfig, ServerTuning, find_server_binary, render

_PORT_ATTEMPTS = 8
_POLL_S = 0.005
_LOG_TAIL_LINES = 8
_BUSY_ADDRESS = re.compile(r"listen tcp (\S+):(\d+): bind: address already in use")


class ServerStartFailed(AegisError):
    """nats-server ended, or was not ready in time. Fields: ``log_path``, ``exit_code`` (``None``: still
    ran).
    """

    code = "server_start_failed"


class PortInUse(AegisError):
    """Something else listens on the port. Fields: ``host``, ``port``."""

    code = "port_in_use"


class EmbeddedServer:
    """One nats-server process that ends with this process, even if this one is killed (on Linux).

    ``port`` 0 takes a free one. ``fsync`` makes JetStream sync each write before it acknowledges it.
    Without ``user`` and ``password`` the server is open: a plain ``nats://host:port`` connects into the
    account AEGIS; with them they are required. ``binary`` is the program to run (default: see
    ``find_server_binary``); it and ``tuning`` are read at each start.

    Methods are coroutines of whichever event loop calls them: nothing here is tied to one loop.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        fsync: bool = True,
        jetstream: bool = True,
        credentials: tuple[str, str] | None = None,
        binary: Path | None = None,
        tuning: ServerTuning | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = self.data_dir / "nats-server.log"
        self.system_password_path = self.data_dir / "system-password"
        self.fsync = fsync
        self._host = host
        self._requested_port = port
        self._port = port
        self._monitor_port = 0
        self._jetstream = jetstream
        self._credentials = credentials
        self.binary = binary
        self.tuning = tuning or ServerTuning()
        self._system_password = ""
        self._child: ChildProcess | None = None

    # -- what and where it is ---------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the process exists (a frozen one does)."""
        return self._child is not None and self._child.is_running

    @property
    def pid(self) -> int:
        """Process id. Raises ``ServerStartFailed`` if the server was never started."""
        return self._running_child().pid

    @property
    def port(self) -> int:
        """The clients' port; 0 before the first start of a server that chooses its own."""
        return self._port

    @property
    def url(self) -> str:
        """URL for clients in the account AEGIS, with credentials if the server requires them."""
        return self._url(self._credentials)

    @property
    def system_url(self) -> str:
        """URL of the system account, with its password (known from the first start on)."""
        return self._url((SYSTEM_USER, self._system_password))

    @property
    def monitor_url(self) -> str:
        """Base URL of the monitoring pages (``/varz``, ``/healthz`` …), on loopback only."""
        return f"http://127.0.0.1:{self._monitor_port}"

    def _url(self, credentials: tuple[str, str] | None) -> str:
        host = "127.0.0.1" if self._host in {"0.0.0.0", "::", ""} else self._host  # noqa: S104
        if credentials is None:
            return f"nats://{host}:{self._port}"
        user, password = (quote(part, safe="") for part in credentials)
        return f"nats://{user}:{password}@{host}:{self._port}"

    # -- life -------------------------------------------------------------------------------------------

    async def start(self, timeout_s: float = 10.0, *, wait_healthy: bool = True) -> None:
        """Start the server and wait until it serves clients and, by default, until JetStream is ready.

        ``wait_healthy=False`` returns once the ports are open: a cluster's nodes become healthy only
        together. Raises ``PortInUse``, ``DataDirInUse``, ``ServerBinaryMissing``, ``ServerStartFailed``. A
        server that runs already is left alone.
        """
        if self.is_running:
            return
        deadline = time.monotonic() + timeout_s
        binary = self.binary or find_server_binary()
        self._prepare_data_dir()
        await self._launch_on_free_ports(binary, deadline)
        if wait_healthy:
            await self.wait_healthy(max(0.0, deadline - time.monotonic()))

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Shut down gracefully (SIGTERM), by force (SIGKILL) after ``timeout_s``. Idempotent."""
        child = self._child
        if child is None:
            return
        child.send(signal.SIGCONT)
        child.send(signal.SIGTERM)
        try:
            await child.wait(timeout_s)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, and wait until the process is gone. What the kernel had not been given is lost."""
        if self._child is not None:
            self._child.send(signal.SIGKILL)
            await self._child.wait(10.0)

    async def restart(self, timeout_s: float = 10.0) -> None:
        """Stop (if it runs) and start again on the same ports and data."""
        await self.stop()
        await self.start(timeout_s)

    def freeze(self) -> None:
        """SIGSTOP: the process stands still while its kernel keeps the connections open."""
        self._running_child().send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: go on after ``freeze``."""
        self._running_child().send(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- what it says -----------------------------------------------------------------------------------

    async def wait_healthy(self, timeout_s: float = 10.0) -> None:
        """Wait until ``/healthz`` is fine: clients are served, JetStream has recovered and, in a cluster,
        has a leader. Raises ``ServerStartFailed``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            status, answer = await self._get("/healthz")
            if status == 200:
                return
            self._check_child(self._running_child())
            if time.monotonic() > deadline:
                raise self._start_failed(f"not healthy after {timeout_s:g} s: {answer or 'no answer'}")
            await asyncio.sleep(_POLL_S)

    async def varz(self) -> dict[str, Any]:
        """The server's own account of its configuration and state.

        Raises ``ServerStartFailed`` when the server does not answer.
        """
        status, answer = await self._get("/varz")
        if status != 200:
            raise self._start_failed(f"no answer from {self.monitor_url}/varz")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    async def _get(self, path: str) -> tuple[int, str]:
        """Status and body of a monitoring page; status 0 if nobody answers within a second."""
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._monitor_port)
                try:
                    writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
                    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return 0, ""
        status = head.split(b" ", 2)[1:2]
        return (int(status[0]) if status else 0), body.decode("utf-8", "replace")

    # -- starting ---------------------------------------------------------------------------------------

    async def _launch_on_free_ports(self, binary: Path, deadline: float) -> None:
        """Launch; choose again when another program took a port between our look and the server's bind."""
        clients_port_is_fixed = self._requested_port != 0 or self._child is not None
        for _ in range(_PORT_ATTEMPTS - 1):
            self._choose_ports()
            try:
                return await self._launch(binary, deadline)
            except PortInUse as busy:
                if busy.port == self._monitor_port:
                    self._monitor_port = 0
                elif busy.port == self._port and not clients_port_is_fixed:
                    self._port = 0
                else:
                    raise
        self._choose_ports()
        return await self._launch(binary, deadline)

    def _prepare_data_dir(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._ports_dir.mkdir(exist_ok=True)
        self._system_password = persistent_password(self.system_password_path)

    @property
    def _ports_dir(self) -> Path:
        return self.data_dir / "ports"

    def _choose_ports(self) -> None:
        cluster = self.tuning.cluster
        taken = {*(cluster.all_route_ports if cluster else ()), self._monitor_port}
        self._port = self._port or choose_free_port(self._host, avoid=taken)
        taken.add(self._port)
        self._monitor_port = self._monitor_port or choose_free_port("127.0.0.1", avoid=taken)

    async def _launch(self, binary: Path, deadline: float) -> None:
        config_path = self.data_dir / "nats-server.conf"
        write_private(config_path, render(self._config()))
        for stale in self._ports_dir.glob("*.ports"):
            stale.unlink(missing_ok=True)
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        lock_descriptor = await lock(self.data_dir)
        try:
            # The child inherits the lock and thereby holds it exactly as long as it runs.
            child = ChildProcess(
                [str(binary), "-c", str(config_path)], self.log_path, keep_open=[lock_descriptor]
            )
        finally:
            os.close(lock_descriptor)
        try:
            await self._wait_listening(child, deadline, log_start)
        except BaseException:
            child.send(signal.SIGKILL)
            await asyncio.shield(child.wait(10.0))
            raise
        self._child = child

    async def _wait_listening(self, child: ChildProcess, deadline: float, log_start: int) -> None:
        """The server writes its ports file, named after its process id, once it listens."""
        while not any(path.stat().st_size for path in self._ports_dir.glob(f"*_{child.pid}.ports")):
            self._check_child(child, log_start)
            if time.monotonic() > deadline:
                raise self._start_failed("not listening in time")
            await asyncio.sleep(_POLL_S)

    def _check_child(self, child: ChildProcess, log_start: int = 0) -> None:
        if child.is_running:
            return
        exit_code = child.exit_status.result()
        busy = _BUSY_ADDRESS.search(self._log_from(log_start))
        if busy is not None:
            raise PortInUse(
                f"cannot listen on {busy[1]}:{busy[2]}: the address is already in use. Stop the other "
                "program (perhaps another server of yours), or choose another port, or 0 for a free one",
                host=busy[1],
                port=int(busy[2]),
            )
        raise self._start_failed(f"exited with code {exit_code}", exit_code)

    def _start_failed(self, reason: str, exit_code: int | None = None) -> ServerStartFailed:
        tail = "\n".join(self._log_from(0).splitlines()[-_LOG_TAIL_LINES:])
        return ServerStartFailed(
            f"nats-server {reason}; its log, {self.log_path}, ends:\n{tail}",
            log_path=self.log_path,
            exit_code=exit_code,
        )

    def _log_from(self, offset: int) -> str:
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[offset:].decode("utf-8", "replace")

    def _running_child(self) -> ChildProcess:
        if self._child is None:
            raise ServerStartFailed(
                "the server was not started: call start() first", log_path=self.log_path, exit_code=None
            )
        return self._child

    def _config(self) -> ServerConfig:
        open_access = self._credentials is None
        user, password = self._credentials or ("aegis", secrets.token_urlsafe(16))
        return ServerConfig(
            host=self._host,
            port=self._port,
            monitor_port=self._monitor_port,
            server_name=self.tuning.server_name or server_name_for(self.data_dir, self._port),
            store_dir=self.data_dir,  # the server adds "jetstream"
            ports_dir=self._ports_dir,
            fsync=self.fsync,
            jetstream=self._jetstream,
            user=user,
            password=password,
            open_access=open_access,
            system_password=self._system_password,
            tuning=self.tuning,
        )
