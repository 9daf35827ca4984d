"""The operator of a simulation: gives orders as planned, and ends what only people can end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from aegisipc.chaos.history import Operation, Stage
from aegisipc.chaos.log_facts import CallFact
from aegisipc.chaos.log_words import CallState as WhereItStands
from aegisipc.chaos.operators import DISCARD, REQUEUE, RESOLVE, asking_for, reason_of
from aegisipc.chaos.sim.plan import OrderPlan
from aegisipc.chaos.sim.recording import Recorder
from aegisipc.eventstore.errors import AckUnknown, AegisError
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import SystemState

OPERATOR: Final = "operator"

_TRIES: Final = 3
_ANSWER_S: Final = 2.0
_AGAIN_S: Final = 0.1
_RECONNECT_S: Final = 0.2
_FIRST_ORDER: Final = 8_000_000
"""Numbers of an operator's operations begin here."""
_UNCLEAR: Final = "pen_lost"


class _Order(NamedTuple):
    """Whom to ask for what: ``place`` is what it is about, in words."""

    subject: str
    place: str
    command: dict[str, Any]
    future: asyncio.Future[dict[str, Any]] | None = None


class OperatorProcess:
    """An operator. Each time it asks is an operation of its history, with a number of its own."""

    def __init__(self, url: str, subjects: Subjects, recorder: Recorder) -> None:
        self.subjects = subjects
        self._url, self._recorder = url, recorder
        self._orders: asyncio.Queue[_Order] = asyncio.Queue()
        self._asked = 0

    async def run(self) -> None:
        """Give orders as they come."""
        while True:
            try:
                connection = await Connection.open(ConnectOptions(self._url, name=OPERATOR))
                break
            except AegisError:
                await asyncio.sleep(_RECONNECT_S)
        while True:
            order = await self._orders.get()
            answer = await self._until_answered(connection, order)
            if order.future is not None and not order.future.done():
                order.future.set_result(answer)

    async def _until_answered(self, connection: Connection, order: _Order) -> dict[str, Any]:
        for _ in range(_TRIES):
            try:
                answer = await self._ask(connection, order)
            except AegisError as error:
                answer = {"error": error.to_plain()}
                await asyncio.sleep(_AGAIN_S)
            else:
                break
        return answer

    async def _ask(self, connection: Connection, order: _Order) -> dict[str, Any]:
        """Ask once, and write down what came of it.

        Raises:
            AegisError: there was no answer.
        """
        recorder = self._recorder
        self._asked += 1
        number = _FIRST_ORDER + self._asked
        asked = asking_for(number, OPERATOR, recorder.now_ns, order.place, order.command)
        recorder.evidence.operations.append(asked)
        said = order.command | {"author": OPERATOR, "reason": reason_of(number)}
        if not asked.call_id:
            del said["command"]  # a router is asked for it by its subject
        try:
            message = await connection.request(order.subject, json.dumps(said).encode(), timeout_s=_ANSWER_S)
            answer: dict[str, Any] = json.loads(message.payload)
        except AegisError as error:
            stage = Stage.INFO if isinstance(error, AckUnknown) else Stage.FAIL
            self._answered(asked, stage, error=error.code, message=error.message)
            raise
        refusal = answer.get("error")
        if refusal is None:
            self._answered(asked, Stage.OK, value=answer)
        else:
            stage = Stage.INFO if refusal["code"] == _UNCLEAR else Stage.FAIL
            self._answered(asked, stage, error=refusal["code"], message=refusal["message"])
        return answer

    def _answered(self, asked: Operation, stage: Stage, **what: Any) -> None:
        recorder = self._recorder
        answer = replace(asked, stage=stage, at_ns=recorder.now_ns, **({"value": None} | what))
        recorder.evidence.operations.append(answer)

    # -- routers ----------------------------------------------------------------------------------------

    def resume(self, service: str, group: str) -> None:
        """Let calls of a group start again, also at instances in quarantine."""
        self.order(OrderPlan(0.0, "resume", service, group))

    def order(self, plan: OrderPlan) -> None:
        """Give an order to the router that leads."""
        command: dict[str, Any] = {"command": plan.verb, "service": plan.service, "group": plan.group}
        if plan.instance:
            command["instance"] = plan.instance
        place = "/".join(str(command[name]) for name in ("service", "group", "instance") if name in command)
        self._orders.put_nowait(_Order(self.subjects.api(plan.verb), place, command))

    # -- groups -----------------------------------------------------------------------------------------

    def say(self, service: str, group: str, command: dict[str, Any]) -> None:
        """Tell the holder of a pen something, after all that was to be said before."""
        self._orders.put_nowait(_Order(self.subjects.tell(service, group), f"{service}/{group}", command))

    async def tell(self, service: str, group: str, command: dict[str, Any]) -> dict[str, Any]:
        """Tell the holder of a pen something, and return the answer."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        subject = self.subjects.tell(service, group)
        self._orders.put_nowait(_Order(subject, f"{service}/{group}", command, future))
        return await future


type Told = tuple[str, str, dict[str, Any]]
"""A service, one of its groups, and what it is told."""


def resolutions(state: SystemState, recorder: Recorder) -> list[Told]:
    """Return what an operator says of all doubts: by the ledger, as by the venue in life."""
    found: list[Told] = []
    for (service, group), calls in state.calls.items():
        for call in calls.open.values():
            if call.state is not CallState.IN_DOUBT:
                continue
            shown = format_call_id(call.call_id)
            number = recorder.number_of(shown)
            command: dict[str, Any] = {"command": RESOLVE, "call_id": shown, "executed": number is not None}
            if number is not None:
                command["result"] = number
            found.append((service, group, command))
    return found


def about_letters(calls: Iterable[CallFact]) -> list[Told]:
    """Return what an operator says of all dead letters: half of them may run again, the others never."""
    return [
        (
            call.service,
            call.group,
            {
                "command": REQUEUE if call.number is None or call.number % 2 else DISCARD,
                "call_id": call.call_id,
            },
        )
        for call in calls
        if call.state is WhereItStands.DEAD
    ]
