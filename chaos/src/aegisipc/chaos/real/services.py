"""The services that are called: ``book``, owned and with shared state, and ``desk``, a pool.

Every method takes the number of its operation first. Its handler writes to the ledger before it begins and
after it ended, so that what ran can be told without asking the system.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from typing import Final

from pydantic import BaseModel

from aegisipc.chaos.history import Phase
from aegisipc.chaos.real.recording import Ledger, began_in
from aegisipc.chaos.workload import DESK, EFFECTS, LEFT_TO_PEOPLE, RETRY, Added, Trouble
from aegisipc.sdk import Context, Doubt, Executed, NotExecuted, Service, ServiceError

GROUPS: Final = ("g1", "g2")
"""Groups of ``book``."""
WHERE: Final = "where"
"""A pure method that says which instance runs it. It is not in the ledger: probes call it."""

_MOST_REMEMBERED: Final = 10_000


def resources_of(group: str, count: int) -> tuple[str, ...]:
    """Return the resources of a group."""
    return tuple(f"{group}-{number}" for number in range(1, count + 1))


class Total(BaseModel):
    """What was added to a resource so far: how often, and a checksum of the numbers in their order."""

    count: int = 0
    checksum: int = 0

    def after(self, number: int) -> Total:
        """Return the total with one more number."""
        return Total(count=self.count + 1, checksum=zlib.crc32(str(number).encode(), self.checksum))


class _Hand:
    """Runs every handler: writes to the ledger, takes its time, and fails if it was asked to."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._failed: OrderedDict[int, int] = OrderedDict()

    def _write(self, number: int, phase: Phase, ctx: Context) -> None:
        self._ledger.write(
            number,
            phase,
            call_id=ctx.call_id,
            epoch=ctx.epoch,
            target=f"{ctx.service}.{ctx.method}",
            effect=EFFECTS[ctx.method],
            resource=ctx.resource_id,
        )

    async def run(self, number: int, work_ms: int, failures: int, ctx: Context) -> None:
        """Have the effect.

        Raises:
            ServiceError: it refuses (`failures` is negative).
            Trouble: it fails, for one of the first `failures` times in this life of the process.
        """
        self._write(number, Phase.BEGAN, ctx)
        if work_ms:
            await asyncio.sleep(work_ms / 1000)
        if failures < 0:
            raise ServiceError("refused", f"number {number} is refused, as it was asked to be")
        failed = self._failed.get(number, 0)
        if failed < failures:
            self._failed[number] = failed + 1
            if len(self._failed) > _MOST_REMEMBERED:
                self._failed.popitem(last=False)
            raise Trouble(f"number {number} fails for the {failed + 1}. time")
        self._write(number, Phase.ENDED, ctx)


def service_of(name: str, ledger: Ledger, *, max_running: int, max_backlog: int) -> Service:
    """Return the service of that name, whose handlers write to `ledger`."""
    service = Service(name, max_running=max_running, max_backlog=max_backlog)
    hand = _Hand(ledger)
    totals: dict[str, Total] = {}

    @service.method(effect="once")
    async def place(number: int, ctx: Context, work_ms: int = 0, failures: int = 0, body: bytes = b"") -> int:
        await hand.run(number, work_ms, failures, ctx)
        return number + len(body)

    @service.method(effect="pure", retry=RETRY)
    async def peek(number: int, ctx: Context, work_ms: int = 0, failures: int = 0, body: bytes = b"") -> int:
        await hand.run(number, work_ms, failures, ctx)
        return number + len(body)

    @service.method(effect="pure")
    async def where(ctx: Context) -> str:
        return ctx.instance

    @service.reconcile
    def find_out(doubt: Doubt) -> Executed | NotExecuted | None:
        number = int(doubt.arguments["number"])
        if number % LEFT_TO_PEOPLE == 0:
            return None
        began = began_in(ledger.folder, doubt.call_id, instance=doubt.claimed_by, epoch=doubt.claimed_epoch)
        if began is None:
            return NotExecuted("it is not in the ledger")
        return Executed(number + len(doubt.arguments["body"]))

    if name == DESK:

        @service.method(effect="idempotent", retry=RETRY)
        async def add(
            number: int, ctx: Context, work_ms: int = 0, failures: int = 0, body: bytes = b""
        ) -> int:
            await hand.run(number, work_ms, failures, ctx)
            return number + len(body)

    else:
        _share(service, hand, totals)
    return service


def _share(service: Service, hand: _Hand, totals: dict[str, Total]) -> None:
    """Give it state that the instances of a group share: how often ``add`` succeeded for each resource."""

    @service.method(effect="idempotent", retry=RETRY)
    async def add(
        number: int, ctx: Context, work_ms: int = 0, failures: int = 0, body: bytes = b""
    ) -> dict[str, int]:
        await hand.run(number, work_ms, failures, ctx)
        resource = ctx.resource_id or ""
        ctx.emit(Added(resource=resource, number=number))
        return {"seen": totals.get(resource, Total()).count, "bytes": len(body)}

    @service.on(Added)
    def added(event: Added) -> None:
        totals[event.resource] = totals.get(event.resource, Total()).after(event.number)

    @service.snapshot
    def taken() -> dict[str, Total]:
        return totals

    @service.restore
    def restored(state: dict[str, Total] | None) -> None:
        totals.clear()
        totals.update(state or {})
