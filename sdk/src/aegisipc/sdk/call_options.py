"""What a caller may say of a call beside its target and arguments."""

from __future__ import annotations

from typing import Final, Literal

from aegisipc.eventstore.frames import HIGH, LOW, NORMAL, CallOptions
from aegisipc.eventstore.names import check_key
from aegisipc.sdk.errors import ServiceDefinitionError

type Priority = Literal["low", "normal", "high"]

PRIORITIES: Final = {"low": LOW, "normal": NORMAL, "high": HIGH}


def options_of(idempotency_key: str | None, priority: object) -> CallOptions | None:
    """Return what a call's frame says beside the usual; ``None`` if there is nothing.

    Raises:
        InvalidName: the key cannot be one.
        ServiceDefinitionError: the priority is none.
    """
    if idempotency_key is None and priority == "normal":
        return None
    number = PRIORITIES.get(priority) if isinstance(priority, str) else None
    if number is None:
        raise ServiceDefinitionError(
            f"cannot call with priority={priority!r}: it is 'low', 'normal' or 'high'"
        )
    return CallOptions(None if idempotency_key is None else check_key(idempotency_key), number)
