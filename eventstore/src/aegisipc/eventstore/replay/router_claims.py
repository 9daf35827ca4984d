"""What the routers of a namespace believe, in their own words: asked over plain NATS, each for itself."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import aclosing
from typing import Any, Final

from aegisipc.eventstore.errors import LogMissing, MalformedPayload, NotConnected
from aegisipc.eventstore.log import Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.replay.sources import Claim, Source
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system_snapshots import FOLD_VERSION

VERB: Final = "digest"
DEFAULT_WAIT_S: Final = 3.0
MAX_ANSWERS: Final = 1000

_RECENT_NS: Final = 2_000_000_000
"""Whoever was heard of since is expected to answer."""
_UNEXPECTED_S: Final = 0.5
"""For so long others may answer, too."""


async def router_claims(source: Source, *, wait_s: float = DEFAULT_WAIT_S) -> list[Claim]:
    """Ask every router for the digest of its state, and where in the log it is. A router that was heard of
    lately and has not answered after `wait_s` is in the list, too. Of a bundle nobody is asked.

    Raises:
        NotConnected: the connection was lost meanwhile.
        PermissionDenied: this user may not ask.
    """
    if source.connection is None:
        return []
    expected = await _heard_of(source)
    answers = _Answers(expected)
    await _ask(source.connection, source.subjects, answers, wait_s)
    silent = [_unknown(router, f"it has not answered within {wait_s:g} s") for router in answers.missing]
    return sorted([*answers.claims, *silent])


async def _heard_of(source: Source) -> set[str]:
    """Return the routers that pulse."""
    if source.pulses is None:
        return set()
    subjects = source.subjects
    try:
        now_ns = (await source.pulses.bounds()).now_ns
        reading = source.pulses.read(
            [subjects.pulse("router", "*")], start=Start(time_ns=max(0, now_ns - _RECENT_NS))
        )
        async with aclosing(reading) as pulses:
            return {subjects.parse_pulse(pulse.subject).id async for pulse in pulses}
    except LogMissing:  # the stream of heartbeats may be gone
        return set()


class _Answers:
    """Collects what comes."""

    def __init__(self, expected: set[str]) -> None:
        self.claims: list[Claim] = []
        self.missing = set(expected)
        self.is_nobody_there = False
        self.changed = asyncio.Event()

    def take(self, message: Message) -> None:
        if message.is_no_responders:
            self.is_nobody_there = True
        elif len(self.claims) < MAX_ANSWERS:
            router, claim = _read(message.payload)
            self.missing.discard(router)
            self.claims.append(claim)
        self.changed.set()


async def _ask(connection: Connection, subjects: Subjects, answers: _Answers, wait_s: float) -> None:
    inbox = f"{connection.options.inbox_prefix}.{secrets.token_hex(11)}"
    subscription = await connection.subscribe(inbox, answers.take)
    try:
        await connection.publish(subjects.api(VERB), b"{}", reply=inbox)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while not answers.is_nobody_there:
            patience_s = asked_at + (wait_s if answers.missing else min(wait_s, _UNEXPECTED_S)) - loop.time()
            if patience_s <= 0:
                break
            answers.changed.clear()
            try:
                await asyncio.wait_for(answers.changed.wait(), patience_s)
            except TimeoutError:
                continue
    finally:
        await subscription.unsubscribe()
    if not connection.is_connected:
        raise NotConnected("cannot ask the routers: the connection was lost; try again")


def _read(payload: bytes) -> tuple[str, Claim]:
    """Read an answer: whose it is, and what it claims."""
    try:
        told = json.loads(payload)
        router = _typed(told, "router", str)
        if told.get("ok") is not True:
            error = told.get("error")
            return router, _unknown(router, f"it says: {error}")
        found = _typed(told, "fold_version", int)
        seq, digest = _typed(told, "position", int), _typed(told, "digest", str)
    except (ValueError, TypeError, AttributeError, RecursionError, MalformedPayload) as error:
        return "", Claim("a router", 0, "", f"its answer cannot be read: {error}")
    why_not = ""
    if found != FOLD_VERSION:
        why_not = f"version {found} of the fold made it, and this is version {FOLD_VERSION}"
    return router, Claim(f"router {router}", seq, digest, why_not)


def _typed[T](told: Any, name: str, kind: type[T]) -> T:
    value = told.get(name)
    if type(value) is not kind:
        raise MalformedPayload(f"its {name} is {value!r:.40}")
    return value


def _unknown(router: str, why: str) -> Claim:
    return Claim(f"router {router}", 0, "", why)
