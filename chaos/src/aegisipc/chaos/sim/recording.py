"""The outside view of a simulated run: what clients were told, what handlers did, what was broken."""

from __future__ import annotations

from typing import Any

from aegisipc.chaos.history import Deed, Effect, Evidence, Fault, Operation, Phase, Probe, Stage
from aegisipc.chaos.sim.loop import Actor, SimLoop
from aegisipc.chaos.sim.plan import CallPlan
from aegisipc.chaos.workload import EFFECTS
from aegisipc.eventstore.errors import AckUnknown, AegisError
from aegisipc.sdk import Context
from aegisipc.sdk.errors import CallInDoubt, CallTimeout, CallUnknown


class Recorder:
    """Writes down what happens, in the order in which it happens."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.evidence = Evidence()
        self._began: dict[str, int] = {}

    @property
    def now_ns(self) -> int:
        """The time of the run."""
        return int(self._loop.now_s * 1e9)

    def number_of(self, call_id: str) -> int | None:
        """The number that the handler of a call was given; ``None`` if it did not begin."""
        return self._began.get(call_id)

    def effect(self, number: int, phase: Phase, ctx: Context, effect: str, actor: Actor) -> None:
        """A handler tells how far it is."""
        if phase is Phase.BEGAN:
            self._began.setdefault(ctx.call_id, number)
        self.evidence.effects.append(
            Effect(
                number=number,
                phase=phase,
                call_id=ctx.call_id,
                instance=ctx.instance,
                life=actor.life,
                epoch=ctx.epoch,
                at_ns=self.now_ns,
                target=f"{ctx.service}.{ctx.method}",
                effect=effect,
                resource=ctx.resource_id,
            )
        )

    def fault(self, name: str, victim: str, at_ns: int, detail: str = "") -> None:
        """Something was broken from `at_ns` until now."""
        self.evidence.faults.append(Fault(name, victim, at_ns, self.now_ns, detail))

    def probe(self, node: str, role: str, *, serves: bool, after_s: float, **more: Any) -> None:
        """Say what a node did after everything was healed."""
        self.evidence.probes.append(Probe(node, role, serves, self.now_ns, after_s, **more))

    def invoked(self, call: CallPlan, deed: Deed, client: str, number: int | None = None) -> None:
        """A client is about to ask for something."""
        self._note(call, Stage.INVOKE, deed, client, number=number)

    def told(
        self,
        call: CallPlan,
        deed: Deed,
        client: str,
        *,
        call_id: str | None = None,
        value: Any = None,
        error: BaseException | None = None,
        number: int | None = None,
        receipt: dict[str, Any] | None = None,
    ) -> None:
        """A client was told what came of it."""
        found, code, message = Stage.OK, None, ""
        if error is not None:
            found, code, message = _stage_of(error), getattr(error, "code", type(error).__name__), str(error)
            call_id = getattr(error, "call_id", None) or call_id
        self._note(
            call,
            found,
            deed,
            client,
            call_id=call_id,
            value=value,
            error=code,
            message=message[:200],
            number=number,
            receipt=receipt,
        )

    def _note(
        self, call: CallPlan, stage: Stage, deed: Deed, client: str, *, number: int | None, **more: Any
    ) -> None:
        self.evidence.operations.append(
            Operation(
                number=call.number if number is None else number,
                stage=stage,
                deed=deed,
                client=client,
                at_ns=self.now_ns,
                target=f"{call.service}.{call.method}",
                effect=EFFECTS[call.method],
                resource=call.resource,
                key=call.key,
                timeout_s=call.timeout_s,
                **more,
            )
        )


def _stage_of(error: BaseException) -> Stage:
    if isinstance(error, (CallInDoubt, CallTimeout, AckUnknown, CallUnknown)):
        return Stage.INFO
    return Stage.FAIL if isinstance(error, AegisError) else Stage.INFO
