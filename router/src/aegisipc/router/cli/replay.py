"""``aegis replay``: the whole system at any moment, and the reasons for it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option
from aegisipc.router.cli.durations import allow_ago

REASONS = ("group", "instance", "call")
_MODES = ("diff", "follow", "step", "verify", "why", "what_if")


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    allow_ago(parser)
    points = parser.add_argument_group("when")
    points.add_argument("--until", metavar="POINT", help="the state at that point (default: end)")
    points.add_argument(
        "--from", metavar="POINT", dest="since", help="list what happened from there to --until instead"
    )
    points.add_argument(
        "--from-beginning",
        action="store_true",
        help="use no snapshot: fold the log from its first record on",
    )
    modes = parser.add_argument_group("what else to do").add_mutually_exclusive_group()
    modes.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="what changed from one point to a later one"
    )
    modes.add_argument(
        "--why", nargs=2, metavar=("KIND", "ID"), help=f"why it is as it is: {', '.join(REASONS)}"
    )
    modes.add_argument("--follow", action="store_true", help="go on with what changes, until Ctrl-C")
    modes.add_argument("--step", action="store_true", help="walk through the log, event by event")
    modes.add_argument(
        "--verify", action="store_true", help="fold again, and compare with snapshots and routers"
    )
    modes.add_argument(
        "--what-if",
        nargs="*",
        metavar="KEY=VALUE",
        help="which decisions would have been others, with another policy (suspect_after_ms=3000)",
    )
    parser.add_argument(
        "--policy", nargs="+", metavar="KEY=VALUE", help="with --what-if: the policy that was in force"
    )
    only = parser.add_argument_group("only")
    only.add_argument("--service", metavar="NAME", help="that service")
    only.add_argument("--group", metavar="NAME", help="that group (_pool: of pools)")
    only.add_argument("--resource", metavar="NAME", help="the group of that resource, and its calls")
    parser.add_argument("--bundle", metavar="FILE", help="read an incident bundle instead of a server's log")
    add_json_option(parser)
    add_connection_options(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: Namespace) -> int:
    """Replay."""
    _check(args)
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.eventstore.replay import BadPoint, parse_point  # noqa: PLC0415 - heavy
    from aegisipc.router.cli.replaying import replay  # noqa: PLC0415 - heavy

    if args.what_if is not None:
        from aegisipc.router.cli.what_if import check  # noqa: PLC0415 - only then

        check(args)
    for text in filter(None, (args.since, args.until, *(args.diff or ()))):
        try:
            parse_point(text)
        except BadPoint as error:
            args.usage_error(error.message)
    return run_async(replay(args))


def _check(args: Namespace) -> None:
    """Refuse what makes no sense together."""
    mode = next((name for name in _MODES if getattr(args, name) not in (None, False)), None)
    flag = f"--{(mode or '').replace('_', '-')}"
    if args.diff and (args.until or args.since):
        args.usage_error("--diff names both points: it goes with no --until and no --from")
    if args.follow and (args.until or args.since):
        args.usage_error("--follow begins now: it goes with no --until and no --from")
    if args.follow and args.bundle:
        args.usage_error("--follow: nothing is added to a bundle; leave one of the two out")
    if args.since and mode not in (None, "what_if"):
        args.usage_error(f"{flag} goes with no --from")
    _check_filters(args)
    if args.step and args.json:
        args.usage_error("--step is for people: it goes with no --json")
    if args.why and args.why[0] not in REASONS:
        args.usage_error(f"--why: KIND is one of {', '.join(REASONS)}, not {args.why[0]!r}")
    if args.from_beginning and (args.since or mode not in (None, "diff")):
        args.usage_error("--from-beginning goes with --until and --diff only; --verify begins there anyway")
    if args.policy and mode != "what_if":
        args.usage_error("--policy goes with --what-if only")


def _check_filters(args: Namespace) -> None:
    """Refuse filters where they say nothing."""
    filtered = args.service or args.group or args.resource
    if filtered and args.verify:
        args.usage_error("--verify folds the whole log: it goes with no --service, --group and --resource")
    if filtered and args.why:
        args.usage_error("--why names what it is about: it goes with no --service, --group and --resource")


VERB = Verb(
    "replay",
    "show the whole system at any moment, and why it was so",
    configure,
    run,
    description="""\
Show what the system looked like at a point of its log: who was active where, at which epoch, since when and
why; which calls were open, and how old; what was in doubt; and what the leading router was about to decide.
It is the same fold as a router's. Nothing is written, and no handler runs.

A POINT is one of
  2026-11-21T10:31:07.250Z   a time; without a zone it is UTC, as in all output
  10:31:07                   the latest such time of day
  -5m, -90s, -2h, -250ms     before now; in a bundle, before its end
  4711                       a sequence: the state after that record
  019a9e6e-8d5b…             a call, where it was accepted; 8 digits will do (last:… its latest word)
  start, end                 the first record, or everything
  group.promoted, in_doubt   the last such event or mark of a call (first:… the first one)
and before:POINT is the moment just before it, so that --diff before:X X is what X changed.""",
    examples="""\
aegis replay --until -5m                                     # the system, five minutes ago
aegis replay --diff before:group.promoted group.promoted     # what the last promotion changed
aegis replay --why group orders/g1                           # who holds the pen, and why
aegis replay --from first:instance.suspected --until end     # what happened since
aegis replay --bundle incident.aegis --until in_doubt        # on a laptop, without a server""",
)
