"""What the verbs of the ``aegis`` command share.

A verb is a module with a :class:`Verb` named ``VERB``. Such a module imports nothing heavy at its top (no
asyncio, nats, pydantic, statemachine, structlog), because ``aegis --help`` imports all of them; what it needs
to work, its ``run`` imports. Verbs of other distributions than the router's are found by entry points in the
group ``aegis.verbs``.

- here: the verb itself and the options that verbs have in common;
- ``running``: runs a verb, and is the one place where errors become messages and exit codes;
- ``output``: tables, colours and JSON;
- ``waiting``: patience with servers that are still starting;
- ``logs``: structured logging to stderr.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ActionsContainer
    from collections.abc import Callable

__all__ = [
    "DEFAULT_NAMESPACE",
    "DEFAULT_URL",
    "Verb",
    "add_connection_options",
    "add_json_option",
    "add_namespace_option",
    "add_wait_option",
    "say",
]

DEFAULT_URL = "nats://127.0.0.1:4222"
DEFAULT_NAMESPACE = "default"
DEFAULT_WAIT_S = 30.0


class Verb:
    """One verb of the command: ``aegis <name> …``.

    ``help`` is its line in ``aegis --help``; ``description`` (default: the same as a sentence) and
    ``examples`` (command lines) are shown by ``aegis <name> --help``. ``configure`` adds its arguments to the
    parser, ``run`` does the work and returns the exit code; an ``AegisError`` or ``OSError`` that it raises
    becomes ``error: …`` and exit code 1. ``serves``: it runs until it is stopped, so it logs what it does and
    not only warnings. ``intermixed``: options may stand between its positional arguments.
    """

    __slots__ = ("configure", "description", "examples", "help", "intermixed", "name", "run", "serves")

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 - argparse's word for it
        configure: Callable[[ArgumentParser], None],
        run: Callable[[Namespace], int],
        *,
        description: str = "",
        examples: str = "",
        serves: bool = False,
        intermixed: bool = False,
    ) -> None:
        self.name = name
        self.help = help
        self.configure = configure
        self.run = run
        self.description = description or f"{help[:1].upper()}{help[1:]}."
        self.examples = examples
        self.serves = serves
        self.intermixed = intermixed


def add_connection_options(parser: ArgumentParser) -> None:
    """Add ``--url`` and ``--namespace``; both are in the parsed arguments, with their defaults."""
    group = parser.add_argument_group("where")
    group.add_argument(
        "--url",
        default=os.environ.get("AEGIS_URL") or DEFAULT_URL,
        metavar="URL",
        help=f"server, or several with commas between them (default: $AEGIS_URL, else {DEFAULT_URL})",
    )
    add_namespace_option(group)


def add_namespace_option(group: _ActionsContainer) -> None:
    """Add ``--namespace``."""
    group.add_argument(
        "--namespace",
        default=os.environ.get("AEGIS_NAMESPACE") or DEFAULT_NAMESPACE,
        metavar="NAME",
        help=f"whose log to use (default: $AEGIS_NAMESPACE, else {DEFAULT_NAMESPACE!r})",
    )


def add_json_option(parser: ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json",
        action="store_true",
        help='print JSON for programs, one object per line; an error is {"error": {"code", "message", '
        '"details"}} on stdout, beside the message on stderr',
    )


def add_wait_option(parser: ArgumentParser) -> None:
    """Add ``--wait``: how long to be patient with a server that is not there yet."""
    parser.add_argument(
        "--wait",
        type=float,
        default=DEFAULT_WAIT_S,
        metavar="SECONDS",
        help="how long to wait for a server that does not answer yet (default: %(default)g; 0: not at all)",
    )


def say(text: str) -> None:
    """Write a line for people to stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
