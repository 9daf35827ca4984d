"""What verbs with verbs of their own have in common: ``aegis doubt list``, ``aegis dlq requeue``."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace, _SubParsersAction

from aegisipc.eventstore.cli import add_connection_options, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EXAMPLE_CALL = "019a9e6e-8d5b-7000-8000-3b9aca000001"
"""A call id for the examples in help texts."""


class _OptionsLast(_SubParsersAction):  # type: ignore[type-arg]  # it is no generic class when it runs
    """Refuses options that come before the inner verb: they would be the outer verb's, and do nothing."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        """Hand the rest of the words to the parser of the inner verb."""
        for action in parser._actions:  # argparse has no other way to ask
            given = getattr(namespace, action.dest, action.default)
            if action.option_strings and action.dest != "verbose" and given != action.default:
                option = action.option_strings[-1]
                parser.error(f"{option} comes after the inner verb: {parser.prog} {values[0]} … {option} …")
        super().__call__(parser, namespace, values, option_string)


class Nested:
    """The verbs of one verb. `required`: it does nothing without them."""

    def __init__(self, parent: ArgumentParser, name: str, *, required: bool = True) -> None:
        self._parent = parent
        self._name = name
        self._verbs: _SubParsersAction[ArgumentParser] = parent.add_subparsers(
            metavar="VERB", required=required, action=_OptionsLast
        )

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
