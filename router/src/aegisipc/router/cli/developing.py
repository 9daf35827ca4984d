"""A nats-server and a router as children, in the foreground."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.options import Endpoint
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer, PortInUse
from aegisipc.router.infrastructure.server_config import SYSTEM_USER

ROUTER_NAME: Final = "dev"
"""Always the same: a router that was killed with everything else leads again at once when it is back."""

_LEAD_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.01
_STOP_S: Final = 5.0
_SERVER_START_S: Final = 60.0
_TAIL_LINES: Final = 5
_SYSTEM_URL: Final = "AEGIS_SYSTEM_URL"


class RouterFailed(AegisError):
    """The router child ended, or was not ready in time. Field: ``log_path``."""

    code = "router_failed"


async def develop(args: Namespace) -> int:
    """Run both until a signal comes."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return await Development(args, stopping).run()


class _Server(EmbeddedServer):
    """The server, with its monitoring pages where they were asked for."""

    def __init__(self, args: Namespace) -> None:
        super().__init__(Path(args.data), host=args.host, port=args.port, fsync=not args.no_fsync)
        self._monitor_port = args.monitor_port


class Development:
    """The two children, and what is said about them."""

    def __init__(self, args: Namespace, stopping: asyncio.Event) -> None:
        self._args = args
        self._subjects: Subjects = subjects_of(args.namespace)
        self._stopping = stopping
        self._server = _Server(args)
        self._router_log = self._server.data_dir / "router.log"
        self._router: ChildProcess | None = None

    async def run(self) -> int:
        """Start both, watch both, stop both; returns the exit code."""
        try:
            if not await self._or_stopped(self._start_server()):
                return 0
            self._router = router = self._launch_router()
            if not await self._or_stopped(self._until_leading(router)):
                return 0
            self._announce(router)
            return await self._watch(router)
        finally:
            await self._stop()

    async def _or_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work`, unless a signal comes first; tells whether it was done."""
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            return False
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    # -- starting ---------------------------------------------------------------------------------------

    async def _start_server(self) -> None:
        try:
            await self._server.start(_SERVER_START_S)
        except PortInUse as error:
            raise PortInUse(
                f"cannot listen on {error.host}:{error.port}: another program does. If that is another "
                "'aegis dev', use it or stop it; else choose another port: --port 4223, or 0 for a free one",
                **error.details,
            ) from error

    def _launch_router(self) -> ChildProcess:
        command = [sys.executable, "-m", "aegisipc.router.cli.main", "router", "--name", ROUTER_NAME]
        command += ["--url", self._server.url, "--namespace", self._args.namespace]
        return ChildProcess(command, self._router_log, env=self._router_environment())

    def _router_environment(self) -> dict[str, str]:
        """The password goes there: a command line is for everybody on the machine to see."""
        env = {name: value for name, value in os.environ.items() if name != _SYSTEM_URL}
        if not self._args.no_system_account:
            env[_SYSTEM_URL] = self._server.system_url
        return env

    async def _until_leading(self, router: ChildProcess) -> None:
        """Return once the router follows and some router leads: from then on instances are admitted.

        That is nearly always the same one; but another router of the namespace may have been faster.

        Raises:
            RouterFailed: it ended, or was not ready in time.
        """
        from aegisipc.eventstore.nats.connection import Connection  # noqa: PLC0415 - while the router starts
        from aegisipc.eventstore.nats.options import ConnectOptions  # noqa: PLC0415 - as above

        deadline = asyncio.get_running_loop().time() + _LEAD_TIMEOUT_S
        seen: set[str] = set()
        async with await Connection.open(ConnectOptions(self._server.url, name="aegis:dev")) as connection:
            while not {ROUTER_NAME, "leading"} <= seen:
                with suppress(AegisError):
                    answer = await connection.request(self._subjects.api("status"), b"", timeout_s=0.5)
                    status = json.loads(answer.payload)
                    seen |= {str(status.get("router")), str(status.get("phase"))}
                if not router.is_running:
                    raise self._router_failed(f"ended with exit code {router.exit_status.result()}")
                if asyncio.get_running_loop().time() > deadline:
                    raise self._router_failed(f"is not ready after {_LEAD_TIMEOUT_S:g} s")
                await asyncio.sleep(_POLL_S)

    def _router_failed(self, why: str) -> RouterFailed:
        return RouterFailed(
            f"cannot start the router: it {why}; its log, {self._router_log}, ends:\n{self._router_tail()}",
            log_path=self._router_log,
        )

    def _router_tail(self) -> str:
        with suppress(OSError):
            text = self._router_log.read_bytes()[-4096:].decode("utf-8", "replace")
            return "\n".join(f"  {line}" for line in text.splitlines()[-_TAIL_LINES:])
        return "  (cannot be read)"

    # -- running ----------------------------------------------------------------------------------------

    def _announce(self, router: ChildProcess) -> None:
        server = self._server
        if self._args.json:
            print_json(
                {
                    "ready": True,
                    "url": server.url,
                    "namespace": self._args.namespace,
                    "server_pid": server.pid,
                    "router_pid": router.pid,
                    "data": str(server.data_dir),
                    "monitor_url": server.monitor_url,
                    "fsync": server.fsync,
                    "system_account": not self._args.no_system_account,
                }
            )
            return
        synced = "each write synced" if server.fsync else "not synced"
        lines = [
            f"ready {server.url} (namespace {self._args.namespace})",
            f"  server  pid {server.pid}, {server.monitor_url}",
            f"  router  pid {router.pid}, log {self._router_log}",
            f"  data    {server.data_dir} ({synced})",
        ]
        print("\n".join(lines), flush=True)

    async def _watch(self, router: ChildProcess) -> int:
        """Return when a signal came (0) or the server died (1)."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        server_ended = asyncio.ensure_future(self._ended(self._server))
        router_ended = asyncio.ensure_future(self._ended(router))
        waiting: set[asyncio.Future[Any]] = {stopped, server_ended, router_ended}
        try:
            while True:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if stopped in done:
                    return 0
                if server_ended in done:
                    say(f"error: nats-server (pid {self._server.pid}) died; its log: {self._server.log_path}")
                    return 1
                say(self._without_router(router))
        finally:
            for task in (stopped, server_ended, router_ended):
                task.cancel()

    def _without_router(self, router: ChildProcess) -> str:
        options = f"--url {self._server.url} --namespace {self._args.namespace} --name {ROUTER_NAME}"
        return (
            f"the router (pid {router.pid}) died with exit code {router.exit_status.result()}; "
            f"its log: {self._router_log}\n"
            "calls go on, but no instance joins and no standby is promoted until there is another router:\n"
            f"  aegis router {options}" + self._system_hint()
        )

    def _system_hint(self) -> str:
        """Where the other router finds the password that this one was given."""
        if self._args.no_system_account:
            return ""
        place = Endpoint.parse(self._server.url)
        password = f"$(cat {shlex.quote(str(self._server.system_password_path))})"
        url = f'"nats://{SYSTEM_USER}:{password}@{place.host}:{place.port}"'
        return f"\nit hears at once of instances that die if it is given\n  {_SYSTEM_URL}={url}"

    @staticmethod
    async def _ended(child: EmbeddedServer | ChildProcess) -> None:
        while child.is_running:  # noqa: ASYNC110 - a child's end is noticed in another thread
            await asyncio.sleep(_POLL_S * 5)

    # -- stopping ---------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        """The router first: it resigns, which needs the server."""
        router = self._router
        if router is not None and router.is_running:
            router.send(signal.SIGTERM)
            try:
                await router.wait(_STOP_S)
            except TimeoutError:
                router.send(signal.SIGKILL)
                await router.wait(_STOP_S)
        await self._server.stop()
