"""A service: a name and its methods. Running it is the business of :mod:`aegisipc.sdk.instance`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, overload

from aegisipc.eventstore.events import Contract, Effect
from aegisipc.eventstore.names import check_name
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.method import Method

CALL_OPTIONS: Final = frozenset({"resource_id", "returns", "timeout"})
"""Keyword arguments that every call has of its own: a method's parameter of that name could not be given."""


class Service:
    """A service and its methods.

    ::

        orders = Service("orders")

        @orders.method(effect="idempotent")
        async def position(account: str) -> Position: ...

        if __name__ == "__main__":
            orders.run(resources=["acc_1"])

    ``max_running`` bounds how many calls one instance runs at once, ``threads`` how many of them may be plain
    functions, which run in threads.
    """

    def __init__(self, name: str, *, max_running: int = 256, threads: int = 16) -> None:
        self.name = check_name(name, "service")
        if max_running < 1 or threads < 1:
            raise ServiceDefinitionError(
                f"cannot run service {name!r} with no calls at once: max_running and threads are at least 1"
            )
        self.max_running = max_running
        self.threads = threads
        self.methods: dict[str, Method] = {}

    @overload
    def method[F: Callable[..., Any]](self, function: F, /) -> F: ...
    @overload
    def method[F: Callable[..., Any]](
        self, function: None = None, /, *, effect: str = "once", name: str | None = None
    ) -> Callable[[F], F]: ...
    def method[F: Callable[..., Any]](
        self, function: F | None = None, /, *, effect: str = "once", name: str | None = None
    ) -> F | Callable[[F], F]:
        """Offer a function as a method.

        ``effect`` says what running it twice would do: ``"once"`` (the default: it never starts twice),
        ``"idempotent"`` or ``"pure"``. The function may be ``async`` or plain; arguments and result are
        annotated with types Pydantic knows.

        Raises:
            ServiceDefinitionError: the signature cannot be offered, or the name is taken.
            InvalidName: the function's name cannot be a method's.
        """
        try:
            known = Effect(effect)
        except ValueError:
            raise ServiceDefinitionError(
                f"cannot declare effect={effect!r}: it is 'once', 'idempotent' or 'pure'", effect=effect
            ) from None

        def register(target: F) -> F:
            method = Method(target, name=name, effect=known)
            _refuse_call_options(self.name, method)
            if method.name in self.methods:
                raise ServiceDefinitionError(
                    f"cannot offer {self.name}.{method.name} twice: give one of them another name"
                )
            self.methods[method.name] = method
            return target

        return register if function is None else register(function)

    @property
    def contract(self) -> Contract:
        """What the service promises, as it is registered."""
        return {name: method.contract for name, method in self.methods.items()}

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
