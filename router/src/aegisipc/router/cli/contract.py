"""``aegis contract``: what services offer, and whether one contract can take another's place."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb
from aegisipc.router.cli.nested import Nested, add_common, run_nested

_SHOW = """\
Show what a service offers: its methods with their effects and signatures, and which instance offers which
version of them. It is read from the log alone, so no router is needed. With --json, the schemas come along:
keep that output as a file to compare with later."""
_DIFF = """\
Tell what becomes of those who call OLD if NEW takes its place. Each is a service (what may be called now),
one instance of it (SERVICE/INSTANCE), or a file with the output of aegis contract show --json.

Exit code 0: nobody breaks; 1: somebody does (what breaks is marked with !); 2: bad usage, also if one of the
two is not to be found."""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = Nested(parser, "contract")
    show = verbs.add("show", "show what a service offers", _SHOW, "orders --json >contract.json", _show)
    show.add_argument("service", metavar="SERVICE", help="a service, or one instance: SERVICE/INSTANCE")
    show.add_argument("--method", metavar="M", help="only that method, in all its versions")
    add_common(show)
    diff = verbs.add("diff", "compare two contracts", _DIFF, "contract.json orders/orders-7", _diff)
    diff.add_argument("old", metavar="OLD", help="a service, SERVICE/INSTANCE, or a file")
    diff.add_argument("new", metavar="NEW", help="the same")
    add_common(diff)


def _show(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.contracting import show  # noqa: PLC0415 - heavy

    return run_async(show(args))


def _diff(args: Namespace) -> int:
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.contracting import diff  # noqa: PLC0415 - heavy

    return run_async(diff(args))


VERB = Verb(
    "contract",
    "what a service offers, and whether it may be replaced: show, diff",
    configure,
    run_nested,
    description="""\
Every instance writes down what it offers: its methods, their effects, and the schemas of their arguments and
results. An instance joins only if those who call the service can go on; stubs are checked likewise.""",
    examples="""\
aegis contract show orders
aegis contract show orders --method place --json
aegis contract diff orders/orders-old orders/orders-new
aegis contract diff contract.json orders""",
)
