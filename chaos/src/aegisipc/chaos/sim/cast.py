"""The processes of a simulation: production code, started as their programs start it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from aegisipc.chaos.history import Deed
from aegisipc.chaos.sim.plan import CallPlan, GroupPlan, Plan
from aegisipc.chaos.sim.recording import Recorder
from aegisipc.chaos.sim.services import SERVICES
from aegisipc.chaos.workload import BOOK, DESK, receipt_of
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.streams import LogOptions
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.application.snapshotting import SnapshotOptions
from aegisipc.router.domain.decide import Policy
from aegisipc.sdk import connect
from aegisipc.sdk.client import Client
from aegisipc.sdk.errors import CallTimeout
from aegisipc.sdk.instance import Instance, InstanceOptions
from aegisipc.sdk.pending import Pending

URL: Final = "nats://sim:4222"
NAMESPACE: Final = "sim"

_RESTART_S: Final = 0.2
_LOOK_S: Final = 0.25
_PATIENCE_S: Final = 60.0
_SETTLED_S: Final = 60.0
_RESULTS: Final = 2_000_000
_CANCELS: Final = 3_000_000
"""Numbers of the operations that follow a submitted call begin here."""


class RouterProcess:
    """A router; started again by whoever supervises it, when it ends by itself."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name
        self.router: Router | None = None
        self._is_asked_to_stop = False

    def stop(self) -> None:
        """Let it stop in good order; it is started again."""
        self._is_asked_to_stop = True

    @property
    def serves(self) -> bool:
        """Whether it routes now."""
        return self.router is not None

    async def run(self) -> None:
        """Route until killed."""
        plan = self.plan
        while True:
            options = RouterOptions(
                URL,
                NAMESPACE,
                id=self.name,
                log=LogOptions(replicas=plan.replicas),
                policy=Policy(
                    suspect_after_ms=plan.suspect_after_ms,
                    lost_after_ms=2 * plan.suspect_after_ms,
                    leader_after_ms=plan.suspect_after_ms,
                ),
                system_url=URL if plan.has_system else None,
                probe_ms=0 if plan.seed % 2 else 1000,
                sweep=None,
                snapshots=SnapshotOptions(every_entries=plan.snapshot_entries, every_s=3600.0),
            )
            router = Router(options)
            with suppress(AegisError):
                await router.start()
                self.router = router
                while router.failure is None and not self._is_asked_to_stop:  # noqa: ASYNC110 - it does not tell by itself
                    await asyncio.sleep(_LOOK_S)
            self.router, self._is_asked_to_stop = None, False
            await router.stop()
            await asyncio.sleep(_RESTART_S)


class InstanceProcess:
    """An instance of ``book`` in a group, or a worker of ``desk``. It is started in quarantine while its name
    is among ``quarantined``.
    """

    def __init__(
        self, plan: Plan, name: str, group: GroupPlan | None, quarantined: Collection[str] = ()
    ) -> None:
        self.plan, self.name, self.group = plan, name, group
        self._quarantined = quarantined
        self.instance: Instance | None = None

    def stop(self) -> None:
        """Let it stop in good order; it is started again."""
        if self.instance is not None:
            self.instance.request_stop()

    @property
    def serves(self) -> bool:
        """Whether it has joined, and may go on."""
        incarnation = self.instance.incarnation if self.instance is not None else None
        return incarnation is not None and incarnation.may_be_live

    async def run(self) -> None:
        """Serve until killed; join again after whatever ends it."""
        group = self.group
        options = InstanceOptions(
            url=URL,
            namespace=NAMESPACE,
            group=None if group is None else group.name,
            resources=() if group is None else group.resources,
            instance=self.name,
            pulse_ms=self.plan.pulse_ms,
        )
        while True:
            options = replace(options, quarantine=self.name in self._quarantined)
            self.instance = Instance(SERVICES[DESK if group is None else BOOK], options)
            with suppress(AegisError):
                await self.instance.run()
            self.instance = None
            await asyncio.sleep(_RESTART_S)


