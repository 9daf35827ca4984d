"""``aegis calls show``: from the log, and where that cannot be read from the read model."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING, Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.errors import AegisError, LogMissing, NotConnected, ServerUnsuitable, UnknownCall
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.replay.finding import MAX_CANDIDATES, AmbiguousCall, calls_beginning_with
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.needing_sql import require_sql
from aegisipc.router.cli.stories import as_plain, as_text

if TYPE_CHECKING:
    from aegisipc.eventstore.sql.queries import CallStory
    from aegisipc.eventstore.sql.reading import Answer

_NOT_IN_THE_LOG: Final = (NotConnected, ServerUnsuitable, LogMissing, UnknownCall)
"""Why the read model is asked instead, if there is one."""


async def show(args: Namespace) -> int:
    """Print what is known of the call whose id begins with the digits ``args.call``."""
    try:
        history = await _from_log(args)
    except _NOT_IN_THE_LOG as error:
        if args.sql is None:
            raise
        answer = await _from_model(args, error)
        _print_story(args, answer, error)
        return 0
    if args.json:
        print_json(as_plain(history))
    else:
        print(as_text(history, Paint()))
    return 0


async def _from_log(args: Namespace) -> CallHistory:
    subjects = subjects_of(args.namespace)
    async with await Connection.open(ConnectOptions(args.url, name="aegis:calls")) as connection:
        log = await open_log(connection, subjects)
        call = await calls_beginning_with(log, subjects, args.call)
        return await read_history(log, subjects, call.call_id)


async def _from_model(args: Namespace, why: AegisError) -> Answer[CallStory]:
    require_sql()
    from aegisipc.eventstore.sql import queries  # noqa: PLC0415 - heavy, and seldom needed
    from aegisipc.eventstore.sql.errors import ReadModelError  # noqa: PLC0415 - as above
    from aegisipc.eventstore.sql.reading import Answer, ask  # noqa: PLC0415 - as above

    try:
        found, checkpoint = await ask(
            args.sql,
            lambda connection: queries.stories_beginning_with(connection, args.call, MAX_CANDIDATES + 1),
            namespace=args.namespace,
        )
    except ReadModelError as error:
        say(f"the read model cannot tell either: {error.message}")
        raise why from error
    if not found:
        level = checkpoint["level"]
        hint = "" if level == "all" else f" (its call log level is {level!r}, so it does not have all calls)"
        raise UnknownCall(
            f"cannot find call {args.call}: the read model does not have it{hint}, and "
            f"the log could not tell: {why.message}",
            call_id=args.call,
        ) from why
    if len(found) > 1:
        shown = [story.call["call_id"] for story in found[:MAX_CANDIDATES]]
        raise AmbiguousCall(
            f"cannot tell which call {args.call!r} is: several ids begin so; give more digits of one of"
            + "".join(f"\n  {candidate}" for candidate in shown)
            + ("\n  and others" if len(found) > MAX_CANDIDATES else ""),
            digits=args.call,
            candidates=shown,
        )
    return Answer(found[0], checkpoint)


def _print_story(args: Namespace, answer: Answer[CallStory], why: AegisError) -> None:
    from aegisipc.router.cli import history_tables as tables  # noqa: PLC0415 - heavy, and seldom needed
    from aegisipc.router.cli.summaries import story_text  # noqa: PLC0415 - as above

    say(f"only what the read model knows is shown: {why.message}")
    if args.json:
        print_json(tables.story_plain(answer.value, answer.checkpoint))
        return
    now_ns, paint = time.time_ns(), Paint()
    print(story_text(answer.value, now_ns, paint))
    print(tables.freshness(answer.checkpoint, now_ns, paint))
