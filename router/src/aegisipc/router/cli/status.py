"""``aegis status``: who serves what, who is active, who leads."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--all", action="store_true", help="also show groups without a live instance, open call or holder"
    )
    add_json_option(parser)
    add_connection_options(parser)


def run(args: Namespace) -> int:
    """Print the status."""
    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.router.cli.reporting import report  # noqa: PLC0415 - heavy

    return run_async(report(args))


VERB = Verb(
    "status",
    "show services, groups, who is active, and who leads",
    configure,
    run,
    description="""\
Show what the log says: services and groups, who is active at which epoch, standbys, who leads and who follows
among the routers. Below the table stands what somebody should look at: handovers under way, groups that are
paused, congested or that nobody holds, calls in doubt, instances that are suspected, unhealthy, draining, in
quarantine, or whose frames the fence refused. An instance marked with ! is one of them.

It is read from the log itself, so it works without any router; open calls and those in doubt are counted by
the router if one answers, else by the active instance. Exit code 1 if there is no server or no log.""",
    examples="""\
aegis status
aegis status --namespace trading --json""",
)
