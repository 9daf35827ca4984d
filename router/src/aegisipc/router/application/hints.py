"""What a router knows of instances beside their pulses: connections that ended, and probes without an answer.

Both only mark the board. What follows from a mark, the domain decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import SystemState
from aegisipc.router.domain.decide import RouterIdentity, leads
from aegisipc.router.domain.health import key_of
from aegisipc.router.infrastructure.disconnects import Disconnects, Ended
from aegisipc.router.infrastructure.probing import Prober, Target

DEFAULT_PROBE_MS: Final = 1000

_log = structlog.get_logger("aegisipc.router")


class Hints:
    """The hints of one router. `wake` lets it decide at once."""

    def __init__(
        self,
        subjects: Subjects,
        state: SystemState,
        board: PulseBoard,
        me: RouterIdentity,
        wake: Callable[[], None],
    ) -> None:
        self._subjects = subjects
        self.state, self._board, self._me = state, board, me
        self._wake = wake
        self._disconnects: Disconnects | None = None
        self._prober: Prober | None = None

    async def listen(self, system_url: str) -> None:
        """Listen to the system account; if no server answers, go on trying in the background.

        Raises:
            BadCredentials: the server refuses those in `system_url`, or they are not of its system account.
            PermissionDenied: that user may not hear of connections.
            InvalidName, ServerUnsuitable: as the connection found it.
        """
        name = f"aegis:router:{self._me.id}:system"
        self._disconnects = Disconnects(system_url, self._subjects.namespace, name=name, on_end=self._on_end)
        await self._disconnects.start()

    def probe(self, connection: Connection, probe_ms: int) -> None:
        """Begin to probe, every `probe_ms`, whom the leader has to judge."""
        self._prober = Prober(connection, self._subjects, self._board, self._targets, probe_ms=probe_ms)
        self._prober.start()

    async def stop(self) -> None:
        """Take no more hints. Idempotent."""
        if self._prober is not None:
            await self._prober.stop()
        if self._disconnects is not None:
            await self._disconnects.stop()

    def _on_end(self, ended: Ended) -> None:
        self._board.connection_ended(ended.connection, reason=ended.reason, event_ns=ended.at_ns)
        self._wake()
        _log.info("connection_ended", name=ended.name, reason=ended.reason)

    def _targets(self) -> Iterator[Target]:
        """Those whom the leader has to judge; who does not lead, asks nobody."""
        if not leads(self.state, self._me):
            self._board.forget_probes()
            return
        for service in self.state.topology.services.values():
            for group in service.groups.values():
                for instance in group.instances.values():
                    if instance.is_live and instance.admitted:
                        yield Target(key_of(instance), instance.incarnation)

    def status(self) -> dict[str, Any]:
        """Return what became of both. ``system_account`` is whether servers can tell us anything now."""
        heard, prober = self._disconnects, self._prober
        return {
            "system_account": heard is not None and heard.is_connected,
            "disconnects": {
                "told": heard.told if heard else 0,
                "ignored": heard.ignored if heard else 0,
                "unreadable": heard.unreadable if heard else 0,
            },
            "probes": {
                "on": prober is not None and prober.is_on,
                "asked": prober.asked if prober else 0,
                "answered": prober.answered if prober else 0,
                "missed": prober.missed if prober else 0,
            },
        }
