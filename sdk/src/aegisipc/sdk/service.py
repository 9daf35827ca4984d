"""A service: a name and its methods. Running it is the business of :mod:`aegisipc.sdk.instance`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, overload

from aegisipc.eventstore.contracts import pack
from aegisipc.eventstore.errors import LimitExceeded
from aegisipc.eventstore.events import DEFAULT_MAX_BACKLOG, Contract, Effect, ServiceContract
from aegisipc.eventstore.names import check_name
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.health import HealthCheck
from aegisipc.sdk.hooks import Hook, check_hook, check_seconds, name_of
from aegisipc.sdk.method import Method
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.state_definition import StateDefinition

CALL_OPTIONS: Final = frozenset({"idempotency_key", "priority", "resource_id", "returns", "timeout"})
"""Keyword arguments that every call has of its own: a method's parameter of that name could not be given."""

_MOST_BACKLOG: Final = 10_000_000
_MAX_HANGING_QUESTIONS: Final = 8
_RECONCILE_SHAPE: Final = "async def find_out(doubt: Doubt) -> Executed | NotExecuted | None"


class Service:
    """A service and its methods.

    ::

        orders = Service("orders")

        @orders.method(effect="idempotent")
        async def position(account: str) -> Position: ...

        if __name__ == "__main__":
            orders.run(resources=["acc_1"])

    ``max_running`` bounds how many calls one instance runs at once, ``threads`` how many of them may be plain
    functions, which run in threads. ``max_backlog`` bounds how many calls of one group may be open before
    clients are told to hold back.
    """

    def __init__(
        self,
        name: str,
        *,
        max_running: int = 256,
        threads: int = 16,
        max_backlog: int = DEFAULT_MAX_BACKLOG,
    ) -> None:
        self.name = check_name(name, "service")
        if max_running < 1 or threads < 1:
            raise ServiceDefinitionError(
                f"cannot run service {name!r} with no calls at once: max_running and threads are at least 1"
            )
        if type(max_backlog) is not int or not 1 <= max_backlog <= _MOST_BACKLOG:
            raise ServiceDefinitionError(
                f"cannot run service {name!r} with max_backlog={max_backlog!r}: it is a whole number from 1 "
                f"to {_MOST_BACKLOG}"
            )
        self.max_running = max_running
        self.max_backlog = max_backlog
        self.threads = threads
        self.methods: dict[str, Method] = {}
        self.state = StateDefinition(name)
        self.health_check: HealthCheck | None = None
        self.reconciler: Hook | None = None

    @overload
    def method[F: Callable[..., Any]](self, function: F, /) -> F: ...
    @overload
    def method[F: Callable[..., Any]](
        self,
        function: None = None,
        /,
        *,
        effect: str = "once",
        name: str | None = None,
        version: int = 1,
        retry: Retry | None = None,
    ) -> Callable[[F], F]: ...
    def method[F: Callable[..., Any]](
        self,
        function: F | None = None,
        /,
        *,
        effect: str = "once",
        name: str | None = None,
        version: int = 1,
        retry: Retry | None = None,
    ) -> F | Callable[[F], F]:
        """Offer a function as a method.

        ``effect`` says what running it twice would do: ``"once"`` (the default: it never starts twice),
        ``"idempotent"`` or ``"pure"``. The function may be ``async`` or plain; arguments and result are
        annotated with types Pydantic knows.

        ``version`` lets a service offer several shapes of a method side by side: version 2 of ``place`` is
        called as ``orders.place@2``. ``retry`` says how often it is run again if it raises, see
        :class:`~aegisipc.sdk.retry.Retry`.

        Raises:
            ServiceDefinitionError: the signature cannot be offered, or the name is taken.
            InvalidName: the function's name cannot be a method's, or the version is none.
        """
        try:
            known = Effect(effect)
        except ValueError:
            raise ServiceDefinitionError(
                f"cannot declare effect={effect!r}: it is 'once', 'idempotent' or 'pure'", effect=effect
            ) from None

        def register(target: F) -> F:
            method = Method(target, name=name, effect=known, version=version, retry=retry)
            _refuse_call_options(self.name, method)
            if method.name in self.methods:
                raise ServiceDefinitionError(
                    f"cannot offer {self.name}.{method.name} twice: give one of them another name or version"
                )
            self.methods[method.name] = method
            return target

        return register if function is None else register(function)

    def on[F: Callable[..., Any]](self, event_type: Any, *, name: str | None = None) -> Callable[[F], F]:
        """Apply events of a type to the state that the members of a group share.

        The function gets each event that a handler emitted with ``ctx.emit``, once its call has succeeded:
        on the active instance and on every standby, in log order. It must depend on nothing but the state and
        the event, and do its work at once. The type is whatever Pydantic can validate. ``name`` (default: the
        class's) is what the log calls it: keep it when you rename the class::

            @positions.on(Filled)
            def filled(event: Filled) -> None:
                book[event.symbol] = book.get(event.symbol, 0) + event.quantity

        Raises:
            ServiceDefinitionError: the type or the function cannot be used, or the name is taken.
            InvalidName: the name cannot be an event's.
        """

        def register(target: F) -> F:
            self.state.add_event(event_type, target, name)
            return target

        return register

    def snapshot[F: Callable[..., Any]](self, function: F, /) -> F:
        """Give the whole shared state as one value, so that whoever joins need not read the log from its
        start. The return annotation says as what it is saved and read back::

            @positions.snapshot
            def taken() -> dict[str, int]:
                return book

        Raises:
            ServiceDefinitionError: the function cannot be used, or there is one already.
        """
        self.state.set_snapshot(function)
        return function

    def restore[F: Callable[..., Any]](self, function: F, /) -> F:
        """Replace the whole shared state by one that :meth:`snapshot` gave; ``None``: start from nothing.

        ::

            @positions.restore
            def restored(state: dict[str, int] | None) -> None:
                book.clear()
                book.update(state or {})

        Raises:
            ServiceDefinitionError: the function cannot be used, or there is one already.
        """
        self.state.set_restore(function)
        return function

    @overload
    def health[F: Callable[..., Any]](self, function: F, /) -> F: ...
    @overload
    def health[F: Callable[..., Any]](
        self, function: None = None, /, *, every_s: float = 1.0, timeout_s: float = 1.0
    ) -> Callable[[F], F]: ...
    def health[F: Callable[..., Any]](
        self, function: F | None = None, /, *, every_s: float = 1.0, timeout_s: float = 1.0
    ) -> F | Callable[[F], F]:
        """Let a function, ``async`` or plain, say whether the service can do its work: it returns ``None`` or
        ``True`` if so, and ``False`` or a text (the reason) if not. One that raises, or takes longer than
        ``timeout_s``, counts as not. See :class:`~aegisipc.sdk.health.HealthCheck`::

            @orders.health(every_s=1.0, timeout_s=1.0)
            async def venue() -> str | None:
                return None if session.is_logged_on else "the venue has logged us off"

        Raises:
            ServiceDefinitionError: the function or the times cannot be used, or there is one already.
        """

        def register(target: F) -> F:
            if self.health_check is not None:
                self._refuse_second("health", self.health_check.function)
            self.health_check = HealthCheck(target, every_s=every_s, timeout_s=timeout_s)
            return target

        return register if function is None else register(function)

    @overload
    def reconcile[F: Callable[..., Any]](self, function: F, /) -> F: ...
    @overload
    def reconcile[F: Callable[..., Any]](
        self, function: None = None, /, *, timeout_s: float = 10.0
    ) -> Callable[[F], F]: ...
    def reconcile[F: Callable[..., Any]](
        self, function: F | None = None, /, *, timeout_s: float = 10.0
    ) -> F | Callable[[F], F]:
        """Let a function, ``async`` or plain, find out whether a call in doubt ran: it gets a ``Doubt`` and
        returns ``Executed(result)``, ``NotExecuted()``, or ``None`` if it cannot tell; then it is asked again
        later. One that raises, or takes longer than ``timeout_s``, could not tell::

            @orders.reconcile
            async def ask_the_venue(doubt: Doubt) -> Executed | NotExecuted | None:
                order = await venue.find(client_order_id=doubt.call_id)
                return NotExecuted("no such order") if order is None else Executed(Fill(order.price))

        Raises:
            ServiceDefinitionError: the function or the time cannot be used, or there is one already.
        """

        def register(target: F) -> F:
            if self.reconciler is not None:
                self._refuse_second("reconcile", self.reconciler.function)
            check_seconds(f"@{self.name}.reconcile", timeout_s=timeout_s)
            check_hook(target, f"@{self.name}.reconcile", takes=1, shape=_RECONCILE_SHAPE)
            self.reconciler = Hook(target, timeout_s=timeout_s, max_hanging=_MAX_HANGING_QUESTIONS)
            return target

        return register if function is None else register(function)

    def _refuse_second(self, kind: str, first: Callable[..., Any]) -> NoReturn:
        raise ServiceDefinitionError(
            f"cannot use @{self.name}.{kind} twice: {name_of(first)}() is it already, and there is one"
        )

    def check(self) -> None:
        """Check what can only be checked once all is declared; done when an instance is made.

        Raises:
            ServiceDefinitionError: it has no methods, or so many that no record can hold their schemas, or
                not all that a shared state needs.
        """
        if not self.methods:
            raise ServiceDefinitionError(
                f"cannot run service {self.name!r}: it has no methods; add some with @service.method"
            )
        self.state.check()
        _ = self.schemas

    @property
    def contract(self) -> Contract:
        """What the service promises, as it is registered."""
        return {name: method.offer for name, method in self.methods.items()}

    @property
    def schemas(self) -> ServiceContract:
        """What its methods take and return, as it is written into the log.

        Raises:
            ServiceDefinitionError: it is too large for a record.
        """
        try:
            return pack({name: method.schemas for name, method in self.methods.items()})
        except LimitExceeded as error:
            raise ServiceDefinitionError(
                f"cannot run service {self.name!r}: {error.message}", **error.details
            ) from error

    async def serve(self, **options: Any) -> None:
        """Run an instance until it is cancelled or told to stop; see
        :class:`~aegisipc.sdk.instance.InstanceOptions`.
        """
        from aegisipc.sdk.instance import InstanceOptions, serve  # noqa: PLC0415 - defining a service needs no network

        await serve(self, InstanceOptions(**options))

    def run(self, *, resources: Sequence[str] = (), **options: Any) -> None:
        """Run an instance in this process until SIGTERM or SIGINT, then drain it and return."""
        from aegisipc.sdk.instance import InstanceOptions, run  # noqa: PLC0415 - as above

        run(self, InstanceOptions(resources=tuple(resources), **options))


def _refuse_call_options(service: str, method: Method) -> None:
    for parameter in method.parameters:
        if parameter.name in CALL_OPTIONS:
            raise ServiceDefinitionError(
                f"cannot offer {service}.{method.name}: its parameter {parameter.name!r} has the name of an "
                "option of every call, so callers could not give it; rename it",
                parameter=parameter.name,
            )
