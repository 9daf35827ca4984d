"""What happened, as facts in the log: typed events under versioned type strings, in one registry.

An event is stored as the MessagePack array ``[type, data]``, ``type`` being for example
``"group.promoted.v1"`` and ``data`` a map. Types are never class paths: code may move, the log stays. A new
version of an event gets a new type string, and an *upcaster* turns the older ``data`` into the newer shape
when it is read; each version has a frozen fixture in the tests.

Who it is about (service, group, writer) is in the subject of the record and not repeated here. Frames of
calls and outcomes have a leaner form of their own: :mod:`aegisipc.eventstore.frames`.
"""

# ruff: noqa: PLC0414 - what the bodies of marks hold belongs to the vocabulary of events

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal

import msgpack  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from aegisipc.eventstore.bodies import MAX_AUTHOR as MAX_AUTHOR
from aegisipc.eventstore.bodies import MAX_REASON as MAX_REASON
from aegisipc.eventstore.bodies import ErrorInfo as ErrorInfo
from aegisipc.eventstore.bodies import Requeued as Requeued
from aegisipc.eventstore.bodies import RequeuedCall as RequeuedCall
from aegisipc.eventstore.bodies import Resolution as Resolution
from aegisipc.eventstore.bodies import RetryScheduled as RetryScheduled
from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload, NotEncodable
from aegisipc.eventstore.nesting import is_deep

MAX_EVENT_BYTES = 512 * 1024
MAX_EVENT_DEPTH = 128
"""Containers within each other, in the data of an event."""
MAX_CANCELLED = 1000
"""Calls that one request to cancel may name."""
DEFAULT_MAX_BACKLOG = 100_000


class Effect(StrEnum):
    """What running a method twice would do."""

    ONCE = "once"
    """Must not start twice: claimed in the log before it starts; in doubt if nobody can know whether it ran.
    """
    IDEMPOTENT = "idempotent"
    """May run again with the same result."""
    PURE = "pure"
    """Has no effect at all."""


class MethodContract(BaseModel):
    """What a service promises of one method. ``arguments`` and ``returns`` are fingerprints of schemas."""

    model_config = ConfigDict(frozen=True)

    effect: Effect
    arguments: str
    returns: str
    signature: str
    """For people: ``place(order: Order) -> Fill``."""
    schemas: str = ""
    """SHA-256 of the schemas that ``service.contract.v1`` has of it; empty: nobody wrote them down."""


type Contract = dict[str, MethodContract]


class Event(BaseModel):
    """Base of every event. Frozen; unknown fields of a later minor change are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: ClassVar[str]


type Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Registry:
    """Type strings, the classes they mean, and the upcasters between versions."""

    classes: dict[str, type[Event]] = field(default_factory=dict)
    upcasters: dict[str, tuple[str, Upcaster]] = field(default_factory=dict)

    def event(self, type_name: str) -> Callable[[type[Event]], type[Event]]:
        """Class decorator: persist the class as `type_name` (``name.vN``)."""

        def register[E: Event](cls: type[E]) -> type[E]:
            if type_name in self.classes or type_name in self.upcasters:
                raise ValueError(f"event type {type_name!r} is registered twice")
            cls.type = type_name
            self.classes[type_name] = cls
            return cls

        return register

    def upcast(self, old: str, new: str) -> Callable[[Upcaster], Upcaster]:
        """Function decorator: data of type `old` is read as type `new` after this function."""

        def register(function: Upcaster) -> Upcaster:
            if old in self.classes or old in self.upcasters:
                raise ValueError(f"event type {old!r} is registered twice")
            if old in self._path(new):
                raise ValueError(f"event type {old!r} would be upcast to itself")
            self.upcasters[old] = (new, function)
            return function

        return register

    def _path(self, type_name: str) -> list[str]:
        path = [type_name]
        while path[-1] in self.upcasters:
            path.append(self.upcasters[path[-1]][0])
        return path

    def build(self, type_name: str, data: Mapping[str, Any]) -> Event | UnknownEvent:
        """Make the event that `data` of type `type_name` means today.

        A type this version does not know gives an :class:`UnknownEvent`: a fold counts it and goes on.

        Raises:
            MalformedPayload: when the data does not fit its type.
        """
        shaped = dict(data)
        while type_name in self.upcasters:
            newer, upcaster = self.upcasters[type_name]
            try:
                shaped = upcaster(shaped)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise MalformedPayload(f"cannot read an event of type {type_name!r} as {newer!r}") from error
            type_name = newer
        cls = self.classes.get(type_name)
        if cls is None:
            return UnknownEvent(type_name, shaped)
        try:
            return cls.model_validate(shaped)
        except ValidationError as error:
            raise MalformedPayload(f"cannot read an event of type {type_name!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a type this version does not know."""

    type: str
    data: Mapping[str, Any]


REGISTRY = Registry()


# -- what an instance says of itself --------------------------------------------------------------------


