"""Submitting a lane's entries one after another, and looking up those that may have been accepted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from aegisipc.eventstore.errors import AegisError
from aegisipc.sdk.client_options import DEFAULT_TIMEOUT_S
from aegisipc.sdk.core.outbox import FindOut, Plan, Send, Status, Verdict, verdict_of
from aegisipc.sdk.encoded import EncodedArguments
from aegisipc.sdk.errors import CallUnknown
from aegisipc.sdk.outbox.errors import pack_error
from aegisipc.sdk.outbox.following import Followers, Submitted, Submitter
from aegisipc.sdk.outbox.notes import Accepted, Ended, Held, Note
from aegisipc.sdk.outbox.store import Known, ToSend

_log = structlog.get_logger("aegisipc.outbox")

type Rows = Mapping[int, ToSend]


class Sender:
    """Does what the plan says, and tells the plan and the database what came of it."""

    def __init__(
        self,
        client: Submitter,
        plan: Plan,
        followers: Followers,
        note: Callable[[Note], None],
        *,
        settle_s: float,
        clock_ns: Callable[[], int],
    ) -> None:
        self._client = client
        self._plan = plan
        self._followers = followers
        self._note = note
        self._settle_ns = int(settle_s * 1e9)
        self._clock_ns = clock_ns

    # -- sending ----------------------------------------------------------------------------------------

    async def send(self, step: Send, rows: Rows) -> None:
        """Submit entries one after another, until one cannot go now."""
        untouched = list(step.entry_ids)
        try:
            while untouched:
                entry_id = untouched[0]
                row = rows.get(entry_id)
                if row is not None and self._plan.header(entry_id).is_late(self._clock_ns()):
                    break
                untouched.pop(0)
                if row is None:  # somebody else has removed it, or brought it to its end
                    self._plan.done(entry_id)
                elif not await self._submit(row, was_fresh=entry_id in step.fresh):
                    break
        finally:
            for entry_id in step.fresh.intersection(untouched):
                self._note(Held(entry_id, is_uncertain=False, trouble=None))
            self._plan.returned(step.lane)

    async def _submit(self, row: ToSend, *, was_fresh: bool) -> bool:
        """Submit an entry. Returns whether the one behind it may go."""
        try:
            pending = await self._client.submit(
                f"{row.service}.{row.method}",
                EncodedArguments(row.body),
                resource_id=row.resource,
                timeout=self._timeout_s(row),
                idempotency_key=row.key,
                priority=row.priority,
            )
        except Exception as error:  # noqa: BLE001 - judged below
            return self._refused(row, error, was_fresh=was_fresh)
        self._accepted(row.entry_id, pending.call_id)
        self._followers.follow(row.entry_id, pending)
        return True

    def _timeout_s(self, row: ToSend) -> float:
        """An entry that expires is not sent later than that, nor does its call start later than that."""
        options = getattr(self._client, "options", None)
        default_s: float = getattr(options, "timeout_s", DEFAULT_TIMEOUT_S)
        timeout_s = default_s if row.timeout_s is None else row.timeout_s
        expires_ns = self._plan.header(row.entry_id).expires_ns
        if expires_ns is None:
            return timeout_s
        return min(timeout_s, max(0.001, (expires_ns - self._clock_ns()) / 1e9))

    def _accepted(self, entry_id: int, call_id: str) -> None:
        self._note(Accepted(entry_id, call_id))
        self._plan.done(entry_id)

    def _refused(self, row: ToSend, error: Exception, *, was_fresh: bool) -> bool:
        verdict = verdict_of(error)
        if verdict is Verdict.REFUSED and isinstance(error, AegisError):
            _log.warning("outbox_entry_refused", entry=row.entry_id, error=error.message)
            refusal = Ended(row.entry_id, Status.FAILED, error=pack_error(error), is_refusal=was_fresh)
            self._note(refusal)
            self._plan.done(row.entry_id)
            return True
        is_uncertain = verdict is not Verdict.NOT_NOW or not was_fresh
        call_id = getattr(error, "call_id", None) if verdict is Verdict.UNKNOWN else None
        self._hold(row, error, is_uncertain=is_uncertain, call_id=call_id)
        return False

    def _hold(
        self, row: ToSend, error: Exception | str, *, is_uncertain: bool, call_id: str | None = None
    ) -> None:
        trouble = error if isinstance(error, str) else _shown(error)
        self._note(Held(row.entry_id, is_uncertain, trouble, call_id))
        failures = self._plan.blocked(
            row.entry_id,
            is_uncertain=is_uncertain,
            steady_ns=time.monotonic_ns(),
            spread=random.random(),  # noqa: S311 - not a secret
        )
        log = _log.warning if failures == 1 else _log.debug
        log("outbox_entry_held", entry=row.entry_id, target=f"{row.service}.{row.method}", error=trouble)

    # -- finding out ------------------------------------------------------------------------------------

    async def find_out(self, step: FindOut, rows: Rows) -> None:
        """An entry's time is up, and it may have been accepted: ask the log."""
        row = rows.get(step.entry_id)
        if row is None:  # somebody else has removed it, or brought it to its end
            self._plan.done(step.entry_id)
            return
        try:
            pending = await self._look_up(row)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is asked again
            self._hold(row, error, is_uncertain=True)
            return
        if pending is not None:
            self._accepted(row.entry_id, pending.call_id)
            self._followers.follow_known(Known(row.entry_id, pending.call_id, is_in_doubt=False))
        elif self._clock_ns() - max(row.tried_ns, row.expires_ns) < self._settle_ns:
            self._hold(row, "it may just be on its way into the log", is_uncertain=True)
        else:
            self._note(Ended(row.entry_id, Status.EXPIRED, is_refusal=True))
            self._plan.done(row.entry_id)

    async def _look_up(self, row: ToSend) -> Submitted | None:
        """Return the call that has the entry's key, or had it when it was sent; ``None``: there is none."""
        asked: list[dict[str, Any]] = [{"call_id": row.call_id}] if row.call_id else []
        asked.append({"idempotency_key": row.key, "service": row.service, "resource_id": row.resource})
        for question in asked:
            try:
                found: Submitted = await self._client.attach(**question)
            except CallUnknown:
                continue
            return found
        return None


def _shown(error: Exception) -> str:
    if isinstance(error, AegisError):
        return f"{type(error).__name__}: {error.message}"
    return repr(error)
