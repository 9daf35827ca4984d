"""Typed stubs: a service's methods as awaitable methods of a local object."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from aegisipc.eventstore.names import check_method, check_name
from aegisipc.sdk.context import Context
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.outcomes import codec_of
from aegisipc.sdk.service import CALL_OPTIONS

if TYPE_CHECKING:
    from aegisipc.sdk.client import Client


class Stub:
    """Calls a service's methods: ``await stub.place(order)``."""

    def __init__(
        self, client: Client, service: str, returns: dict[str, Any] | None, options: dict[str, Any]
    ) -> None:
        self._client = client
        self._service = service
        self._returns = returns
        self._options = options

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        if self._returns is not None and method not in self._returns:
            raise AttributeError(f"the protocol of service {self._service!r} has no method {method!r}")
        check_method(method)
        client, target, options = self._client, f"{self._service}.{method}", self._options
        returns = self._returns[method] if self._returns is not None else None

        async def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                refuse_call_options(target, kwargs)
            return await client.call(target, *args, returns=returns, **options, **kwargs)

        call.__name__ = call.__qualname__ = method
        self.__dict__[method] = call  # found here directly the next time
        return call

    def __repr__(self) -> str:
        return f"<stub of {self._service!r}>"


def stub_of(
    client: Client, api: Any, *, name: str | None, resource_id: str | None, timeout: float | None
) -> Any:
    """Make a stub from a Protocol class or a service's name; see ``Client.service``."""
    service, returns = read_api(api, name)
    return Stub(client, service, returns, {"resource_id": resource_id, "timeout": timeout})


def read_api(api: Any, name: str | None, *, may_be_plain: bool = False) -> tuple[str, dict[str, Any] | None]:
    """Return the service that `api` (a Protocol class, or a name) means, and the results' types by method
    (``None``: not known).

    With `may_be_plain`, a protocol's methods may also be declared without ``async``.

    Raises:
        ServiceDefinitionError: the protocol cannot be used.
    """
    if isinstance(api, str):
        return check_name(name or api, "service"), None
    if not _is_protocol(api):
        raise ServiceDefinitionError(
            f"cannot make a stub of {api!r}: give a Protocol class or the service's name"
        )
    service = name or getattr(api, "service_name", None) or _snake(api.__name__)
    return check_name(service, "service"), _returns_of(api, may_be_plain=may_be_plain)


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


def _returns_of(api: type, *, may_be_plain: bool) -> dict[str, Any]:
    returns = {}
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
        refuse_call_options(f"{api.__name__}.{method}", inspect.signature(function).parameters)
        returns[method] = hints.get("return")
        codec_of(returns[method])
    return returns


def _snake(name: str) -> str:
    base = name.removesuffix("Api").removesuffix("API") or name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", base).lower()
