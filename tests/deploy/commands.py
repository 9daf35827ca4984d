"""The commands that deployment files and pages use, as the command line itself judges them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest

from aegisipc.router.cli.dispatch import load, parser_of


def check_aegis_command(words: Sequence[str]) -> None:
    """Fail unless the parser of the verb in ``words`` (without the leading ``aegis``) accepts the rest."""
    name, *rest = words
    verb = load(name)
    assert verb is not None, f"there is no verb {name!r}"
    parser = parser_of(verb)
    try:
        (parser.parse_intermixed_args if verb.intermixed else parser.parse_args)(rest)
    except SystemExit as refused:
        pytest.fail(f"aegis {shlex.join(words)} is refused (exit code {refused.code})")
