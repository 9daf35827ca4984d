"""Messages, and how they are written to a NATS connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from aegisipc.eventstore.errors import InvalidName

STATUS_HEADER = "Status"
NO_RESPONDERS = "503"

_HEADER_LINE = b"NATS/1.0\r\n"
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE_SUBJECT = re.compile(r"[\s\x00]")


@dataclass(frozen=True, slots=True)
class Message:
    """A received message. ``reply`` is the subject an answer goes to, or empty."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] | None
    reply: str

    @property
    def is_no_responders(self) -> bool:
        """Whether this is the server's word that nobody serves the subject of a request."""
        return (
            not self.payload and self.headers is not None and self.headers.get(STATUS_HEADER) == NO_RESPONDERS
        )


def encode_headers(headers: Mapping[str, str] | None) -> bytes:
    """The header block of a message, empty for no headers; the mapping is not changed.

    Raises ``InvalidName`` for a name that is no header name, or a value with a line break.
    """
    if not headers:
        return b""
    lines = [_HEADER_LINE]
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidName(
                f"cannot use {name!r} as the name of a header: letters, digits and '-' are safe"
            )
        if "\r" in value or "\n" in value:
            raise InvalidName(f"cannot send header {name!r}: its value contains a line break")
        lines.append(f"{name}: {value}\r\n".encode())
    lines.append(b"\r\n")
    return b"".join(lines)


def check_subject(subject: str) -> None:
    """Raise ``InvalidName`` for a subject that would break the protocol (empty, or with white space)."""
    if not subject or _UNSAFE_SUBJECT.search(subject):
        raise InvalidName(f"cannot use {subject!r} as a subject: it is empty or contains white space")


def publish_command(subject: str, reply: str, header_block: bytes, payload: bytes) -> tuple[bytes, ...]:
    """The pieces of a publish, to be written one after another."""
    size = len(payload)
    if not header_block:
        return (f"PUB {subject} {reply} {size}\r\n".encode(), payload, b"\r\n")
    header_size = len(header_block)
    head = f"HPUB {subject} {reply} {header_size} {header_size + size}\r\n"
    return (head.encode(), header_block, payload, b"\r\n")
