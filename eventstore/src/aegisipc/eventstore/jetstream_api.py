"""What the server says on its JetStream API, read: answers, errors, times, and the place of a delivered
message.

Pure functions. Facts about the server that they rely on are in ``docs/jetstream.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import (
    AegisError,
    LogFailed,
    LogFull,
    LogMissing,
    MalformedPayload,
    NoResponders,
    PayloadTooLarge,
    ServerUnsuitable,
    WrongSequence,
)
from aegisipc.eventstore.log import Expect

STREAM_NOT_FOUND: Final = 10059

_WRONG_LAST_SEQUENCE: Final = 10071
_CHECK_IN_FLIGHT: Final = 10164
_ID_IN_FLIGHT_TEXT: Final = "duplicate message id is in process"
_STORE_FAILED: Final = 10077
_TOO_LARGE: Final = frozenset({10054, 10097})
_NO_ROOM: Final = frozenset({10002, 10023, 10028, 10047})
_NOT_ENABLED: Final = frozenset({10039, 10076})
_NO_PEERS: Final = 10005
"""Too few servers of the cluster are known to be up: of a cluster that just started, soon no longer true."""

_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_NS: Final = 1_000_000_000


class CheckInFlight(WrongSequence):
    """Another check of that subject, or of that record id, is in flight in the cluster: nothing is decided
    yet, append again.
    """

    code = "check_in_flight"


class AckPlace(NamedTuple):
    """What the reply subject of a delivered message says."""

    stream_seq: int
    consumer_seq: int
    timestamp_ns: int
    pending: int
    delivered: int


def parse_ack_subject(reply: str) -> AckPlace:
    """Read ``$JS.ACK.…`` in its first form (9 tokens) or its second (11 and more, with domain and account).

    Raises:
        MalformedPayload: when it is neither.
    """
    return _place(reply, reply.split("."))


def place_of(reply: str, stream: str, consumer: str) -> AckPlace | None:
    """Return the place of a message that this consumer delivered, by the acknowledgement subject in `reply`;
    ``None`` if that is another one's, or none: anybody's consumer may deliver to the same subject.

    Raises:
        MalformedPayload: it is this consumer's, and its numbers cannot be read.
    """
    tokens = reply.split(".")
    by = tokens[2:4] if len(tokens) == 9 else tokens[4:6]
    if by != [stream, consumer] or tokens[:2] != ["$JS", "ACK"] or len(tokens) < 9:
        return None
    return _place(reply, tokens)


def _place(reply: str, tokens: list[str]) -> AckPlace:
    numbers = tokens[4:9] if len(tokens) == 9 else tokens[6:11]
    try:
        delivered, stream_seq, consumer_seq, timestamp_ns, pending = map(int, numbers)
    except ValueError:
        raise MalformedPayload(f"cannot read the place of a message from {reply!r}") from None
    return AckPlace(stream_seq, consumer_seq, timestamp_ns, pending, delivered)


def parse_time(text: str) -> int:
    """Return Unix nanoseconds of an RFC 3339 time with up to nine decimals, as the server writes it.

    Raises:
        MalformedPayload: when it is not such a time.
    """
    match = _RFC3339.fullmatch(text)
    date, clock, fraction, zone = match.groups() if match else ("", "", "", "")
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError:
        raise MalformedPayload(f"cannot read {text!r} as a time of the server") from None
    return int(moment.timestamp()) * _NS + int((fraction or "").ljust(9, "0"))


def format_time(time_ns: int) -> str:
    """Return `time_ns` (Unix) in RFC 3339, exact to the nanosecond: rounding up would skip a record."""
    seconds, fraction = divmod(time_ns, _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09}Z"


def read_json(payload: bytes) -> dict[str, Any]:
    """Return the JSON object in `payload`.

    Raises:
        LogFailed: when it holds none, or one whose ``error`` is no object.
    """
    try:
        answer = json.loads(payload)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("error", {}), dict):
        raise LogFailed(
            "cannot read the server's answer: it is not a JSON object; "
            "is something else serving that subject?"
        )
    return answer


def api_error(  # noqa: PLR0911 - a table, with conditions
    error: Mapping[str, Any], stream: str, expect: Expect | None = None, subject: str = ""
) -> AegisError:
    """Turn an error object of the JetStream API into a typed error."""
    code, text = int(error.get("err_code", 0)), str(error.get("description", "unknown error"))
    if code in (_WRONG_LAST_SEQUENCE, _CHECK_IN_FLIGHT) or text == _ID_IN_FLIGHT_TEXT:
        return _sequence_error(code, text, expect, subject)
    if code == STREAM_NOT_FOUND:
        return LogMissing(
            f"cannot use stream {stream!r}: it is not there; start a router, which creates it", stream=stream
        )
    if code in _TOO_LARGE:
        return PayloadTooLarge(f"cannot append: {text}")
    if code in _NO_ROOM or (code == _STORE_FAILED and "exceeded" in text):
        return LogFull(
            f"cannot append: the log is full ({text}); raise its size limit or shorten its retention",
            stream=stream,
        )
    if code in _NOT_ENABLED:
        return ServerUnsuitable(f"cannot use JetStream: {text}; enable JetStream for this account")
    is_electing = int(error.get("code", 0)) == 503 and code != _STORE_FAILED  # a broken disk is 503, too
    if is_electing or code == _NO_PEERS:
        return NoResponders(f"cannot reach stream {stream!r}: {text}", stream=stream)
    return LogFailed(f"cannot use stream {stream!r}: {text} (error {code})", stream=stream, err_code=code)


def _sequence_error(code: int, text: str, expect: Expect | None, subject: str) -> WrongSequence:
    guarded = (expect.subject if expect else None) or subject
    expected = expect.seq if expect else None
    if code == _WRONG_LAST_SEQUENCE:
        return WrongSequence(
            f"cannot append: {guarded!r} is not at the expected sequence ({text})",
            subject=guarded,
            expected=expected,
        )
    return CheckInFlight(
        f"cannot append yet: another append to {guarded!r} is being decided ({text}); append again",
        subject=guarded,
        expected=expected,
    )
