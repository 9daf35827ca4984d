"""A flow of orders as a file: one JSON object per line, in the order of ``at_ms``.

============  ==========================================================================================
``do``        fields beside ``do`` and ``at_ms`` (milliseconds since the flow began)
============  ==========================================================================================
``place``     ``account``, ``order_id``, ``symbol``, ``side``, ``quantity``, ``limit_price``,
              ``time_in_force`` (see ``Order`` in ``examples/orders.py``; prices are strings, to be exact)
``cancel``    ``account``, ``order_id``
``position``  ``account``
``quote``     ``account`` (who asks), ``symbol``
============  ==========================================================================================

Steps of one account at the same ``at_ms`` are a burst: they are sent without waiting for each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from aegisipc.eventstore.errors import AegisError
from examples.orders import Order

SHIPPED: Final = Path(__file__).with_name("orders.jsonl")
"""The flow that ``aegis demo`` plays by default; see ``generate.py``."""

MAX_STEPS: Final = 200_000
MAX_ACCOUNTS: Final = 1_000

_Name = Annotated[str, Field(min_length=1, max_length=64)]
_AtMs = Annotated[int, Field(ge=0, le=24 * 3600 * 1000)]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    at_ms: _AtMs
    account: _Name


class Place(Order):
    """Place an order."""

    do: Literal["place"] = "place"
    at_ms: _AtMs

    @property
    def order(self) -> Order:
        """The order alone, as the gateway takes it."""
        return Order.model_construct(**{name: getattr(self, name) for name in Order.model_fields})


class Cancel(_Step):
    """Cancel an order placed earlier."""

    do: Literal["cancel"] = "cancel"
    order_id: _Name


class AskPosition(_Step):
    """Ask where the account stands."""

    do: Literal["position"] = "position"


class AskQuote(_Step):
    """Ask for the market's prices."""

    do: Literal["quote"] = "quote"
    symbol: Annotated[str, Field(min_length=1, max_length=16)]


type Step = Place | Cancel | AskPosition | AskQuote

_STEP: Final[TypeAdapter[Step]] = TypeAdapter(
    Annotated[Place | Cancel | AskPosition | AskQuote, Field(discriminator="do")]
)


class FlowInvalid(AegisError):
    """A file that cannot be played. Fields: ``path``; for a bad line ``line``, ``field`` ("" for all)."""

    code = "flow_invalid"


def dump_step(step: Step) -> str:
    """Return the line of a step, with the fields always in the same order."""
    plain = step.model_dump(mode="json")
    return json.dumps({"at_ms": plain.pop("at_ms"), "do": plain.pop("do"), **plain}, separators=(",", ":"))


def read_flow(path: Path) -> list[Step]:
    """Read and check a whole file.

    Raises:
        FlowInvalid: it cannot be read, holds no steps or too many, or has a bad line; says which and why.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise FlowInvalid(f"cannot read {path}: {error.strerror or error}", path=str(path)) from error
    steps = parse_flow(lines, str(path))
    if not steps:
        raise FlowInvalid(
            f"cannot play {path}: it is empty; write one step per line, or generate some with "
            "'python -m examples.demo.generate'",
            path=str(path),
        )
    return steps


def parse_flow(lines: Iterable[bytes], path: str) -> list[Step]:
    """Check lines and turn them into steps; blank lines are skipped.

    Raises:
        FlowInvalid: see :func:`read_flow`.
    """
    steps: list[Step] = []
    accounts: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        step = _parse_line(line, path, number)
        if steps and step.at_ms < steps[-1].at_ms:
            raise _invalid(
                path, number, "at_ms", f"{step.at_ms} is earlier than the line before; sort the lines"
            )
        accounts.add(step.account)
        if len(accounts) > MAX_ACCOUNTS:
            raise _invalid(path, number, "account", f"more than {MAX_ACCOUNTS} accounts")
        steps.append(step)
        if len(steps) > MAX_STEPS:
            raise _invalid(path, number, "", f"more than {MAX_STEPS} steps")
    return steps


def accounts_of(steps: Sequence[Step]) -> list[str]:
    """Return the accounts of a flow, those with most steps first."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.account] = counts.get(step.account, 0) + 1
    return sorted(counts, key=lambda account: (-counts[account], account))


def groups_of(steps: Sequence[Step]) -> dict[str, list[str]]:
    """Deal the accounts to two groups in turn, so that both have as much to do; a group may be empty."""
    accounts = accounts_of(steps)
    return {"east": accounts[0::2], "west": accounts[1::2]}


def _parse_line(line: bytes, path: str, number: int) -> Step:
    try:
        return _STEP.validate_json(line)
    except ValidationError as error:
        field, message = _explain(error.errors(include_url=False, include_input=False)[0])
    raise _invalid(path, number, field, message)


def _explain(error: Any) -> tuple[str, str]:
    loc = [str(part) for part in error["loc"][1:]]  # the first part is the kind of step
    message = error["msg"][0].lower() + error["msg"][1:]
    match error["type"]:
        case "union_tag_not_found":
            return "do", "missing; it is 'place', 'cancel', 'position' or 'quote'"
        case "union_tag_invalid":
            return "do", "it is 'place', 'cancel', 'position' or 'quote'"
        case "json_invalid" | "model_attributes_type" | "dict_type":
            return "", f"not a JSON object ({message})"
        case "extra_forbidden":
            return ".".join(loc), "there is no such field"
        case "missing":
            return ".".join(loc), "missing"
        case _:
            return ".".join(loc) or "", message


def _invalid(path: str, number: int, field: str, message: str) -> FlowInvalid:
    where = f"{path}, line {number}" + (f", {field}" if field else "")
    return FlowInvalid(f"{where}: {message}", path=path, line=number, field=field)
