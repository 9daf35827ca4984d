"""What a handler may know about the call it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aegisipc.eventstore.ids import format_call_id


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The call that is being run. A handler gets it by annotating a parameter with ``Context``.

    ``call_id`` is unique for ever and the same if the call is run again: use it as the client order id
    towards a venue. ``epoch`` rises with every change of the active instance: use it as a fencing token
    towards whatever you write to. ``resource_id`` is ``None`` for calls that keep no order.
    """

    service: str
    group: str
    instance: str
    method: str
    client: str
    resource_id: str | None
    epoch: int
    raw_call_id: bytes = field(repr=False)
    deadline_ns: int = field(repr=False)
    clock: Callable[[], int] = field(repr=False)
    sink: Callable[[object, str | None], None] = field(repr=False)

    @property
    def call_id(self) -> str:
        """The call's id, as ``client.attach`` takes it."""
        return format_call_id(self.raw_call_id)

    def emit(self, event: object, *, name: str | None = None) -> None:
        """Change the state that the members of the group share.

        The event is checked and encoded now, and applied by ``@service.on`` everywhere once the call has
        succeeded; if the handler fails, it is dropped. `name` is needed only if several types of event have
        values of one class (every TypedDict is a ``dict``)::

            @orders.method
            async def fill(symbol: str, quantity: int, ctx: Context) -> None:
                ctx.emit(Filled(symbol=symbol, quantity=quantity))

        Raises:
            EmitRefused: the shared state cannot take it, or the handler has ended.
            EmitLimitExceeded: over 256 events or 256 KiB in one call.
        """
        self.sink(event, name)

    def remaining_s(self) -> float:
        """Seconds until the caller's deadline, on the server's clock; negative once it has passed."""
        return (self.deadline_ns - self.clock()) / 1e9
