"""Entries of an outbox: what is written of a call before anybody sends it, and what is read of it later."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.errors import PayloadTooLarge
from aegisipc.eventstore.names import check_key, check_resource, split_target
from aegisipc.sdk.call_options import PRIORITIES
from aegisipc.sdk.core.outbox import Status
from aegisipc.sdk.errors import ServiceDefinitionError

_LONGEST_S: Final = 100 * 366 * 86_400


class Ticket(NamedTuple):
    """What an entry is known by: its number in the outbox, and the idempotency key of its call."""

    entry_id: int
    key: str


class Draft(NamedTuple):
    """An entry to be added; everything about it has been checked."""

    key: str
    service: str
    method: str
    resource: str | None
    priority: str
    timeout_s: float | None
    body: bytes
    added_ns: int
    expires_ns: int | None

    @property
    def target(self) -> str:
        """What it calls."""
        return f"{self.service}.{self.method}"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it stands. Times are UTC.

    ``attempts`` counts how often it was begun to be sent, ``trouble`` says why the last time did not succeed.
    ``call_id`` is known from its acceptance on (and sometimes before, if it may have been accepted).
    """

    entry_id: int
    key: str
    target: str
    resource_id: str | None
    priority: str
    timeout: float | None
    status: Status
    attempts: int
    trouble: str | None
    call_id: str | None
    added_at: datetime
    expires_at: datetime | None
    accepted_at: datetime | None
    finished_at: datetime | None


def draft(
    target: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    now_ns: int,
    limit_bytes: int,
) -> Draft:
    """Check and encode a call.

    Raises:
        InvalidName, NotEncodable, PayloadTooLarge, ServiceDefinitionError: it could never be accepted.
    """
    service, method = split_target(target)
    resource, key = options["resource_id"], options["idempotency_key"]
    if resource is not None:
        check_resource(resource)
    key = uuid.uuid4().hex if key is None else check_key(key)
    timeout, expires_in, priority = options["timeout"], options["expires_in"], options["priority"]
    if timeout is not None:
        _check_seconds(target, "timeout", timeout)
        timeout = float(timeout)
    if expires_in is not None:
        _check_seconds(target, "expires_in", expires_in)
    if not isinstance(priority, str) or priority not in PRIORITIES:
        raise ServiceDefinitionError(
            f"cannot call {target} with a priority of {priority!r}: it is 'low', 'normal' or 'high'"
        )
    body = encode([list(args), dict(kwargs)])
    if len(body) > limit_bytes:
        raise PayloadTooLarge(
            f"cannot add a call of {target} with arguments of {len(body)} bytes: the limit of this outbox is "
            f"{limit_bytes}; send less, or raise max_arguments_bytes (the servers have a limit, too)",
            size_bytes=len(body),
            limit_bytes=limit_bytes,
        )
    expires_ns = None if expires_in is None else now_ns + int(float(expires_in) * 1e9)
    return Draft(key, service, method, resource, priority, timeout, body, now_ns, expires_ns)


def _check_seconds(target: str, name: str, seconds: Any) -> None:
    try:
        is_good = 0 < seconds <= _LONGEST_S and float(seconds) > 0
    except (TypeError, ValueError):
        is_good = False
    if not is_good or isinstance(seconds, bool):
        raise ServiceDefinitionError(
            f"cannot call {target} with {name}={seconds!r}: it is a number of seconds above 0, and at most "
            f"{_LONGEST_S:,}"
        )


def moment(ns: int | None) -> datetime | None:
    """Return a time of the database as a datetime."""
    return None if ns is None else datetime.fromtimestamp(ns / 1e9, UTC)
