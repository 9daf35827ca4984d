"""Arguments and results of calls as JSON for the request log: only if asked for, without what is to be left
out, and of bounded size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_jsonable_python

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.references import reference_in

DEFAULT_MAX_BYTES: Final = 16_384
REDACTED: Final = "[redacted]"

ARGUMENTS: Final = "arguments"
RESULTS: Final = "results"

_DECODED: Final = 8
"""A body of so many times the limit is not even decoded."""


@dataclass(frozen=True, slots=True)
class Capture:
    """What of the bodies goes into the request log. Values of fields in ``redact`` are replaced, wherever in
    arguments and results they are; ``arguments`` and ``results`` in it stand for all of these. A body that
    takes more than ``max_bytes`` as JSON is cut, and says so.
    """

    arguments: bool = False
    results: bool = False
    redact: frozenset[str] = frozenset()
    max_bytes: int = DEFAULT_MAX_BYTES

    def arguments_text(self, body: bytes) -> str | None:
        """Return the arguments of a call as JSON; ``None`` if they are not captured."""
        return self._text(body, ARGUMENTS) if self.arguments else None

    def result_text(self, body: bytes | None) -> str | None:
        """Return the result of a call as JSON; ``None`` if it is not captured."""
        return self._text(body, RESULTS) if self.results and body is not None else None

    def _text(self, body: bytes, what: str) -> str:
        try:
            reference = reference_in(body)
            if reference is not None:
                return _json({"$large": reference.name, "bytes": reference.size_bytes})
            if len(body) > _DECODED * self.max_bytes:
                return _json({"$truncated": True, "bytes": len(body)})
            value = decode(body)
        except CodecError:
            return _json({"$unreadable": True, "bytes": len(body)})
        text = _json(REDACTED if what in self.redact else self._without(plain(value)))
        if len(text.encode()) <= self.max_bytes:
            return text
        beginning = text.encode()[: self.max_bytes].decode("utf-8", "ignore")
        return _json({"$truncated": True, "bytes": len(body), "beginning": beginning})

    def _without(self, value: Any) -> Any:
        if not self.redact:
            return value
        if isinstance(value, dict):
            return {
                name: REDACTED if name in self.redact else self._without(inner)
                for name, inner in value.items()
            }
        return [self._without(inner) for inner in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Return a decoded value as JSON has it: bytes in base64, times and decimals as text."""
    return to_jsonable_python(
        value, fallback=repr, bytes_mode="base64", inf_nan_mode="strings", serialize_unknown=True
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("\\u0000", "\ufffd")
