"""What a server said, as a line of text without what differs from run to run: times, and generated names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aegisipc.eventstore.nats.message import Message

_DROPPED: Final = frozenset(
    {"ts", "type", "created", "last_active", "metadata", "total", "offset", "limit", "cluster"}
)
_TIMES: Final = frozenset({"time", "first_ts", "last_ts"})
_NO_TIME: Final = "0001-01-01T00:00:00Z"
_INVALID_JSON: Final = "invalid JSON"
_BAD_REQUEST: Final = re.compile(rb"400 Bad Request[^\r]*")
_QUESTION: Final = re.compile(rb"(\$JS\.FC\.[^.]+\.[^.]+)\.[^\r]*")
_SHOWN_BYTES: Final = 24


def plain(value: Any, *, inside: str = "") -> Any:
    """Return an answer without what differs from run to run; ``inside`` names the field that holds it."""
    if isinstance(value, dict):
        is_consumer = "stream_name" in value  # servers fill in a consumer's configuration
        return {
            key: plain(item, inside=key)
            for key, item in sorted(value.items())
            if key not in _DROPPED and not (is_consumer and key == "config")
        }
    if isinstance(value, list):
        return [plain(item, inside=inside) for item in value]
    if inside in _TIMES and value != _NO_TIME:
        return "<time>"
    if inside == "description" and isinstance(value, str) and value.startswith(_INVALID_JSON):
        return _INVALID_JSON
    return value


def shown_json(answer: Mapping[str, Any]) -> str:
    """Return an answer as text."""
    return json.dumps(plain(dict(answer)), separators=(",", ":"))


def shown_message(message: Message) -> str:
    """Return a message as text."""
    parts = [message.subject]
    if message.reply:
        parts.append(f"reply={_shown_reply(message.reply)}")
    if message.header_block:
        head = _BAD_REQUEST.sub(b"400 Bad Request", message.header_block)
        parts.append(_QUESTION.sub(rb"\1.<n>", head).decode(errors="replace").strip().replace("\r\n", " | "))
    payload = message.payload
    if len(payload) > _SHOWN_BYTES:
        parts.append(f"{len(payload)} bytes")
    elif payload:
        parts.append(repr(payload))
    return "  ".join(parts)


def is_heartbeat(message: Message) -> bool:
    """Whether a message only says that there is nothing to say."""
    return not message.reply and message.header_block.startswith(b"NATS/1.0 100 Idle")


def _shown_reply(reply: str) -> str:
    tokens = reply.split(".")
    if reply.startswith("$JS.ACK.") and len(tokens) == 9:
        tokens[7] = "<time>"
    elif reply.startswith("$JS.FC."):
        tokens[-1] = "<n>"
    elif reply.startswith("_INBOX."):
        tokens = ["<inbox>"]
    return ".".join(tokens)
