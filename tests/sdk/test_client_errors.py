"""What callers are told: errors that handlers made, and definitions that cannot work."""

from __future__ import annotations

import json
import pickle
from typing import Any, Protocol, cast

import pytest

from aegisipc.eventstore.calls import Outcome
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk import Service
from aegisipc.sdk.client import Client
from aegisipc.sdk.errors import InvalidArguments, InvalidName, RemoteError, ServiceDefinitionError
from aegisipc.sdk.outcomes import codec_of, value_of
from aegisipc.sdk.stubs import read_api, remote, stub_of

HOSTILE = {
    "message": "m",
    "code": 7,
    "call_id": "c",
    "self": 1,
    "details": [],
    "cls": 2,
    "is_remote": False,
    "args": 3,
    "limit": 9,
}


def failed(code: str, details: dict[str, Any]) -> Outcome:
    body = encode({"code": code, "message": "no", "details": details})
    return Outcome(b"\x01" * 16, Mark.FAILED, body)


def stub(api: Any) -> Any:
    return stub_of(cast("Client", None), api, name="orders", resource_id=None, timeout=None)


@pytest.mark.parametrize("key", sorted(HOSTILE))
def test_details_of_a_handler_may_have_any_key(key: str) -> None:
    with pytest.raises(RemoteError) as caught:
        value_of(failed("refused", {key: HOSTILE[key]}), "orders.place", None)
    assert caught.value.details == {key: HOSTILE[key]}
    assert (caught.value.message, caught.value.code) == ("no", "refused")


def test_a_remote_error_keeps_everything_when_pickled() -> None:
    error = RemoteError("no", code="refused", call_id="id", details=HOSTILE)
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.code, again.call_id, again.details) == ("no", "refused", "id", HOSTILE)
    assert again.limit == 9
    assert again.is_remote
    assert again.to_plain() == error.to_plain()


def test_details_are_read_as_attributes_but_never_take_the_place_of_the_errors_own() -> None:
    error = RemoteError("no", code="refused", call_id="id", details=HOSTILE)
    assert (error.limit, error.cls) == (9, 2)
    assert (error.message, error.code, error.call_id, error.args) == ("no", "refused", "id", ("no",))
    with pytest.raises(AttributeError):
        _ = error.nothing_like_it


def test_only_a_list_of_errors_says_that_this_callers_arguments_do_not_fit() -> None:
    fault = {"field": "qty", "message": "missing", "type": "missing"}
    with pytest.raises(InvalidArguments) as caught:
        value_of(failed("invalid_arguments", {"errors": [fault]}), "orders.place", None)
    assert caught.value.errors == [fault]
    for details in ({}, {"errors": "qty"}):
        with pytest.raises(RemoteError) as other:
            value_of(failed("invalid_arguments", details), "orders.place", None)
        assert (other.value.code, other.value.details) == ("invalid_arguments", details)


async def takes_timeout(timeout: float) -> None: ...
async def takes_returns(qty: int, returns: int = 0) -> None: ...
async def takes_resource(*, resource_id: str) -> None: ...


@pytest.mark.parametrize("function", [takes_timeout, takes_returns, takes_resource])
def test_a_method_whose_parameter_has_the_name_of_a_calls_option_is_refused(function: Any) -> None:
    service = Service("orders")
    with pytest.raises(ServiceDefinitionError, match=r"has the name of an option of every call.*rename it"):
        service.method(function)
    assert not service.methods


class TimeoutApi(Protocol):
    async def wait(self, timeout: float) -> float: ...


class UnreadableApi(Protocol):
    async def make(self) -> UnreadableResult: ...


class UnreadableResult:
    pass


def test_a_protocol_whose_parameter_has_the_name_of_a_calls_option_is_refused() -> None:
    with pytest.raises(ServiceDefinitionError, match=r"cannot give 'timeout' to TimeoutApi\.wait"):
        stub(TimeoutApi)


def test_a_protocol_whose_result_cannot_be_read_is_refused() -> None:
    with pytest.raises(ServiceDefinitionError, match="cannot read results as returns="):
        stub(UnreadableApi)


@pytest.mark.parametrize("option", ["timeout", "returns", "resource_id"])
async def test_an_option_given_to_a_stubs_method_is_refused_by_name(option: str) -> None:
    with pytest.raises(ServiceDefinitionError, match=f"cannot give '{option}' to orders.place"):
        await stub("orders").place(1, **{option: 1})


@pytest.mark.parametrize("returns", [object(), lambda: 1, 5, UnreadableResult, "NoSuchName"], ids=repr)
def test_what_is_no_type_cannot_be_expected_of_a_result(returns: Any) -> None:
    with pytest.raises(ServiceDefinitionError, match="cannot read results as returns="):
        codec_of(returns)


# -- which method a stub means --------------------------------------------------------------------------


def test_a_stub_names_versions() -> None:
    class Api(Protocol):
        @remote(version=3)
        async def place(self) -> int: ...

        @remote("place", version=2)
        async def former(self) -> int: ...

        @remote("get")
        async def position(self) -> int: ...

    api = read_api(Api, "orders")
    assert api.methods is not None
    assert {name: method.name for name, method in api.methods.items()} == {
        "place": "place@3",
        "former": "place@2",
        "position": "get",
    }


def test_a_stub_names_no_version_that_cannot_be() -> None:
    with pytest.raises(InvalidName):
        remote("place", version=0)
    with pytest.raises(InvalidName, match="give the version apart"):
        remote("place@2")
    with pytest.raises(InvalidName):
        remote("_place")


def test_what_a_stub_does_not_say_is_anything() -> None:
    class Api(Protocol):
        async def place(self, order, *, note: str = ...): ...  # type: ignore[no-untyped-def]

        async def many(self, *orders: int) -> int: ...

    methods = read_api(Api, "orders").methods
    assert methods is not None
    document = json.loads(methods["place"].schemas or "")
    assert document["arguments"]["properties"] == {"order": {}, "note": {"type": "string"}}
    assert document["arguments"]["required"] == ["order"]
    assert document["returns"] == {}
    assert (methods["many"].schemas, methods["many"].fingerprint) == (None, "")