@REGISTRY.event("instance.registered.v1")
class InstanceRegistered(Event):
    """An instance asks to join a group. ``incarnation`` tells this run of it from earlier ones of the same
    id.
    """

    incarnation: str = Field(max_length=64)
    mode: Literal["owned", "pool"]
    resources: tuple[str, ...] = ()
    contract: Contract
    host: str = Field(max_length=255)
    pid: int
    version: str = Field(max_length=64)
    quarantined: bool = False
    """It accepts and queues calls, and runs none until an operator resumes its group."""
    max_backlog: int = DEFAULT_MAX_BACKLOG
    """How many open calls its group may have before clients are to hold back."""
    contract_seq: int = 0
    """Where the schemas of its contract stand in the log; 0: nowhere."""


@REGISTRY.event("instance.ready.v1")
class InstanceReady(Event):
    """The instance has read the log and can take calls."""

    incarnation: str


@REGISTRY.event("instance.draining.v1")
class InstanceDraining(Event):
    """The instance takes no new calls and finishes those it runs."""

    incarnation: str
    cause: str


@REGISTRY.event("instance.yielded.v1")
class InstanceYielded(Event):
    """The holder of ``epoch`` has stopped starting calls, and all that it ran is concluded in the log: the
    pen may go to another one without a doubt.
    """

    incarnation: str
    epoch: int
    cause: str


@REGISTRY.event("instance.unhealthy.v1")
class InstanceUnhealthy(Event):
    """The service's own health check failed: the instance starts no more calls."""

    incarnation: str
    reason: str = Field(max_length=MAX_REASON)


@REGISTRY.event("instance.healthy.v1")
class InstanceHealthy(Event):
    """The service's own health check passes again."""

    incarnation: str


@REGISTRY.event("instance.left.v1")
class InstanceLeft(Event):
    """The instance is gone, on purpose. Calls it could not finish in time are still open in the log."""

    incarnation: str
    cause: str
    finished: bool = True
    """All that it ran is concluded in the log."""


@REGISTRY.event("service.contract.v1")
class ServiceContract(Event):
    """The schemas of the methods that an instance offers, on a subject of its own; registrations name the
    record. ``schemas``: a JSON map from methods to the texts of their schemas, compressed (zlib) and in
    base64; ``digest`` is the SHA-256 of that JSON.
    """

    digest: str = Field(max_length=64)
    schemas: str


# -- what the router decided about instances ------------------------------------------------------------


@REGISTRY.event("instance.admitted.v1")
class InstanceAdmitted(Event):
    """The registration stands: its contract and its resources are accepted."""

    instance: str
    incarnation: str
    decided_by: str


@REGISTRY.event("instance.refused.v1")
class InstanceRefused(Event):
    """The registration does not stand; ``error`` says why and what to do."""

    instance: str
    incarnation: str
    error: ErrorInfo
    decided_by: str


type Source = Literal["silence", "disconnect", "probe"]
"""What made a router suspect an instance: no pulses, its connection's end as the server tells it, or health
probes without an answer.
"""


@REGISTRY.event("instance.suspected.v1")
class InstanceSuspected(Event):
    """The instance may be dead: it has been silent for too long, or its connection ended, or it answers no
    probes. ``evidence`` holds what the router saw.
    """

    instance: str
    incarnation: str
    last_pulse_ns: int
    silence_ms: int
    source: Source = "silence"
    cause: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)
    decided_by: str


@REGISTRY.event("instance.recovered.v1")
class InstanceRecovered(Event):
    """A suspected instance gave a sign of life again."""

    instance: str
    incarnation: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    decided_by: str


@REGISTRY.event("instance.lost.v1")
class InstanceLost(Event):
    """The instance is taken for dead. Should it live, it comes back as a new incarnation."""

    instance: str
    incarnation: str
    last_pulse_ns: int
    silence_ms: int
    source: Source = "silence"
    cause: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)
    decided_by: str


@REGISTRY.event("instance.drain_requested.v1")
class InstanceDrainRequested(Event):
    """An operator wants the instance to finish what it runs and to leave."""

    instance: str
    incarnation: str
    author: str = Field(max_length=MAX_AUTHOR)
    reason: str = Field(default="", max_length=MAX_REASON)
    decided_by: str


# -- what operators want of a group ---------------------------------------------------------------------


class _Pausing(Event):
    """With scope ``service`` it also holds for the groups that the service will have."""

    scope: Literal["service", "group"]
    author: str = Field(max_length=MAX_AUTHOR)
    reason: str = Field(default="", max_length=MAX_REASON)
    decided_by: str


@REGISTRY.event("group.paused.v1")
class GroupPaused(_Pausing):
    """Calls are accepted and queued, and none is started; those that run go on to their end."""


@REGISTRY.event("group.resumed.v1")
class GroupResumed(_Pausing):
    """Calls are started again; ends the quarantine of the group's instances, too."""


