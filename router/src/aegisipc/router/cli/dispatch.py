"""From the words of a command line to a verb that runs.

Verbs of this distribution are in a table; those of others come from entry points, which are looked up only
when they are needed, because reading the metadata of everything installed takes longer than most verbs.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Iterable, Sequence

from aegisipc.eventstore.cli import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "aegis.verbs"

OWN = {
    "dev": "aegisipc.router.cli.dev:VERB",
    "router": "aegisipc.router.cli.router:VERB",
    "status": "aegisipc.router.cli.status:VERB",
    "drain": "aegisipc.router.cli.drain:VERB",
    "promote": "aegisipc.router.cli.promote:VERB",
    "pause": "aegisipc.router.cli.pause:PAUSE",
    "resume": "aegisipc.router.cli.pause:RESUME",
    "verify": "aegisipc.router.cli.verify:VERB",
    "log": "aegisipc.router.cli.log:VERB",
    "replay": "aegisipc.router.cli.replay:VERB",
    "doubt": "aegisipc.router.cli.doubt:VERB",
    "dlq": "aegisipc.router.cli.dlq:VERB",
    "calls": "aegisipc.router.cli.calls:VERB",
    "promotions": "aegisipc.router.cli.promotions:VERB",
    "instances": "aegisipc.router.cli.instances:VERB",
    "projector": "aegisipc.router.cli.projector:VERB",
    "contract": "aegisipc.router.cli.contract:VERB",
}
"""Where the verbs of this distribution are. ``aegis --help`` shows them in this order."""

BAD_USAGE = 2

_INTRO = """\
Durable calls between services, on NATS JetStream.

usage: aegis VERB [options]
       aegis VERB --help        what a verb does, with an example
       aegis --version
"""
_OUTRO = """
Try it:  aegis dev                               in one terminal,
         aegis serve MODULE:ATTR --resource R    in another,
         aegis call SERVICE.METHOD --resource-id R ARG…

Every verb that talks to a server takes --url (else $AEGIS_URL) and --namespace (else $AEGIS_NAMESPACE).
Exit codes: 0 done, 1 it could not be done, 2 bad usage."""


def dispatch(words: Sequence[str]) -> int:
    """Run the verb that `words` name and return the exit code."""
    if not words:
        sys.stderr.write(_top_help())
        return BAD_USAGE
    name, *rest = words
    if name in {"-h", "--help"} or (name == "help" and not rest):
        sys.stdout.write(_top_help())
        return 0
    if name == "help":
        name, rest = rest[0], ["--help"]
    if name.startswith("-"):
        return _misused(f"the verb comes first: aegis VERB {name} …")
    try:
        verb = load(name)
    except ImportError as error:
        sys.stderr.write(f"error: cannot load the verb {name!r}: {error}\n")
        return 1
    return run(verb, rest) if verb is not None else _misused(_unknown(name))


def run(verb: Verb, words: Sequence[str]) -> int:
    """Parse a verb's arguments and run it."""
    parser = parser_of(verb)
    args = (parser.parse_intermixed_args if verb.intermixed else parser.parse_args)(words)
    from aegisipc.eventstore.cli.running import run_verb  # noqa: PLC0415 - not for help and bad usage

    return run_verb(verb, args)


def parser_of(verb: Verb) -> argparse.ArgumentParser:
    """Return the parser for a verb's arguments."""
    examples = "\n".join(f"  {line}" for line in verb.examples.strip().splitlines())
    parser = argparse.ArgumentParser(
        prog=f"aegis {verb.name}",
        description=verb.description.strip(),
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log everything, to stderr")
    verb.configure(parser)
    return parser


def load(name: str) -> Verb | None:
    """Return the verb of that name, or ``None``. A verb of ours comes before another distribution's."""
    if name in OWN:
        return _resolve(OWN[name])
    for point in _entry_points():
        if point.name == name:
            return _resolve(point.value)
    return None


def names() -> list[str]:
    """Return the names of all verbs, ours first."""
    return list(dict.fromkeys([*OWN, *sorted(point.name for point in _entry_points())]))


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - see the module's docstring

    return entry_points(group=ENTRY_POINTS)


def _resolve(where: str) -> Verb:
    module, _, attribute = where.partition(":")
    verb: Verb = getattr(importlib.import_module(module), attribute)
    return verb


def _top_help() -> str:
    lines = []
    for name in names():
        try:
            verb = load(name)
            text = verb.help if verb else ""
        except Exception as error:  # noqa: BLE001 - one broken plug-in must not hide the other verbs
            text = f"(cannot be loaded: {type(error).__name__}: {error})"
        lines.append(f"  {name:<10} {text}")
    return f"{_INTRO}\nverbs:\n" + "\n".join(lines) + f"\n{_OUTRO}\n"


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no verb {name!r}{hint}"


def _misused(message: str) -> int:
    sys.stderr.write(f"aegis: error: {message}\n'aegis --help' lists the verbs\n")
    return BAD_USAGE
