"""``aegis call``: call a method from a terminal or a script."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from aegisipc.eventstore.cli import Verb, add_connection_options, add_json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from aegisipc.sdk.client import Client
    from aegisipc.sdk.pending import Pending

_OF_THE_CALL = frozenset({"returns", "resource_id", "timeout", "idempotency_key", "priority"})
_PRIORITIES = ("low", "normal", "high")


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "target", nargs="?", metavar="SERVICE.METHOD", help="what to call; with --attach-key, the SERVICE"
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="ARG", help="an argument, as JSON: 5, true, '\"text\"', '{…}'"
    )
    parser.add_argument(
        "--kw", action="append", default=[], metavar="NAME=JSON", help="an argument by name; repeatable"
    )
    parser.add_argument("--resource-id", metavar="ID", help="the resource that the call is about")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="deadline of the call (default: 30); with --attach, --attach-key and --cancel, how long to wait "
        "for the outcome",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="idempotency key: of all calls with the same one, and the same arguments, one runs",
    )
    parser.add_argument(
        "--priority",
        choices=_PRIORITIES,
        default="normal",
        help="which calls a busy instance runs first (default: normal)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--submit", action="store_true", help="make the call durable, print its id, do not wait")
    how.add_argument("--attach", metavar="CALL_ID", help="print the outcome of a call that was made before")
    how.add_argument(
        "--attach-key",
        metavar="KEY",
        help="print the outcome of the call of SERVICE (and --resource-id) that has this idempotency key",
    )
    how.add_argument(
        "--cancel",
        metavar="CALL_ID",
        help="cancel a call that was made before: it does not start, or its handler is cancelled",
    )
    parser.add_argument("--reason", metavar="TEXT", help="with --cancel: why, for the record")
    parser.add_argument("--name", metavar="CLIENT", help="this client's stable name (default: made up)")
    add_json_option(parser)
    add_connection_options(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: Namespace) -> int:
    """Make the call, or attach to one."""
    positional, named = _check(args)

    from aegisipc.eventstore.cli.running import run_async  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.sdk.client import connect  # noqa: PLC0415 - heavy

    return run_async(
        _call(connect(args.url, namespace=args.namespace, name=args.name), args, positional, named)
    )


def _check(args: Namespace) -> tuple[list[Any], dict[str, Any]]:
    """Refuse what makes no sense together, and read the arguments."""
    _check_way(args)
    if args.timeout is not None and not args.timeout > 0:
        args.usage_error("--timeout: give a number of seconds above 0")
    positional = [_parsed(text, f"argument {i}", args) for i, text in enumerate(args.arguments, 1)]
    named: dict[str, Any] = {}
    for pair in args.kw:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            args.usage_error(f"--kw {pair}: write NAME=JSON, as in --kw quantity=5")
        if name in named:
            args.usage_error(f"--kw {name} is given twice")
        if name in _OF_THE_CALL:
            args.usage_error(f"--kw {name}: that is the call's own; give this argument by position")
        named[name] = _parsed(text, f"--kw {name}", args)
    return positional, named


def _check_way(args: Namespace) -> None:
    """Refuse what does not go with the way in which a call is named."""
    for option in ("attach", "cancel"):
        if getattr(args, option) is not None and (args.target is not None or args.kw):
            args.usage_error(
                f"--{option} takes the call's id and nothing else: no SERVICE.METHOD, no arguments"
            )
    is_made_before = args.attach is not None or args.cancel is not None or args.attach_key is not None
    if args.attach_key is not None:
        if args.target is None or args.arguments or args.kw:
            args.usage_error("--attach-key takes the SERVICE beside the key, and --resource-id: no arguments")
    elif args.target is None and not is_made_before:
        args.usage_error("name what to call (SERVICE.METHOD), or a call to --attach to or to --cancel")
    if is_made_before and (args.key is not None or args.priority != "normal"):
        args.usage_error("--key and --priority are for calls that are made now")
    if args.reason is not None and args.cancel is None:
        args.usage_error("--reason is for --cancel")


def _parsed(text: str, what: str, args: Namespace) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        hint = (
            f"; quote text for JSON and for the shell: '{json.dumps(text)}'" if _looks_like_text(text) else ""
        )
        args.usage_error(f"{what} is not JSON: {text!r} ({error}){hint}")
        raise


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


def _looks_like_text(text: str) -> bool:
    return not text.startswith(("{", "[", '"')) and "'" not in text


async def _call(
    connecting: AbstractAsyncContextManager[Client],
    args: Namespace,
    positional: list[Any],
    named: dict[str, Any],
) -> int:
    async with connecting as client:
        if args.cancel is not None:
            await client.attach(args.cancel).cancel(args.reason or "", args.timeout)
            _show_cancelled(args)
            return 0
        if args.attach is not None or args.attach_key is not None:
            pending = await _attached(client, args)
            _show(args, pending.call_id, await pending.result(args.timeout))
            return 0
        pending = await client.submit(
            args.target,
            *positional,
            resource_id=args.resource_id,
            timeout=args.timeout,
            idempotency_key=args.key,
            priority=args.priority,
            **named,
        )
        if args.submit:
            _show_submitted(args, pending)
        else:
            _show(args, pending.call_id, await pending.result())
    return 0


async def _attached(client: Client, args: Namespace) -> Pending:
    if args.attach is not None:
        return await client.attach(args.attach)
    service = args.target.partition(".")[0]
    return await client.attach(idempotency_key=args.attach_key, service=service, resource_id=args.resource_id)


def _show_cancelled(args: Namespace) -> None:
    from aegisipc.eventstore.cli.output import print_json  # noqa: PLC0415 - see eventstore.cli

    if args.json:
        print_json({"call_id": args.cancel, "state": "cancelled"})
    else:
        print("cancelled")


def _show_submitted(args: Namespace, pending: Pending) -> None:
    """The id alone on standard output, for scripts; what the receipt says is for people."""
    from dataclasses import asdict  # noqa: PLC0415 - see eventstore.cli

    from aegisipc.eventstore.cli import say  # noqa: PLC0415 - see eventstore.cli
    from aegisipc.eventstore.cli.output import print_json  # noqa: PLC0415 - see eventstore.cli

    receipt = pending.receipt
    if args.json:
        print_json({"call_id": pending.call_id, "receipt": asdict(receipt)})
        return
    print(pending.call_id)
    copies = "1 copy" if receipt.replicas == 1 else f"{receipt.replicas} copies"
    say(f"durable: {receipt.durability}, {copies}, sync {receipt.fsync}, sequence {receipt.seq} of the log")


def _show(args: Namespace, call_id: str, result: object) -> None:
    from aegisipc.eventstore.cli.output import pretty_json, print_json  # noqa: PLC0415 - see eventstore.cli

    if args.json:
        print_json({"call_id": call_id, "result": result})
    else:
        print(pretty_json(result))


VERB = Verb(
    "call",
    "call a method, and print its result",
    configure,
    run,
    description="""\