@REGISTRY.event("group.congested.v1")
class GroupCongested(Event):
    """The group has as many open calls as it may: clients are to hold back, for about that long."""

    open: int
    limit: int
    retry_after_ms: int
    decided_by: str


@REGISTRY.event("group.relieved.v1")
class GroupRelieved(Event):
    """The group takes calls again."""

    open: int
    decided_by: str


@REGISTRY.event("call.cancel_requested.v1")
class CancelRequested(Event):
    """A client or an operator wants these calls (ids in their text form) not to run, or to stop."""

    call_ids: tuple[str, ...] = Field(max_length=MAX_CANCELLED)
    author: str = Field(max_length=MAX_AUTHOR)
    reason: str = Field(default="", max_length=MAX_REASON)


# -- the group: whoever holds its pen -------------------------------------------------------------------


@REGISTRY.event("group.promoted.v1")
class GroupPromoted(Event):
    """``holder`` holds the group's pen from here on, as epoch ``epoch``. The record's own sequence is the
    fence.
    """

    epoch: int
    holder: str
    incarnation: str
    kind: Literal["first", "planned", "failover"] = "failover"
    """``planned``: the former holder had finished. ``failover``: it may have begun what it did not conclude.
    """
    cause: str
    author: str = ""
    """The operator who asked for it, if one did."""
    evidence: dict[str, Any] = Field(default_factory=dict)
    decided_by: str


@REGISTRY.event("group.handover_started.v1")
class GroupHandoverStarted(Event):
    """``holder`` is to finish what it runs and to yield, then ``to`` is promoted. Until then ``holder`` keeps
    the pen of ``epoch``; this record is the new fence.
    """

    epoch: int
    holder: str
    to: str
    to_incarnation: str
    cause: str
    author: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)
    decided_by: str


@REGISTRY.event("group.handover_cancelled.v1")
class GroupHandoverCancelled(Event):
    """The handover is off, and the holder of ``epoch`` goes on. This record is the new fence."""

    epoch: int
    cause: str
    decided_by: str


@REGISTRY.event("group.vacated.v1")
class GroupVacated(Event):
    """Nobody holds the pen: the holder of ``epoch`` left or was lost, and no standby is ready."""

    epoch: int
    cause: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    decided_by: str


# -- routers --------------------------------------------------------------------------------------------


@REGISTRY.event("router.elected.v1")
class RouterElected(Event):
    """``router`` leads from here on. ``policy`` says with how much patience it decides; empty: nobody wrote
    that down.
    """

    term: int
    router: str
    incarnation: str
    cause: str
    policy: dict[str, int] = Field(default_factory=dict)


@REGISTRY.event("router.resigned.v1")
class RouterResigned(Event):
    """The leader of ``term`` stopped on purpose; any other router may lead at once."""

    term: int
    router: str
    incarnation: str


def encode_event(event: Event) -> bytes:
    """Return the record payload of `event`.

    Raises:
        NotEncodable: when ``evidence`` or ``details`` holds what JSON cannot carry, integers over 64 bits, or
            more than ``MAX_EVENT_DEPTH`` containers within each other.
        LimitExceeded: when nobody could read it: more than ``MAX_EVENT_BYTES``.
    """
    try:
        data = event.model_dump(mode="json")
        packed: bytes = msgpack.packb([event.type, data])
    except (PydanticSerializationError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise NotEncodable(
            f"cannot encode an event of type {event.type!r}: {error}", type_name=event.type
        ) from error
    if is_deep(data, MAX_EVENT_DEPTH):
        raise NotEncodable(
            f"cannot encode an event of type {event.type!r}: it is nested deeper than {MAX_EVENT_DEPTH}",
            type_name=event.type,
        )
    if len(packed) > MAX_EVENT_BYTES:
        raise LimitExceeded(
            f"cannot encode an event of type {event.type!r}: it takes {len(packed)} bytes, and the limit is "
            f"{MAX_EVENT_BYTES}; put less into it",
            limit=MAX_EVENT_BYTES,
            size_bytes=len(packed),
        )
    return packed


def decode_event(payload: bytes, registry: Registry = REGISTRY) -> Event | UnknownEvent:
    """Read an event from a record's payload.

    Raises:
        MalformedPayload: when the payload is not an event, or does not fit its type.
    """
    if len(payload) > MAX_EVENT_BYTES:
        raise MalformedPayload(
            f"cannot read an event of {len(payload)} bytes: the limit is {MAX_EVENT_BYTES}"
        )
    try:
        type_name, data = msgpack.unpackb(payload)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedPayload(
            "cannot read an event: it is not the MessagePack array [type, data]"
        ) from error
    if not isinstance(type_name, str) or not isinstance(data, dict):
        raise MalformedPayload("cannot read an event: it is not the MessagePack array [type, data]")
    if is_deep(data, MAX_EVENT_DEPTH):
        raise MalformedPayload(f"cannot read an event of type {type_name!r:.80}: it is nested too deep")
    return registry.build(type_name, data)
