"""Cancelling a call: a request in the log, and what came of it."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Final

from aegisipc.eventstore.cli.output import print_json, printable
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.events import CancelRequested, encode_event
from aegisipc.eventstore.histories import CallHistory
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Log, Record, Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.router.cli.asking import NotInTime
from aegisipc.router.cli.stories import outcome_plain, said_of

OPERATOR: Final = "_operator"
"""Who writes requests of operators; their names are in the request."""


class CallFinished(AegisError):
    """The call is over. Fields: ``call_id``, ``state``."""

    code = "call_finished"


async def cancel(args: Namespace, call_id: CallId) -> int:
    """Ask for the end of a call, and print how it ended."""
    subjects = subjects_of(args.namespace)
    async with await Connection.open(ConnectOptions(args.url, name="aegis:calls")) as connection:
        log = await open_log(connection, subjects)
        history = await read_history(log, subjects, call_id)
        if _is_over(history):
            raise _finished(history)
        seq = await _request(log, subjects, history, args)
        if not args.no_wait:
            await _ended(log, history, args.timeout)
    if not args.no_wait and history.state is not CallState.CANCELLED:
        raise _finished(history)
    if args.json:
        outcome = None if history.outcome is None else outcome_plain(history.outcome)
        shown = {"call_id": format_call_id(call_id), "seq": seq, "state": str(history.state)}
        print_json({"ok": True, **shown, "outcome": outcome, "author": args.author, "reason": args.reason})
    else:
        print(_told(history, seq))
    return 0


async def _request(log: Log, subjects: Subjects, history: CallHistory, args: Namespace) -> int:
    call = history.call
    shown = format_call_id(call.call_id)
    event = CancelRequested(call_ids=(shown,), author=args.author, reason=args.reason)
    subject = subjects.cancel(call.service, call.group, OPERATOR)
    return (await log.append(subject, encode_event(event))).seq


async def _ended(log: Log, history: CallHistory, timeout_s: float) -> None:
    """Follow the call to its end.

    Raises:
        NotInTime: it has none yet; the request stands.
    """
    over = asyncio.Event()
    read_to = max(step.seq for step in history.steps)

    def look(record: Record) -> None:
        if record.seq > read_to:
            history.apply(record)
        if _is_over(history):
            over.set()

    following = await log.follow(history.subjects, look, start=Start(read_to + 1))
    try:
        async with asyncio.timeout(timeout_s):
            await over.wait()
    except TimeoutError:
        why = (
            "it is in doubt, and will be cancelled if it is found not to have run"
            if history.state is CallState.IN_DOUBT
            else "nobody has acted on it yet"
        )
        raise NotInTime(
            f"the request is in the log and stands, but call {format_call_id(history.call.call_id)} has not "
            f"ended within {timeout_s:g} s: {why}; aegis calls show tells how it goes on",
            timeout_s=timeout_s,
            state=str(history.state),
        ) from None
    finally:
        await following.stop()


def _is_over(history: CallHistory) -> bool:
    return history.is_final or history.state is CallState.DEAD_LETTERED


def _finished(history: CallHistory) -> CallFinished:
    shown, state = format_call_id(history.call.call_id), str(history.state)
    latest = next(step for step in reversed(history.steps) if step.counts and step.event is None)
    return CallFinished(
        f"cannot cancel call {shown}: it is over ({said_of(latest)}, sequence {latest.seq})",
        call_id=shown,
        state=state,
    )


def _told(history: CallHistory, seq: int) -> str:
    call = history.call
    name = printable(f"{format_call_id(call.call_id)} ({call.service}.{call.method})")
    if history.state is not CallState.CANCELLED:
        return f"asked for the end of call {name} at sequence {seq}"
    latest = next(step for step in reversed(history.steps) if step.counts and step.event is None)
    return f"call {name} {said_of(latest)} (sequence {latest.seq})"
