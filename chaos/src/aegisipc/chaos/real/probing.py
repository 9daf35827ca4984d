"""After everything is healed: does all that was accepted conclude, and does every node serve?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aegisipc.chaos.history import Probe
from aegisipc.chaos.real.finding import find_keys
from aegisipc.chaos.real.members import Role
from aegisipc.chaos.real.operating import Operator
from aegisipc.chaos.real.recording import now_ns
from aegisipc.chaos.real.scene import NAMESPACE, Scene
from aegisipc.chaos.real.services import GROUPS, WHERE, resources_of
from aegisipc.chaos.workload import BOOK, DESK
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay.checking import Check, Report, check
from aegisipc.eventstore.replay.router_claims import router_claims
from aegisipc.eventstore.replay.sources import open_live
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli.asking import Refused, ask, ask_leader
from aegisipc.router.infrastructure.embedded import ServerStartFailed
from aegisipc.sdk import connect
from aegisipc.sdk.client import Client

BOUND_S: Final = 30.0
"""Within so long after the last fault is healed, everything accepted must have an outcome, and every node
must serve."""

_PAUSE_S: Final = 0.1
_TRY_S: Final = 5.0
_ASKED_AT_MOST: Final = 200

type Attempt = Callable[[], Awaitable[str]]
"""Returns what is wrong, or nothing."""


class Prober:
    """Asks everybody, until `BOUND_S` after it was made."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._subjects: Subjects = subjects_of(NAMESPACE)
        self._began_s = time.monotonic()

    def _left_s(self) -> float:
        return self._began_s + BOUND_S - time.monotonic()

    async def _probe(self, node: str, role: str, attempt: Attempt, digests: dict[str, str]) -> Probe:
        """Try until nothing is wrong, or there is no time left."""
        while True:
            try:
                async with asyncio.timeout(max(_TRY_S, self._left_s())):
                    wrong = await attempt()
            except (AegisError, TimeoutError) as error:
                wrong = f"{type(error).__name__}: {error}"
            after_s = time.monotonic() - self._began_s
            if not wrong or self._left_s() <= 0:
                return Probe(node, role, not wrong, now_ns(), after_s, digests, wrong)
            await asyncio.sleep(_PAUSE_S)

    # -- servers and the log ----------------------------------------------------------------------------

    async def servers(self) -> list[Probe]:
        """Every server is healthy."""
        found = []
        for number, server in enumerate(self._scene.servers, 1):

            async def healthy(server: Any = server) -> str:
                try:
                    await server.wait_healthy(_TRY_S)
                except ServerStartFailed as error:
                    return error.message
                return ""

            found.append(await self._probe(f"server{number}", "server", healthy, {}))
        return found

    async def concluded(self, connection: Connection, operator: Operator) -> Probe:
        """No call is open any more, as a router knows that has read everything: an operator has ended what
        only people can.
        """

        async def nothing_open() -> str:
            await operator.end_all()
            told = await ask(connection, self._subjects.api("status"), {}, _TRY_S)
            left = {place: count for place, count in dict(told.get("open_calls") or {}).items() if count}
            return f"open calls: {left}" if left else ""

        return await self._probe("log", "log", nothing_open, {})

    # -- instances --------------------------------------------------------------------------------------

    async def instances(self, client: Client, connection: Connection) -> list[Probe]:
        """Every instance runs a call: of a group, each is promoted in turn; of the pool, whoever is idle."""
        found = []
        for member in self._scene.of(Role.INSTANCE):
            _, group = self._scene.shape.instances[member.name]
            if group is None:
                continue
            name, resource = member.name, resources_of(group, 1)[0]

            async def serves(name: str = name, group: str = group, resource: str = resource) -> str:
                await self._promote(connection, group, name)
                who = await client.call(f"{BOOK}.{WHERE}", resource_id=resource, timeout=_TRY_S)
                return "" if who == name else f"{who} answered for it"

            found.append(await self._probe(name, "instance", serves, {}))
        return [*found, *await self._workers(client)]

    async def _promote(self, connection: Connection, group: str, instance: str) -> None:
        command = {
            "service": BOOK,
            "group": group,
            "instance": instance,
            "author": "chaos",
            "reason": "probe",
        }
        try:
            await ask_leader(connection, self._subjects, "promote", command, max(_TRY_S, self._left_s()))
        except Refused as refusal:
            if refusal.code != "already_active":
                raise

    async def _workers(self, client: Client) -> list[Probe]:
        names = {m.name for m in self._scene.of(Role.INSTANCE)}
        waiting = {n for n in names if self._scene.shape.instances[n][1] is None}
        found: list[Probe] = []
        for _ in range(_ASKED_AT_MOST):
            if not waiting or self._left_s() <= -_TRY_S:
                break
            asked = [client.call(f"{DESK}.{WHERE}", timeout=_TRY_S) for _ in range(8)]
            for told in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(told, str) and told in waiting:
                    waiting.discard(told)
                    after_s = time.monotonic() - self._began_s
                    found.append(Probe(told, "instance", serves=True, at_ns=now_ns(), after_s=after_s))
        return found + [
            Probe(name, "instance", False, now_ns(), time.monotonic() - self._began_s, detail="took no call")
            for name in sorted(waiting)
        ]

    # -- routers and states -----------------------------------------------------------------------------

    async def routers(self) -> list[Probe]:
        """Every router tells its state, and that is what the log comes to; so are the snapshots."""
        report, missing, after_s = await self._verified()
        found = []
        for member in self._scene.of(Role.ROUTER):
            claim = next((c for c in report.checks if c.who == f"router {member.name}"), None)
            found.append(self._router(member.name, claim, report, missing, after_s))
        for each in report.checks:
            if each.kind != "claim":
                said = {"snapshot": each.claimed, "replayed": each.found}
                digests = {name: digest for name, digest in said.items() if digest}
                found.append(
                    Probe(
                        f"{each.kind} of {each.who}",
                        "snapshot",
                        not each.failed,
                        now_ns(),
                        0.0,
                        digests,
                        each.why,
                    )
                )
        return found

    @staticmethod
    def _router(name: str, claim: Check | None, report: Report, missing: str, after_s: float) -> Probe:
        if claim is None or not claim.claimed:
            why = claim.why if claim is not None else missing or "it has not answered"
            return Probe(name, "router", False, now_ns(), after_s, detail=why)
        digests = {"live": claim.claimed, "replayed": claim.found}
        tail = next((c for c in reversed(report.checks) if c.kind == "tail" and c.seq == claim.seq), None)
        if tail is not None:
            digests["snapshot"] = tail.claimed
        return Probe(name, "router", not claim.failed, now_ns(), after_s, digests, claim.why)

    async def _verified(self) -> tuple[Report, str, float]:
        """Fold the log, and compare; again if a router has not told, until there is no time left. Also
        returns when the routers told: to fold a long log takes longer.
        """
        wanted = {f"router {member.name}" for member in self._scene.of(Role.ROUTER)}
        while True:
            async with open_live(self._scene.url, NAMESPACE) as source:
                claims = await router_claims(source)
                after_s = time.monotonic() - self._began_s
                report = await check(source, claims)
            told = {claim.who for claim in claims if claim.digest}
            missing = wanted - told
            if not missing or self._left_s() <= 0:
                why = f"no answer from {', '.join(sorted(missing))}" if missing else ""
                return report, why, after_s
            await asyncio.sleep(_PAUSE_S)

    # -- shared state -----------------------------------------------------------------------------------

    async def shared(self, connection: Connection) -> list[Probe]:
        """All instances of a group have the same state, at the same place of the log."""
        found = []
        for group in GROUPS:
            digests: dict[str, str] = {}

            async def agrees(group: str = group, digests: dict[str, str] = digests) -> str:
                digests.clear()
                subject = self._subjects.tell(BOOK, group)
                told = await ask(connection, subject, {"command": "check"}, _TRY_S)
                seq = str(told["seq"])
                for name, (_, of) in self._scene.shape.instances.items():
                    if of == group:
                        digests[name] = await self._own_digest(connection, group, name, seq)
                missing = [name for name, digest in digests.items() if not digest]
                return f"{', '.join(missing)} did not tell its state" if missing else ""

            probe = await self._probe(f"state of {BOOK}/{group}", "state", agrees, digests)
            found.append(probe)
        return found

    async def _own_digest(self, connection: Connection, group: str, name: str, seq: str) -> str:
        """Ask one instance until it has come to that place; empty if it does not."""
        for _ in range(_ASKED_AT_MOST):
            told = await ask(connection, self._subjects.probe(BOOK, group, name), {}, _TRY_S)
            shown = dict(told.get("state_digests") or {}).get(seq)
            if isinstance(shown, dict) and isinstance(shown.get("own"), str):
                return str(shown["own"])
            await asyncio.sleep(_PAUSE_S)
        return ""


async def probed(scene: Scene, operator: Operator) -> list[Probe]:
    """Probe everything but the clients, who probe themselves when they end; and look for the keys that they
    used.
    """
    prober = Prober(scene)
    found = await prober.servers()
    async with (
        connect(scene.url, namespace=NAMESPACE, name="prober", connect_timeout_s=BOUND_S) as client,
        await Connection.open(ConnectOptions(scene.url, name="aegis:prober")) as connection,
    ):
        found.append(await prober.concluded(connection, operator))
        found += await prober.instances(client, connection)
        found += await prober.shared(connection)
        found += await prober.routers()
        await find_keys(client, scene.histories, scene.seed)
    return found
