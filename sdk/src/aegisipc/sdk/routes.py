"""The routing table as a client keeps it: a fold of what the log says of services, groups and instances."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from aegisipc.eventstore.clock import ServerClock
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.log import Following, Log, Record
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.topology import Topology

_log = structlog.get_logger("aegisipc.client")

_ROUTES_TIMEOUT_S: Final = 60.0
_REREAD_S: Final = 0.5


class Routes:
    """Follows the routing records. `on_change` is called after each of them, and after the table was read
    anew.
    """

    def __init__(
        self, name: str, log: Log, subjects: Subjects, clock: ServerClock, on_change: Callable[[], None]
    ) -> None:
        self.topology = Topology(subjects)
        self._name = name
        self._log = log
        self._subjects = subjects
        self._clock = clock
        self._on_change = on_change
        self._following: Following | None = None
        self._is_closed = False

    async def begin(self) -> None:
        """Read the table."""
        self._following = await self._read()

    async def close(self) -> None:
        """Follow no more."""
        self._is_closed = True
        if self._following is not None:
            await self._following.stop()

    def take_failed(self) -> Following | None:
        """Return the following if it ended by itself: then :meth:`reread` is to be run with it."""
        following = self._following
        if following is None or following.failure is None:
            return None
        self._following = None
        return following

    async def reread(self, failed: Following) -> None:
        """Following ended by itself (the log was replaced, or part of it is gone): read the table anew."""
        _log.error("routes_lost", client=self._name, error=repr(failed.failure))
        await failed.stop()
        while not self._is_closed:
            try:
                self._following = await self._read()
            except AegisError as error:
                _log.warning("routes_not_read", client=self._name, error=error.message)
                await asyncio.sleep(_REREAD_S)
            else:
                return

    async def _read(self) -> Following:
        """Read into a new topology, which takes the place of the former one when it is whole."""
        topology = Topology(self._subjects)
        following = await self._log.follow(
            [self._subjects.topology], lambda record: self._on_record(topology, record)
        )
        try:
            await following.caught_up(_ROUTES_TIMEOUT_S)
        except BaseException:
            await following.stop()
            raise
        self.topology = topology
        self._on_change()
        return following

    def _on_record(self, topology: Topology, record: Record) -> None:
        self._clock.observe(record.timestamp_ns, time.monotonic_ns())
        topology.apply(record)
        if topology is self.topology:
            self._on_change()