class ClientProcess:
    """A client with the calls it was given. What it had begun when it was killed it knows nothing of."""

    def __init__(self, plan: Plan, name: str, recorder: Recorder, up_at_s: float) -> None:
        self.name, self.recorder = name, recorder
        self._up_at_s = up_at_s
        self._calls = [call for call in plan.calls if call.client == name]
        self._begun: set[int] = set()
        self._over: set[int] = set()
        self.client: Client | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_done(self) -> bool:
        """Whether nothing is left that it would do."""
        return len(self._over) == len(self._calls)

    def lost(self) -> None:
        """Its process was killed: what it had begun it does not know of any more."""
        self._over |= self._begun

    async def run(self) -> None:
        """Make the calls at their times, and stay."""
        while True:
            try:
                client = await connect(
                    URL, namespace=NAMESPACE, name=self.name, connect_timeout_s=_PATIENCE_S
                )
                break
            except AegisError:
                await asyncio.sleep(_RESTART_S)
        self.client = client
        loop = asyncio.get_running_loop()
        for call in self._calls:
            if call.number not in self._begun and call.number not in self._over:
                wait_s = max(0.0, self._up_at_s + call.at_s - loop.time())
                loop.call_later(wait_s, self._begin, client, call)
        await asyncio.Event().wait()

    def _begin(self, client: Client, call: CallPlan) -> None:
        self._begun.add(call.number)
        self._tasks.append(asyncio.get_running_loop().create_task(self._make(client, call)))

    async def _make(self, client: Client, call: CallPlan) -> None:
        recorder, target = self.recorder, f"{call.service}.{call.method}"
        arguments = (call.argument, call.work_s, call.failures)
        options: dict[str, Any] = {
            "resource_id": call.resource,
            "timeout": call.timeout_s,
            "idempotency_key": call.key,
            "priority": call.priority,
        }
        if not call.is_submitted and call.cancel_after_s is None:
            recorder.invoked(call, Deed.CALL, self.name)
            try:
                value = await client.call(target, *arguments, **options)
                recorder.told(call, Deed.CALL, self.name, value=value)
            except AegisError as error:
                recorder.told(call, Deed.CALL, self.name, error=error)
        else:
            recorder.invoked(call, Deed.SUBMIT, self.name)
            try:
                pending = await client.submit(target, *arguments, **options)
                receipt = receipt_of(pending)
                recorder.told(call, Deed.SUBMIT, self.name, call_id=pending.call_id, receipt=receipt)
            except AegisError as error:
                recorder.told(call, Deed.SUBMIT, self.name, error=error)
            else:
                await self._see_to(call, pending)
        self._over.add(call.number)

    async def _see_to(self, call: CallPlan, pending: Pending) -> None:
        """Cancel a submitted call, if that is planned, and wait for its outcome."""
        if call.cancel_after_s is not None:
            await asyncio.sleep(call.cancel_after_s)
            await self._told(call, Deed.CANCEL, _CANCELS, pending.call_id, pending.cancel("planned", 5.0))
        await self._told(call, Deed.ATTACH, _RESULTS, pending.call_id, _final(pending))

    async def _told(
        self, call: CallPlan, deed: Deed, base: int, call_id: str, answer: Coroutine[Any, Any, Any]
    ) -> None:
        recorder, number = self.recorder, base + call.number
        recorder.invoked(call, deed, self.name, number)
        try:
            recorder.told(call, deed, self.name, call_id=call_id, value=await answer, number=number)
        except AegisError as error:
            recorder.told(call, deed, self.name, call_id=call_id, error=error, number=number)


async def _final(pending: Pending) -> Any:
    """Wait as users are told to: for the deadline, and if nothing was heard by then, in the log."""
    with suppress(CallTimeout):
        return await pending.result()
    return await pending.settled(_SETTLED_S)
