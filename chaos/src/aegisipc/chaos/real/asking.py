"""Making calls and writing down what came of them, as :mod:`aegisipc.chaos.history` has it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final

from aegisipc.chaos.history import Deed, Operation, Stage
from aegisipc.chaos.real.loads import Ask, Asks, LoadOptions, Manner
from aegisipc.chaos.real.recording import Recorder, now_ns
from aegisipc.chaos.workload import EFFECTS, receipt_of
from aegisipc.sdk import AegisError
from aegisipc.sdk.client import Client
from aegisipc.sdk.errors import CallInDoubt, CallTimeout
from aegisipc.sdk.pending import Pending

_GRACE_S: Final = 10.0
"""A caller waits for so long behind its deadline before it says that nobody told it anything."""
_UNKNOWN: Final = (CallInDoubt, CallTimeout)
_REFUSED_PAUSE_S: Final = 0.05
_CANCEL_S: Final = 10.0
_ATTACH_S: Final = 15.0


class Told:
    """What came of something that was asked for."""

    def __init__(self, stage: Stage, *, value: Any = None, error: AegisError | None = None) -> None:
        self.stage, self.value = stage, value
        self.error = None if error is None else error.code
        self.message = "" if error is None else error.message
        details = {} if error is None else error.details
        call_id = details.get("call_id") or getattr(error, "call_id", None)
        self.call_id = call_id if isinstance(call_id, str) else None
        self.receipt: dict[str, Any] | None = None


async def told(waiting: Awaitable[Any]) -> Told:
    """Wait for an outcome, and say what it is. That nobody knows is ``info``; so is it when nobody says."""
    try:
        return Told(Stage.OK, value=await waiting)
    except _UNKNOWN as error:
        return Told(Stage.INFO, error=error)
    except AegisError as error:
        return Told(Stage.FAIL, error=error)
    except TimeoutError:
        silent = Told(Stage.INFO)
        silent.error, silent.message = "silence", "nobody said anything long after the deadline"
        return silent


class Caller:
    """One client and its workers."""

    def __init__(self, client: Client, asks: Asks, recorder: Recorder, options: LoadOptions) -> None:
        self._client, self._asks, self._recorder, self._options = client, asks, recorder, options
        self._chance = random.Random(f"{client.name}:pauses")  # noqa: S311 - no secret
        self.is_stopping = asyncio.Event()
        self.done = 0

    @property
    def name(self) -> str:
        """The client's name."""
        return self._client.name

    @property
    def open_calls(self) -> int:
        """How many calls it has open."""
        return self._client.open_calls

    async def work(self, worker: int) -> None:
        """Ask for one thing after another until it is to stop; `worker` is which of them this is."""
        pause_s = self._options.pause_ms / 1000
        while not self.is_stopping.is_set():
            ask = self._asks.draw(worker)
            accepted = await self._one(ask)
            self.done += 1
            wait_s = self._chance.uniform(0, 2 * pause_s) if accepted else max(pause_s, _REFUSED_PAUSE_S)
            if wait_s:
                await asyncio.sleep(wait_s)

    async def _one(self, ask: Ask) -> bool:
        """Ask, and tell whether it was accepted."""
        if ask.manner in (Manner.SUBMIT, Manner.CANCEL):
            return await self._submitted(ask)
        asked = self._said(ask, Deed.CALL, Stage.INVOKE)
        await self._recorder.keep(asked)
        if ask.key is None and "body" not in ask.options:
            calling: Awaitable[Any] = self._client.call(ask.target, ask.argument, **self._calling(ask))
            outcome = await told(self._patiently(calling, ask.timeout_s))
        else:  # in the log its number does not tell which operation it was, so its id must
            submitted = await told(self._patiently(self._submitting(ask), ask.timeout_s))
            outcome = submitted
            if submitted.stage is Stage.OK:
                pending: Pending = submitted.value
                receipt = receipt_of(pending)
                outcome = await told(self._patiently(pending.result(), ask.timeout_s))
                outcome.call_id, outcome.receipt = pending.call_id, receipt
        await self._recorder.keep(ended(asked, outcome))
        return outcome.call_id is not None or outcome.stage is Stage.OK

    def _submitting(self, ask: Ask) -> Awaitable[Pending]:
        return self._client.submit(ask.target, ask.argument, **self._calling(ask))

    def _calling(self, ask: Ask) -> dict[str, Any]:
        return {
            "resource_id": ask.resource,
            "timeout": ask.timeout_s,
            "idempotency_key": ask.key,
            **ask.options,
        }

    async def _patiently(self, waiting: Awaitable[Any], timeout_s: float) -> Any:
        async with asyncio.timeout(timeout_s + _GRACE_S):
            return await waiting

    async def _submitted(self, ask: Ask) -> bool:
        """Submit; then attach by the same client, which waits for the outcome, or cancel."""
        asked = self._said(ask, Deed.SUBMIT, Stage.INVOKE)
        await self._recorder.keep(asked)
        outcome = await told(self._patiently(self._submitting(ask), ask.timeout_s))
        pending: Pending | None = outcome.value if outcome.stage is Stage.OK else None
        if pending is not None:
            outcome.value, outcome.call_id = None, pending.call_id
            outcome.receipt = receipt_of(pending)
        await self._recorder.keep(ended(asked, outcome))
        if pending is None:
            return outcome.call_id is not None
        if ask.manner is Manner.CANCEL:
            await asyncio.sleep(self._chance.uniform(0, 0.1))
            await self._cancelled(ask, pending)
        await self._attached(ask, pending)
        return True

    async def _cancelled(self, ask: Ask, pending: Pending) -> None:
        asked = self._about(ask, Deed.CANCEL, pending)
        await self._recorder.keep(asked)
        outcome = await told(self._patiently(pending.cancel("as asked", _CANCEL_S), _CANCEL_S))
        await self._recorder.keep(ended(asked, outcome))

    async def _attached(self, ask: Ask, pending: Pending) -> None:
        asked = self._about(ask, Deed.ATTACH, pending)
        await self._recorder.keep(asked)
        outcome = await told(self._patiently(pending.result(), ask.timeout_s))
        if outcome.error == CallTimeout.code:  # its deadline is short; what became of it is in the log
            attaching = self._client.attach(pending.call_id, timeout=_ATTACH_S)
            outcome = await told(self._patiently(attaching.result(_ATTACH_S), 2 * _ATTACH_S))
        await self._recorder.keep(ended(asked, outcome))

    # -- lines ------------------------------------------------------------------------------------------

    def _said(self, ask: Ask, deed: Deed, stage: Stage) -> Operation:
        return Operation(
            ask.number,
            stage,
            deed,
            self._client.name,
            now_ns(),
            target=ask.target,
            effect=EFFECTS[ask.method],
            resource=ask.resource,
            key=ask.key,
            timeout_s=ask.timeout_s,
        )

    def _about(self, ask: Ask, deed: Deed, pending: Pending) -> Operation:
        """Return the invocation of something that is done to a call which was accepted."""
        said = self._said(ask, deed, Stage.INVOKE)
        return replace(said, number=self._asks.number(), call_id=pending.call_id, key=None, timeout_s=None)


def ended(asked: Operation, outcome: Told) -> Operation:
    """Return the completion of an operation."""
    return Operation(
        asked.number,
        outcome.stage,
        asked.deed,
        asked.client,
        now_ns(),
        asked.target,
        asked.effect,
        asked.resource,
        asked.key,
        asked.timeout_s,
        outcome.call_id or asked.call_id,
        outcome.value,
        outcome.error,
        outcome.message,
        outcome.receipt,
    )
