"""Messages, and how they are written to a NATS connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import InvalidName

STATUS_HEADER: Final = "Status"

DELIVERY: Final = "$JS.ACK."
"""The reply subject of what a consumer delivers begins with this; anybody's may deliver to any subject."""

_VERSION: Final = b"NATS/1.0"
_NO_RESPONDERS: Final = b"NATS/1.0 503"
_HEADER_LINE: Final = b"NATS/1.0\r\n"
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE_SUBJECT = re.compile(r"[\s\x00]")


class Message(NamedTuple):
    """A received message. ``reply`` is the subject an answer goes to, or empty.

    ``header_block`` is as it came; most readers never look into it, so it is parsed only on demand.
    """

    subject: str
    payload: bytes
    header_block: bytes
    reply: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers, parsed anew on each access; the status of a status message is under ``Status``."""
        return parse_headers(self.header_block)

    @property
    def is_no_responders(self) -> bool:
        """Whether this is the server's word that nobody serves the subject of a request."""
        return not self.payload and self.header_block.startswith(_NO_RESPONDERS)


def parse_headers(block: bytes) -> dict[str, str]:
    """Read a header block: ``NATS/1.0[ status[ description]]``, then a line for each header.

    Lines that are no header are passed over, as nats-py does; values that are not UTF-8 get replacement
    characters.
    """
    first, *lines = block.split(b"\r\n")
    headers: dict[str, str] = {}
    status = first.removeprefix(_VERSION).split(maxsplit=1)
    if status and status[0].isdigit():
        headers[STATUS_HEADER] = status[0].decode()
    for line in lines:
        name, colon, value = line.partition(b":")
        key = name.strip()
        if colon and key.isascii():
            headers[key.decode()] = value.strip().decode("utf-8", "replace")
    return headers


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
