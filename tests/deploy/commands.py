"""The commands that deployment files and pages use."""

from __future__ import annotations

from collections.abc import Sequence

_SERVER = {"--url", "--namespace"}
_OPTIONS = {
    "router": _SERVER | {"--name", "--replicas", "--max-bytes", "--max-age", "--system-url"},
    "serve": _SERVER | {"--group", "--resource", "--instance"},
    "call": _SERVER | {"--resource-id", "--timeout", "--json"},
    "status": _SERVER | {"--json"},
    "dev": {"--data", "--port"},
}


def check_aegis_command(words: Sequence[str]) -> None:
    """Fail unless ``words`` (without the leading ``aegis``) are a known verb and options it has."""
    verb, *rest = words
    assert verb in _OPTIONS, f"unknown verb {verb!r}"
    options = {word.split("=", 1)[0] for word in rest if word.startswith("--")}
    unknown = options - _OPTIONS[verb]
    assert not unknown, f"aegis {verb} has no {sorted(unknown)}"