Call a method of a service and print its result as JSON.

The call is durable once it is accepted: with --submit its id is all that is waited for, and --attach prints
its outcome later, from anywhere. Beside the id, --submit says what the server's word is worth: memory,
written (to the file system's cache), fsynced (to the disk) or replicated.

With --key a call may be made again and again, by anybody, and runs once: each has the first one's outcome.
--attach-key finds it without its id. --cancel asks for a call not to start, or its handler to be cancelled;
whether that was in time, it says.

Exit code 1 says that the call has an error as its outcome, no outcome in time, or could not be cancelled; the
message says which.""",
    examples="""\
aegis call orders.position '"acc_1"' --resource-id acc_1
aegis call orders.place '{"symbol": "ABC", "quantity": 5}' --resource-id acc_1 --json
aegis call orders.place --kw order='{"symbol": "ABC", "quantity": 5}' --resource-id acc_1 --submit
aegis call orders.place '{"symbol": "ABC"}' --resource-id acc_1 --key order-17 --priority high
aegis call --attach 019a9e6e-8d5b-7000-8000-3b9aca000001
aegis call --attach-key order-17 orders --resource-id acc_1
aegis call --cancel 019a9e6e-8d5b-7000-8000-3b9aca000001 --reason "wrong account\"""",
    intermixed=True,
)
