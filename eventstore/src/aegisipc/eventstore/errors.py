"""The root of every AegisIPC error, and the errors of the log.

::

    AegisError
    ├── InvalidName           a name that cannot be a subject token
    ├── NotConnected          there is no usable connection now; nothing was sent
    ├── AckUnknown            sent, but not acknowledged in time: it may or may not be stored
    ├── NoResponders          connected, but nobody serves that subject
    ├── PayloadTooLarge       over the server's (or our own) limit; nothing was sent
    ├── BadCredentials        the server refused the user, password or token
    ├── PermissionDenied      the server refuses this user that subject
    ├── ServerUnsuitable      no JetStream, or a version older than AegisIPC needs
    ├── LogMissing            the namespace has no log yet
    ├── LogMisconfigured      a stream of that name exists with another configuration
    ├── LogFull               the log reached its size limit and refuses new records
    │   └── ObjectsFull       the store of large bodies did
    ├── LogFailed             the server reports a storage failure
    ├── WrongSequence         a compare-and-set append lost
    ├── ObjectMissing         the object that stands for a large body is not there
    ├── ObjectDamaged         it is there, but it is not what was stored
    ├── UnknownCall           the log holds no call of that id
    ├── Overloaded            a bounded buffer is full
    └── CodecError
        ├── NotEncodable      a value that MessagePack cannot carry
        ├── MalformedPayload  bytes that are not what they should be
        └── LimitExceeded     bytes within the format but over a size or depth limit

Every message says what cannot be done and what to do next; the fields carry the data.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AegisError(Exception):
    """Root of every error that AegisIPC raises on purpose.

    ``code`` is the stable, machine-readable name of the error (snake_case); keyword arguments become
    attributes and ``details``.
    """

    code: ClassVar[str] = "aegis_error"

    is_remote: ClassVar[bool] = False
    """Whether somebody else's code raised it: then code and details are theirs."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __getattr__(self, name: str) -> Any:
        """Read a detail as a field: ``error.limit_bytes``."""
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def to_plain(self) -> dict[str, Any]:
        """Return the error as data: ``code``, ``message`` and ``details``."""
        return {"code": self.code, "message": self.message, "details": self.details}

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep message and details when pickled (test runners and process pools do that)."""
        return (_rebuild, (type(self), self.message, self.details))


def _rebuild(cls: type[AegisError], message: str, details: dict[str, Any]) -> AegisError:
    return cls(message, **details)


class InvalidName(AegisError):
    """A name that cannot be used as a subject token."""

    code = "invalid_name"


class NotConnected(AegisError):
    """There is no usable connection to the server now; nothing was sent."""

    code = "not_connected"


class AckUnknown(AegisError):
    """A request was sent but not answered in time: it may or may not have taken effect."""

    code = "ack_unknown"


class NoResponders(AegisError):
    """The server is reachable but nobody serves the subject."""

    code = "no_responders"


class PayloadTooLarge(AegisError):
    """A message over a size limit; nothing was sent. Fields: ``size_bytes``, ``limit_bytes``."""

    code = "payload_too_large"


class BadCredentials(AegisError):
    """The server refused the credentials."""

    code = "bad_credentials"


class PermissionDenied(AegisError):
    """The server refuses this user the subject. Field: ``subject``."""

    code = "permission_denied"


class ServerUnsuitable(AegisError):
    """The server cannot carry AegisIPC: JetStream is off, or the version is too old."""

    code = "server_unsuitable"


class LogMissing(AegisError):
    """The namespace has no log on this server. Field: ``namespace``."""

    code = "log_missing"


class LogMisconfigured(AegisError):
    """The stream exists with another configuration. Field: ``differences``."""

    code = "log_misconfigured"


class LogFull(AegisError):
    """The log reached its size limit and refuses new records."""

    code = "log_full"


class ObjectsFull(LogFull):
    """The store of large bodies reached its size limit and refuses new ones."""

    code = "objects_full"


class LogFailed(AegisError):
    """The server reports a failure of the log's storage."""

    code = "log_failed"


class WrongSequence(AegisError):
    """A compare-and-set append lost. Fields: ``subject``, ``expected``."""

    code = "wrong_sequence"


class ObjectMissing(AegisError):
    """The object that stands for a large body is not there (any more). Field: ``name``."""

    code = "object_missing"


class ObjectDamaged(AegisError):
    """The object that stands for a large body is not what was stored. Field: ``name``."""

    code = "object_damaged"


class UnknownCall(AegisError):
    """The log holds no call of that id. Field: ``call_id``."""

    code = "unknown_call"


class Overloaded(AegisError):
    """A bounded buffer is full: nothing was accepted; try again later. Field: ``limit``."""

    code = "overloaded"


class CodecError(AegisError):
    """Root of the codec's errors."""

    code = "codec_error"


class NotEncodable(CodecError):
    """A value that cannot travel. Field: ``type_name``."""

    code = "not_encodable"


class MalformedPayload(CodecError):
    """Bytes that are not valid in their format."""

    code = "malformed_payload"


class LimitExceeded(CodecError):
    """Bytes over a limit of size, count or depth."""

    code = "limit_exceeded"
