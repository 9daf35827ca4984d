"""The form of operators' requests: JSON, checked field by field, with nothing in it that nobody asked for."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.names import MAX_NAME_LENGTH, POOL_GROUP
from aegisipc.router.domain.refusals import InvalidRequest
from aegisipc.router.domain.terms import MAX_TOLD, listed, shortened

MAX_REQUEST_BYTES: Final = 16 * 1024
MAX_DOUBTS: Final = 1000
_DEFAULT_DOUBTS: Final = 100

_NAME: Final = rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME_LENGTH - 1}}}$"
type Name = Annotated[str, StringConstraints(pattern=_NAME)]
type GroupName = Annotated[str, StringConstraints(pattern=rf"{_NAME}|^{POOL_GROUP}$")]
type Author = Annotated[str, StringConstraints(min_length=1, max_length=ev.MAX_AUTHOR)]
type Reason = Annotated[str, StringConstraints(max_length=ev.MAX_REASON)]


class Request(BaseModel):
    """Base of all requests: checked, closed and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Promote(Request):
    """Give the pen of a group to this instance, as soon as its holder has finished."""

    service: Name
    group: GroupName
    instance: Name
    author: Author
    reason: Reason = ""


class Drain(Request):
    """Let this instance finish what it runs, and leave."""

    instance: Name
    service: Name | None = None
    group: GroupName | None = None
    force: bool = False
    author: Author
    reason: Reason = ""


class Pause(Request):
    """Start no more calls of a group; without a group, of the whole service."""

    service: Name
    group: GroupName | None = None
    author: Author
    reason: Reason = ""


class Resume(Pause):
    """Start calls again, and end quarantine."""


class ListDoubts(Request):
    """List the calls in doubt, oldest first."""

    service: Name | None = None
    group: GroupName | None = None
    limit: int = Field(default=_DEFAULT_DOUBTS, ge=1, le=MAX_DOUBTS)


def read_request[R: Request](cls: type[R], payload: bytes) -> R:
    """Read a request from JSON.

    Raises:
        InvalidRequest: when it is too large, no JSON, or not of the right form; says where.
    """
    if len(payload) > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"cannot read a request of {len(payload)} bytes: the limit is {MAX_REQUEST_BYTES}; shorten it",
            problems=[],
        )
    try:
        return cls.model_validate_json(payload)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in found['loc']) or 'request'}: {found['msg']}"
            for found in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidRequest(
            f"cannot read the request: {listed(problems, '; ')}; correct it and send it again",
            problems=[shortened(problem) for problem in problems[:MAX_TOLD]],
        ) from None
