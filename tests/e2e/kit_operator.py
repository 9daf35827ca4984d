"""What operators do: commands to the routers, and the answers."""

from __future__ import annotations

import json
from typing import Any

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import subjects_of
from tests.e2e.kit import Place


async def ask(place: Place, subject: str, **body: Any) -> dict[str, Any]:
    """Ask a question in JSON, as a plain message, and return the answer."""
    async with await Connection.open(ConnectOptions(place.url, name="operator")) as connection:
        answer = await connection.request(subject, json.dumps(body).encode(), timeout_s=10.0)
    told: dict[str, Any] = json.loads(answer.payload)
    return told


async def command(place: Place, verb: str, **request: Any) -> dict[str, Any]:
    """Have the leading router carry out a command of operator ``alice``; it must not refuse."""
    request = {"author": "alice", "reason": "", **request}
    told = await ask(place, subjects_of(place.namespace).api(verb), **request)
    assert told.get("ok") is True, told
    return told
