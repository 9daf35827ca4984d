"""Does what ``aegis replay`` was asked for."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aegisipc.eventstore import replay as history
from aegisipc.eventstore.checkpoints import SkippedSnapshot
from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.cli.running import interruptible
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.replay import Filters, Point, Source
from aegisipc.eventstore.replay.folding import WINDOW_S
from aegisipc.eventstore.system import SystemState
from aegisipc.router.cli.replay_deciding import about_to_decide
from aegisipc.router.domain.terms import policy_in

MAX_LISTED_JSON: Final = 1000
"""Open calls in JSON; people are shown the oldest few."""

MAX_COMPARED: Final = 10_000
"""Open calls that are compared one by one."""

type Mode = Callable[[Namespace, Source, Point], Awaitable[int]]
type Plain = dict[str, Any]


async def replay(args: Namespace) -> int:
    """Replay as the arguments say; returns the exit code."""
    filters = history.filters_of(args.service, args.group, args.resource)
    async with opened(args) as source:
        if args.what_if is not None:
            return await _what_if(args, source, filters)
        if args.why or args.step or args.verify:
            point = await history.resolve(source, args.until or "end", filters)
            return await _mode(args)(args, source, point)
        if args.diff:
            return await _diff(args, source, filters)
        if args.since:
            return await _list(args, source, filters)
        if args.follow:
            return await _follow(args, source, filters)
        return await _show(args, source, filters)


@asynccontextmanager
async def opened(args: Namespace) -> AsyncIterator[Source]:
    """Open the bundle or the log that the arguments name."""
    if args.bundle:
        with interruptible():  # all of it is read
            source = history.open_bundle(args.bundle)
        yield source
    else:
        async with history.open_live(args.url, args.namespace) as source:
            yield source


def _mode(args: Namespace) -> Mode:
    """Return what does one thing at a point; each has a module of its own, imported only then."""
    if args.why:
        from aegisipc.router.cli import why  # noqa: PLC0415 - see above

        return why.run
    if args.step:
        from aegisipc.router.cli import stepping  # noqa: PLC0415 - see above

        return stepping.run
    from aegisipc.router.cli import checking  # noqa: PLC0415 - see above

    return checking.run


async def _what_if(args: Namespace, source: Source, filters: Filters) -> int:
    from aegisipc.router.cli import what_if  # noqa: PLC0415 - only then

    since = await history.resolve(source, args.since, filters) if args.since else None
    until = await history.resolve(source, args.until or "end", filters)
    if since is not None:
        history.check_order(since, until)
    return await what_if.run(args, source, since, until)


# -- one point, or two ----------------------------------------------------------------------------------


async def folded(
    source: Source, point: Point, *, from_beginning: bool = False
) -> tuple[SystemState, PulseBoard]:
    """Fold log and heartbeats to a point; of snapshots that are of no use, stderr is told."""
    state = await history.state_at(source, point, from_beginning=from_beginning, on_skip=warn_of)
    return state, await _board(source, state, point)


async def _board(source: Source, state: SystemState, point: Point) -> PulseBoard:
    """The heartbeats as the leader saw them, by its policy, and far back enough to see all that it calls
    silence.
    """
    policy = policy_in(state.topology.leadership.policy)
    longest_s = max(policy.lost_after_ms, policy.leader_after_ms) / 1000
    return await history.board_at(
        source, point, gap_ms=policy.suspect_after_ms // 2, window_s=WINDOW_S + longest_s
    )


def warn_of(skipped: SkippedSnapshot) -> None:
    """Tell of a snapshot that was not used."""
    say(
        f"warning: the snapshot at sequence {skipped.seq} is skipped ({skipped.why}); reading from further "
        "back instead, which takes longer and gives the same"
    )


async def _show(args: Namespace, source: Source, filters: Filters) -> int:
    point = await history.resolve(source, args.until or "end", filters)
    state, board = await folded(source, point, from_beginning=args.from_beginning)
    history.check_filters(filters, history.names_in(state))
    view = history.view_of(state, board, point, filters, max_listed=MAX_LISTED_JSON)
    view["about_to_decide"] = about_to_decide(state, board, point, filters)
    if args.json:
        print_json({"source": source.about, **view})
        return 0
    from aegisipc.router.cli.replay_panes import as_text  # noqa: PLC0415 - not for programs

    print(as_text(view, source.about, Paint(), columns=columns()))
    return 0


def columns() -> int | None:
    """How wide the terminal is; ``None`` if stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


async def _diff(args: Namespace, source: Source, filters: Filters) -> int:
    first = await history.resolve(source, args.diff[0], filters)
    second = await history.resolve(source, args.diff[1], filters)
    history.check_order(first, second)
    state, board = await folded(source, first, from_beginning=args.from_beginning)
    before = history.view_of(state, board, first, filters, max_listed=MAX_COMPARED)
    known = history.names_in(state)
    await history.fold_on(source, state, second.seq)
    history.check_filters(filters, known, history.names_in(state))
    board = await _board(source, state, second)
    after = history.view_of(state, board, second, filters, max_listed=MAX_COMPARED)
    _drop_uncompared(before, after, first.seq)
    changes = history.diff(before, after)
    if args.json:
        print_json(
            {
                "source": source.about,
                "from": before["point"],
                "to": after["point"],
                "changes": [change.to_plain() for change in changes],
            }
        )
        return 0
    from aegisipc.router.cli.replay_changes import as_text  # noqa: PLC0415 - not for programs

    print(as_text(before, after, changes, source.about, Paint()))
    return 0


def _drop_uncompared(before: Plain, after: Plain, seq: int) -> None:
    """Of calls that were not listed before, for there were too many, nobody knows what changed: they would
    look new as soon as older ones are gone.
    """
    for name in ("open", "retrying"):
        if before[name]["left_out"]:
            known, listed = before[name]["oldest_first"], after[name]["oldest_first"]
            kept = {call: each for call, each in listed.items() if call in known or each["seq"] > seq}
            after[name]["oldest_first"] = kept
    if before["open"]["left_out"]:
        say(f"warning: only the {MAX_COMPARED:,} oldest open calls are compared one by one")


# -- many ----------------------------------------------------------------------------------------------------


async def _list(args: Namespace, source: Source, filters: Filters) -> int:
    from aegisipc.router.cli.replay_events import list_events  # noqa: PLC0415 - only then

    first = await history.resolve(source, args.since, filters)
    last = await history.resolve(source, args.until or "end", filters)
    history.check_order(first, last)
    return await list_events(source, first, last, filters, as_json=args.json)


async def _follow(args: Namespace, source: Source, filters: Filters) -> int:
    from aegisipc.router.cli.replay_following import follow_changes  # noqa: PLC0415 - only then

    point = await history.resolve(source, "end")
    state, board = await folded(source, point)
    history.check_filters(filters, history.names_in(state))
    view = history.view_of(state, board, point, filters, max_listed=MAX_LISTED_JSON)
    if args.json:
        print_json({"source": source.about, **view})
    else:
        from aegisipc.router.cli.replay_panes import as_text  # noqa: PLC0415 - not for programs

        print(as_text(view, source.about, Paint(), columns=columns()), flush=True)
    return await follow_changes(source, state, point, filters, as_json=args.json)
