"""How operators of runs write down what they ask for, so that the log can be held against it.

What an operator tells a group is an operation: its invocation has the command in ``value`` (``command``, and
what it says), its completion the answer. Each time it is asked is an operation of its own, and its number
goes into the log as the reason; so each word there leads back to what was asked, and by whom.
"""

from __future__ import annotations

import re
from typing import Any, Final

from aegisipc.chaos.history import Deed, Operation, Stage

RESOLVE: Final = "resolve"
REQUEUE: Final = "requeue"
DISCARD: Final = "discard"

_REASON: Final = re.compile(r"operation (\d{1,18})")


def reason_of(number: int) -> str:
    """Return the reason that an operator gives for what operation `number` asks for."""
    return f"operation {number}"


def number_in(reason: object) -> int | None:
    """Return the operation that a reason names; ``None`` if it is of nobody who writes down what he asks."""
    found = _REASON.fullmatch(reason) if isinstance(reason, str) else None
    return None if found is None else int(found[1])


def asking_for(number: int, client: str, at_ns: int, place: str, command: dict[str, Any]) -> Operation:
    """Return the invocation of a command: to a router (``place`` is what it is about), or to a group about
    the call that the command names.
    """
    call_id = command.get("call_id")
    return Operation(
        number,
        Stage.INVOKE,
        Deed.OPERATE,
        client,
        at_ns,
        target=f"{command['command']} {place}",
        call_id=call_id if isinstance(call_id, str) else None,
        value={name: said for name, said in command.items() if name != "call_id"},
    )
