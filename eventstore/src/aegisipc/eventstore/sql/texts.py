"""What may stand in a log, cut to what may stand in a column. No record may keep the projector from going on:
names and numbers of a hostile one can be of any length and size.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

NAME: Final = 255
KEY: Final = 256
ID: Final = 64
WORD: Final = 32
TEXT: Final = 4000
JSON_CHARACTERS: Final = 16_384

_MAX_BIG: Final = (1 << 63) - 1
_MAX_INT: Final = (1 << 31) - 1
_CUT: Final = "…"
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""NUL in JSON; where the backslash is itself behind one, somebody wrote just that."""


def cut(value: str, limit: int = NAME) -> str:
    """Return a text that every column takes: without NUL, and of `limit` characters at most."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    value = value if value.isascii() else value.encode("utf-8", "replace").decode()
    return value if len(value) <= limit else f"{value[: limit - 1]}{_CUT}"


def cut_or_none(value: str | None, limit: int = NAME) -> str | None:
    """Return what :func:`cut` makes of it; ``None`` stays ``None``."""
    return None if value is None else cut(value, limit)


def big(value: int) -> int:
    """Return a number that a column for sequences, times and epochs takes."""
    return max(-_MAX_BIG, min(value, _MAX_BIG))


def small(value: int) -> int:
    """Return a number that a column for counts takes."""
    return max(-_MAX_INT, min(value, _MAX_INT))


def plain(evidence: dict[str, Any]) -> dict[str, Any]:
    """Return data that a column for JSON takes; what is too large is left out, and that is said."""
    try:
        text = json.dumps(evidence, default=str, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):  # numbers or keys that JSON has not
        return {"as_text": cut(_as_text(evidence), TEXT)}
    if len(text) > JSON_CHARACTERS:
        return {"left_out": f"{len(text)} characters of JSON: see the log"}
    loaded: dict[str, Any] = json.loads(without_nul(text))
    return loaded


def _as_text(evidence: dict[str, Any]) -> str:
    try:
        return str(evidence)
    except (ValueError, RecursionError):
        return f"{len(evidence)} fields, which nobody can show: see the log"


def without_nul(text: str) -> str:
    """Return JSON without the NUL that may be in its texts: PostgreSQL takes none."""
    return _NUL.sub("\\1\ufffd", text) if "\\u0000" in text else text
