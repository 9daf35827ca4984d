"""Typed stubs: a service's methods as awaitable methods of a local object."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from aegisipc.eventstore.names import check_method, check_name, wire_method
from aegisipc.sdk.context import Context
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.fitting import Api, Expected, Fit
from aegisipc.sdk.outcomes import codec_of
from aegisipc.sdk.service import CALL_OPTIONS

if TYPE_CHECKING:
    from aegisipc.sdk.client import Client

_REMOTE: Final = "__aegis_remote__"


class Stub:
    """Calls a service's methods: ``await stub.place(order)``."""

    def __init__(self, client: Client, api: Api, options: dict[str, Any]) -> None:
        self._client = client
        self._api = api
        self._options = options
        self._fit = Fit(client, api) if api.methods is not None else None

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        methods, fit = self._api.methods, self._fit
        if methods is not None and method not in methods:
            raise AttributeError(f"the protocol of service {self._api.service!r} has no method {method!r}")
        expected = methods[method] if methods is not None else None
        name = check_method(method if expected is None else expected.name)
        client, target, options = self._client, f"{self._api.service}.{name}", self._options
        returns = None if expected is None else expected.returns

        async def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                refuse_call_options(target, kwargs)
            if fit is not None and expected is not None and not fit.is_known(expected):
                await fit.check(expected, options.get("resource_id"), options.get("timeout"))
            return await client.call(target, *args, returns=returns, **options, **kwargs)

        call.__name__ = call.__qualname__ = method
        self.__dict__[method] = call  # found here directly the next time
        return call

    def __repr__(self) -> str:
        return f"<stub of {self._api.service!r}>"


def stub_of(
    client: Client, api: Any, *, name: str | None, may_be_plain: bool = False, **options: Any
) -> Stub:
    """Make a stub from a Protocol class or a service's name; see ``Client.service``. `options` go with each
    call.
    """
    return Stub(client, read_api(api, name, may_be_plain=may_be_plain), options)


def read_api(api: Any, name: str | None, *, may_be_plain: bool = False) -> Api:
    """Return the service that `api` (a Protocol class, or a name) means, and its methods, if they are known.

    With `may_be_plain`, a protocol's methods may also be declared without ``async``.

    Raises:
        ServiceDefinitionError: the protocol cannot be used.
    """
    if isinstance(api, str):
        return Api(check_name(name or api, "service"), api, None)
    if not _is_protocol(api):
        raise ServiceDefinitionError(
            f"cannot make a stub of {api!r}: give a Protocol class or the service's name"
        )
    service = name or getattr(api, "service_name", None) or _snake(api.__name__)
    methods = _methods_of(api, may_be_plain=may_be_plain)
    return Api(check_name(service, "service"), api.__name__, methods)


def remote[F: Callable[..., Any]](name: str | None = None, /, *, version: int = 1) -> Callable[[F], F]:
    """Say which method of the service a method of a Protocol is, if that is not its own name::

        class OrdersApi(Protocol):
            async def place(self, order: Order) -> Fill: ...

            @remote("place", version=2)
            async def place_in_parts(self, order: Order, parts: int) -> list[Fill]: ...

    Raises:
        InvalidName: no method can have that name, or the version is none.
    """
    wire_method(name or "m", version)

    def mark(function: F) -> F:
        setattr(function, _REMOTE, wire_method(name or function.__name__, version))
        return function

    return mark


def refuse_call_options(target: str, names: Iterable[str]) -> None:
    """Refuse arguments of a stub's method that have the name of an option of every call.

    Raises:
        ServiceDefinitionError: one has.
    """
    for name in names:
        if name in CALL_OPTIONS:
            raise ServiceDefinitionError(
                f"cannot give {name!r} to {target} of a stub: it is an option of every call; rename the "
                f"parameter if the method has one, else give {name!r} where the stub is made or use call()",
                parameter=name,
            )


def _is_protocol(api: Any) -> bool:
    # What typing.is_protocol (Python 3.13) looks at.
    return isinstance(api, type) and api is not typing.Protocol and bool(getattr(api, "_is_protocol", False))


def _members_of(api: type) -> Iterable[str]:
    # What typing.get_protocol_members (Python 3.13) returns.
    members: Iterable[str] = api.__protocol_attrs__  # type: ignore[attr-defined]
    return members


def _methods_of(api: type, *, may_be_plain: bool) -> dict[str, Expected]:
    methods = {}
    for method in sorted(_members_of(api)):
        function = getattr(api, method, None)
        if not inspect.isfunction(function):
            continue
        if not may_be_plain and not inspect.iscoroutinefunction(function):
            raise ServiceDefinitionError(
                f"cannot make a stub of {api.__name__}: {method}() is not async; a remote call is awaited, "
                "so declare it 'async def'"
            )
        hints = typing.get_type_hints(function, include_extras=True)
        if Context in hints.values():
            raise ServiceDefinitionError(
                f"cannot make a stub of {api.__name__}: {method}() takes a Context, which callers do not give"
            )
        signature = inspect.signature(function)
        refuse_call_options(f"{api.__name__}.{method}", signature.parameters)
        returns = hints.get("return")
        codec_of(returns)
        methods[method] = Expected(getattr(function, _REMOTE, method), returns, signature, hints)
    return methods


def _snake(name: str) -> str:
    base = name.removesuffix("Api").removesuffix("API") or name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", base).lower()
