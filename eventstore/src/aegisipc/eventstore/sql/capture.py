"""Arguments and results of calls as JSON for the request log: only if asked for, without what is to be left
out, and of bounded size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import to_jsonable_python

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.references import reference_in
from aegisipc.eventstore.replay.parameters import Names
from aegisipc.eventstore.replay.redaction import ARGUMENTS, RESULTS, Redactor
from aegisipc.eventstore.sql.texts import without_nul

__all__ = ["ARGUMENTS", "DEFAULT_MAX_BYTES", "RESULTS", "Capture"]

DEFAULT_MAX_BYTES: Final = 16_384

_DECODED: Final = 8
"""A body of so many times the limit is not even decoded."""


@dataclass(frozen=True, slots=True)
class Capture:
    """What of the bodies goes into the request log. ``redact`` says what is replaced in it, and in the errors
    of calls, which are always there; see :class:`~aegisipc.eventstore.replay.redaction.Redactor`. A body
    that takes more than ``max_bytes`` as JSON is cut, and says so.
    """

    arguments: bool = False
    results: bool = False
    redact: Redactor = field(default_factory=lambda: Redactor(()))
    max_bytes: int = DEFAULT_MAX_BYTES

    def arguments_text(self, body: bytes, names: Names | None = None) -> str | None:
        """Return the arguments of a call as JSON; ``None`` if they are not captured. `names` are those of its
        parameters, if anybody knows them.
        """
        if not self.arguments:
            return None
        return self._text(body, lambda encoded: self.redact.arguments(encoded, names))

    def result_text(self, body: bytes | None) -> str | None:
        """Return the result of a call as JSON; ``None`` if it is not captured."""
        return self._text(body, self._result) if self.results and body is not None else None

    def _result(self, body: bytes) -> bytes:
        return self.redact.body(Mark.SUCCEEDED, body) or b""

    def _text(self, body: bytes, redacted: Callable[[bytes], bytes]) -> str:
        try:
            reference = reference_in(body)
            if reference is not None:
                return _json({"$large": reference.name, "bytes": reference.size_bytes})
            if len(body) > _DECODED * self.max_bytes:
                return _json({"$truncated": True, "bytes": len(body)})
            value = decode(body)
            text = _json(plain(decode(redacted(body)) if self.redact else value))
        except CodecError:
            return _json({"$unreadable": True, "bytes": len(body)})
        if len(text.encode()) <= self.max_bytes:
            return text
        beginning = text.encode()[: self.max_bytes].decode("utf-8", "ignore")
        return _json({"$truncated": True, "bytes": len(body), "beginning": beginning})


def plain(value: Any) -> Any:
    """Return a decoded value as JSON has it: bytes in base64, times and decimals as text."""
    return to_jsonable_python(
        value, fallback=repr, bytes_mode="base64", inf_nan_mode="strings", serialize_unknown=True
    )


def _json(value: Any) -> str:
    return without_nul(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
