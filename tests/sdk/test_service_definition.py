"""Services that could not work are refused where they are written, with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NewType, cast

import pytest
from pydantic import BaseModel, Field

from aegisipc.sdk.errors import InvalidName, ServiceDefinitionError
from aegisipc.sdk.instance import Instance, InstanceOptions
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.service import Service


class Filled(BaseModel):
    symbol: str


@dataclass
class Cancelled:
    symbol: str


class Opaque:
    """Pydantic does not know it."""


type Trade = Filled | Cancelled
Note = NewType("Note", str)


@pytest.fixture
def desk() -> Service:
    service = Service("desk")

    @service.method
    async def fill() -> None: ...

    return service


def ignore(event: Any) -> None: ...


def taken() -> dict[str, int]:
    return {}


def restored(state: dict[str, int] | None) -> None: ...


# -- events --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tp", "name", "expected", "classes"),
    [
        (Filled, None, "Filled", (Filled,)),
        (Cancelled, "order-cancelled", "order-cancelled", (Cancelled,)),
        (Trade, None, "Trade", (Filled, Cancelled)),
        (Note, None, "Note", (str,)),
        (list[int], "numbers", "numbers", (list,)),
        (Annotated[Filled, Field()], "filled", "filled", (Filled,)),
    ],
)
def test_any_type_whose_values_can_be_told_is_an_event(
    desk: Service, tp: Any, name: str | None, expected: str, classes: tuple[type, ...]
) -> None:
    assert desk.on(tp, name=name)(ignore) is ignore
    (event,) = desk.state.events.values()
    assert (event.name, event.classes, event.apply) == (expected, classes, ignore)


@pytest.mark.parametrize("tp", [Any, object, Mapping[str, int], Filled | Any, None, "Filled"])
def test_a_type_whose_values_cannot_be_told_is_no_event(desk: Service, tp: Any) -> None:
    with pytest.raises(ServiceDefinitionError, match="nobody could tell which values are of that type"):
        desk.on(tp, name="anything")(ignore)


def test_a_type_that_pydantic_does_not_know_is_no_event(desk: Service) -> None:
    with pytest.raises(ServiceDefinitionError, match=r"cannot use .*Opaque.* for @desk\.on"):
        desk.on(Opaque)(ignore)


def test_a_type_without_a_name_needs_one(desk: Service) -> None:
    with pytest.raises(ServiceDefinitionError, match="give them a name="):
        desk.on(dict[str, int])(ignore)


def test_a_name_that_cannot_be_one_is_refused(desk: Service) -> None:
    with pytest.raises(InvalidName, match="state event"):
        desk.on(Filled, name="no such name")(ignore)


def test_two_events_of_one_name_or_one_type_are_refused(desk: Service) -> None:
    desk.on(Filled)(ignore)
    with pytest.raises(
        ServiceDefinitionError, match=r"twice for 'Filled': ignore\(\) applies it already; give"
    ):
        desk.on(Cancelled, name="Filled")(ignore)
    with pytest.raises(ServiceDefinitionError, match=r"twice for 'Filled': ignore\(\) applies it already$"):
        desk.on(Filled, name="Other")(ignore)


async def asynchronous(*_: Any) -> None: ...


def generator(*_: Any) -> Any:
    yield


async def asynchronous_generator(*_: Any) -> Any:
    yield


class Callable:
    async def __call__(self, *_: Any) -> None: ...


@pytest.mark.parametrize("wrong", [asynchronous, generator, asynchronous_generator, Callable()])
@pytest.mark.parametrize("kind", ["on", "snapshot", "restore"])
def test_what_touches_the_state_must_do_its_work_at_once(desk: Service, kind: str, wrong: Any) -> None:
    decorate: Any = desk.on(Filled) if kind == "on" else getattr(desk, kind)
    with pytest.raises(ServiceDefinitionError, match="without async or yield"):
        decorate(wrong)


@pytest.mark.parametrize(
    ("kind", "wrong", "shape"),
    [
        ("on", lambda: None, "def applied"),
        ("on", lambda event, ctx: None, "def applied"),
        ("snapshot", lambda state: None, "def taken"),
        ("restore", lambda: None, "def restored"),
        ("restore", lambda *, state: None, "def restored"),
    ],
)
def test_functions_with_other_parameters_are_refused_with_the_shape_they_need(
    desk: Service, kind: str, wrong: Any, shape: str
) -> None:
    decorate: Any = desk.on(Filled) if kind == "on" else getattr(desk, kind)
    with pytest.raises(ServiceDefinitionError, match=f"write it as `{shape}"):
        decorate(wrong)


# -- snapshots -----------------------------------------------------------------------------------------


def test_a_snapshot_needs_a_return_annotation(desk: Service) -> None:
    with pytest.raises(ServiceDefinitionError, match="no return annotation"):
        desk.snapshot(lambda: None)


def test_annotations_that_cannot_be_read_are_refused(desk: Service) -> None:
    def unreadable() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return None

    with pytest.raises(ServiceDefinitionError, match="its annotations cannot be read: name 'Nowhere'"):
        desk.snapshot(unreadable)


def test_two_of_a_kind_are_refused(desk: Service) -> None:
    desk.snapshot(taken)
    desk.restore(restored)
    with pytest.raises(ServiceDefinitionError, match=r"@desk\.snapshot twice: taken\(\)"):
        desk.snapshot(taken)
    with pytest.raises(ServiceDefinitionError, match=r"@desk\.restore twice: restored\(\)"):
        desk.restore(restored)


# -- all of it -----------------------------------------------------------------------------------------


def declare(service: Service, *kinds: str) -> Service:
    if "on" in kinds:
        service.on(Filled)(ignore)
    if "snapshot" in kinds:
        service.snapshot(taken)
    if "restore" in kinds:
        service.restore(restored)
    return service


@pytest.mark.parametrize("kinds", [(), ("on", "snapshot", "restore")])
def test_all_three_or_none_of_them_can_be_run(desk: Service, kinds: tuple[str, ...]) -> None:
    declare(desk, *kinds).check()


@pytest.mark.parametrize(
    ("kinds", "missing"),
    [
        (("on",), r"no @desk\.snapshot and no @desk\.restore"),
        (("snapshot",), r"no @desk\.on\(…\) and no @desk\.restore"),
        (("restore",), r"no @desk\.on\(…\) and no @desk\.snapshot"),
        (("on", "snapshot"), r"but no @desk\.restore;"),
        (("on", "restore"), r"but no @desk\.snapshot;"),
        (("snapshot", "restore"), r"but no @desk\.on\(…\);"),
    ],
)
def test_a_service_with_only_some_of_them_is_refused_when_an_instance_is_made(
    desk: Service, kinds: tuple[str, ...], missing: str
) -> None:
    declare(desk, *kinds)
    with pytest.raises(ServiceDefinitionError, match=missing):
        desk.check()
    with pytest.raises(ServiceDefinitionError, match=missing):
        Instance(desk, InstanceOptions(resources=("acc_1",)))


def test_a_service_without_methods_is_refused_when_an_instance_is_made() -> None:
    with pytest.raises(ServiceDefinitionError, match="it has no methods"):
        Instance(Service("empty"), InstanceOptions())


def takes_no_none(state: dict[str, int]) -> None: ...


def takes_another(state: list[int] | None) -> None: ...


@pytest.mark.parametrize("wrong", [takes_no_none, takes_another])
def test_a_restore_that_does_not_take_the_snapshot_or_none_is_refused(desk: Service, wrong: Any) -> None:
    declare(desk, "on", "snapshot").restore(wrong)
    with pytest.raises(
        ServiceDefinitionError, match=f"{wrong.__name__}.. takes .*it must take that type or None"
    ):
        desk.check()


def test_a_restore_without_annotation_is_taken_at_its_word(desk: Service) -> None:
    declare(desk, "on", "snapshot").restore(lambda state: None)
    desk.check()


# -- versions, retries, backlog -------------------------------------------------------------------------


def test_versions_of_a_method_are_methods_of_their_own() -> None:
    service = Service("s")

    @service.method(effect="pure")
    async def place(quantity: int) -> int:
        return quantity

    @service.method(effect="pure", name="place", version=2)
    async def place_again(quantity: int, note: str) -> int:
        return quantity

    assert sorted(service.contract) == ["place", "place@2"]
    assert (service.methods["place@2"].name, service.methods["place@2"].version) == ("place@2", 2)
    assert service.contract["place@2"].signature.startswith("place@2(quantity: int, note: str)")
    with pytest.raises(ServiceDefinitionError, match=r"cannot offer s\.place@2 twice: .* or version"):
        service.method(name="place", version=2)(place_again)


@pytest.mark.parametrize("version", [0, 10_000, "2", True, None])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    with pytest.raises(InvalidName, match="as the version of a method"):
        Service("s").method(version=version)(lambda: None)


def test_a_method_keeps_its_retry_and_takes_nothing_else_for_one() -> None:
    service, retry = Service("s"), Retry(attempts=2)

    @service.method(effect="idempotent", retry=retry)
    async def place() -> None: ...

    assert service.methods["place"].retry is retry
    with pytest.raises(ServiceDefinitionError, match="give a Retry"):
        service.method(name="other", retry=cast("Any", 3))(place)


@pytest.mark.parametrize("backlog", [0, -1, 10_000_001, 1.5, "9", True, None])
def test_a_backlog_is_a_number_of_calls(backlog: Any) -> None:
    with pytest.raises(ServiceDefinitionError, match="max_backlog"):
        Service("s", max_backlog=backlog)
    assert Service("s", max_backlog=10_000_000).max_backlog == 10_000_000


@pytest.mark.parametrize("option", ["idempotency_key", "priority"])
def test_parameters_with_names_of_call_options_are_refused(option: str) -> None:
    service = Service("s")
    scope: dict[str, Any] = {}
    exec(f"async def place({option}: str) -> None: ...", scope)
    with pytest.raises(ServiceDefinitionError, match="option of every call"):
        service.method(scope["place"])
