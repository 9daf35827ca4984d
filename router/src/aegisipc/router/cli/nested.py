"""What verbs with verbs of their own have in common: ``aegis doubt list``, ``aegis dlq requeue``."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace, _SubParsersAction

from aegisipc.eventstore.cli import add_connection_options, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE_CALL = "019a9e6e-8d5b-7000-8000-3b9aca000001"
"""A call id for the examples in help texts."""


class Nested:
    """The verbs of one verb."""

    def __init__(self, parent: ArgumentParser, name: str) -> None:
        self._parent = parent
        self._name = name
        self._verbs: _SubParsersAction[ArgumentParser] = parent.add_subparsers(metavar="VERB", required=True)

    def add(
        self, name: str, does: str, description: str, example: str, run: Callable[[Namespace], int]
    ) -> ArgumentParser:
        """Add a verb; returns its parser, for its own options."""
        parser = self._verbs.add_parser(
            name,
            help=does,
            description=description,
            epilog=f"example:\n  aegis {self._name} {name} {example}",
            formatter_class=self._parent.formatter_class,
            allow_abbrev=False,
        )
        parser.set_defaults(run_nested=run, usage_error=parser.error)
        return parser


def add_common(parser: ArgumentParser) -> None:
    """Add the options that all of them take."""
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=SUPPRESS, help="log everything, to stderr"
    )
    add_json_option(parser)
    add_connection_options(parser)


def run_nested(args: Namespace) -> int:
    """Run the verb that was named."""
    code: int = args.run_nested(args)
    return code


def call_id_in(args: Namespace, text: str) -> bytes:
    """Return the call id that was given; a text that is none is bad usage."""
    from aegisipc.eventstore.errors import MalformedPayload  # noqa: PLC0415 - only to run the verb
    from aegisipc.eventstore.ids import parse_call_id  # noqa: PLC0415 - as above

    try:
        return parse_call_id(text)
    except MalformedPayload as error:
        args.usage_error(error.message)
        raise
