"""The read model beside a router: a projector that is started again whenever it fails, and never hurts it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.sql.engines import open_database
from aegisipc.eventstore.sql.lagging import log_name
from aegisipc.eventstore.sql.projector import Projector, ProjectorOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of

_log = structlog.get_logger("aegisipc.router")

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_HEALTHY_S: Final = 60.0
"""Whatever fails after so long begins with the first pause again."""


class ProjectionTask:
    """Runs a projector on a connection of its own. Whatever goes wrong is logged, and shown by
    :meth:`status`; it is tried again, with pauses that grow.
    """

    def __init__(self, url: str, namespace: str, sql: str, options: ProjectorOptions) -> None:
        self._url = url
        self._subjects = subjects_of(namespace)
        self._database = open_database(sql)
        self._options = options
        self._projector: Projector | None = None
        self._error: str | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="projector")

    async def stop(self) -> None:
        """End it. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._database.close()

    def status(self) -> dict[str, Any]:
        """Return how far it is: JSON-ready. ``error`` is why it does not get on now."""
        if self._projector is not None:
            found = self._projector.status()
        else:
            found = {"database": self._database.shown, "position": None, "lag_records": None, "lag_s": None}
        return found | {"error": self._error or found.get("error"), "restarts": self.restarts}

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                await self._project()
            except AegisError as error:
                self._note(error.message)
            except Exception as error:  # noqa: BLE001 - whatever it is, the router goes on
                self._note(f"{type(error).__name__}: {error}")
            pause_s = _FIRST_PAUSE_S if loop.time() - began > _HEALTHY_S else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
            self.restarts += 1

    def _note(self, error: str) -> None:
        if error != self._error:
            _log.error("projector_failed", error=error)
        self._error = error

    async def _project(self) -> None:
        options = ConnectOptions(self._url, name="aegis:projector")
        async with await Connection.open(options) as connection:
            log = await open_log(connection, self._subjects)
            name = await log_name(connection, self._subjects)
            self._projector = Projector(log, self._subjects, name, self._database, self._options)
            clearing = asyncio.create_task(self._clear(self._projector))
            try:
                await self._projector.run()
            finally:
                clearing.cancel()
                await asyncio.gather(clearing, return_exceptions=True)

    async def _clear(self, projector: Projector) -> None:
        await projector.following.wait()
        if self._error is not None:
            _log.info("projector_recovered", position=projector.position)
        self._error = None
