"""Markup from functions: what is not markup already is escaped, and there is no other way to get it in.

What comes out is well-formed as XML and as HTML at the same time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Final

_SELF_CLOSING: Final = frozenset({"br", "circle", "line", "link", "meta", "path", "rect", "use", "wbr"})

_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]"
)
"""What XML forbids, and what would let a name pretend to be another: controls, marks of direction."""


class Markup(str):
    """Text that is markup: it is not escaped again."""

    __slots__ = ()


type Child = Markup | str | int | Iterable[Child] | None
type Attribute = str | int | float | None


def text(value: str) -> Markup:
    """Escape `value`; characters that cannot be seen are spelled (``\\u202e``)."""
    return Markup(escape(_INVISIBLE.sub(_spelled, value)))


def _spelled(found: re.Match[str]) -> str:
    point = ord(found.group())
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def join(*children: Child) -> Markup:
    """Return the children one after another, as markup."""
    parts: list[str] = []
    _gather(children, parts)
    return Markup("".join(parts))


def _gather(child: Child, into: list[str]) -> None:
    if child is None:
        return
    if isinstance(child, Markup):
        into.append(child)
    elif isinstance(child, str | int):
        into.append(text(str(child)))
    else:
        for each in child:
            _gather(each, into)


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Return an element. ``class_`` is ``class``, other underscores become hyphens; an attribute that is
    ``None`` is left out, and so are ends of digits that nobody can see.
    """
    opened = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _SELF_CLOSING and not children:
        return Markup(f"<{opened}/>")
    return Markup(f"<{opened}>{join(*children)}</{name}>")


def _value(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return text(str(value))
