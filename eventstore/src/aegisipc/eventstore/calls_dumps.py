"""The header-only fold of a group's calls as plain data, whole: what its future depends on is kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from aegisipc.eventstore import dump_forms as form
from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.open_calls import Evidence, OpenCall

_CALLS: Final = (
    form.TEXT_OR_NONE,  # holder
    form.NUMBER,  # epoch
    form.INT,  # accepted
    form.LIST,  # concluded
    form.LIST,  # anomalies
    form.LIST,  # sessions
    form.LIST,  # open
    form.LIST,  # dead letters that came again
    form.LIST,  # where dead letters stand
)
_CALL: Final = (
    form.BINARY,  # call id
    form.TEXT,  # client
    form.TEXT,  # method
    form.TEXT_OR_NONE,  # resource
    form.INT,  # seq
    form.NUMBER,  # deadline
    form.INT,  # accepted
    form.INT,  # since
    form.TEXT,  # state
    form.TEXT_OR_NONE,  # claimed by
    form.INT,  # claimed epoch
    form.INT,  # attempts
    form.LIST_OR_NONE,  # evidence
    form.TEXT_OR_NONE,  # key
    form.NUMBER,  # priority
    form.NUMBER,  # tries
    form.NUMBER,  # next attempt
    form.LIST_OR_NONE,  # who wants it cancelled, and why
    form.FLAG,  # whether it was a dead letter before
    form.INT,  # latest claim or doubt
    form.NUMBER,  # dead letter from which it came back
)
_STATES: Final = {state: state.value for state in CallState}
_ID_BYTES: Final = 16
_NUMBERS: Final = [at for at, kind in enumerate(_CALL) if kind is form.NUMBER]
_EVIDENCE_AT: Final = 12
_CANCEL_AT: Final = 17
_EVIDENCE: Final = (form.INT, form.BINARY_OR_NONE, form.TEXT, form.LIST)


def dump_calls(calls: GroupCalls) -> list[Any]:
    """Return the fold as plain data that MessagePack can carry. Equal folds give equal data."""
    return [
        calls.holder,
        form.number(calls.epoch),
        calls.accepted,
        [[int(mark), count] for mark, count in sorted(calls.concluded.items())],
        form.dump_counts(calls.anomalies),
        calls.sessions.dump(),
        [_dump_call(call) for call in calls.open.values()],
        [_dump_call(call) for call in calls.requeueing.values()],
        calls.letters.dump(),
    ]


def _dump_call(call: OpenCall) -> Sequence[Any]:
    """As :data:`_CALL` says. There may be 100,000 calls, so what few of them have is looked at last."""
    fields = (
        call.call_id,
        call.client,
        call.method,
        call.resource,
        call.seq,
        call.deadline_ns,
        call.accepted_ns,
        call.since_ns,
        _STATES[call.state],
        call.claimed_by,
        call.claimed_epoch,
        call.attempts,
        call.evidence,
        call.key,
        call.priority,
        call.tries,
        call.retry_at_ns,
        call.cancel,
        call.is_requeued,
        call.said_seq,
        call.dead_seq,
    )
    seldom = call.evidence, call.cancel, call.tries, call.retry_at_ns, call.is_requeued, call.dead_seq
    if not any(seldom):
        return fields
    plain: list[Any] = list(fields)
    for at in _NUMBERS:  # only what came from a body can be big
        plain[at] = form.number(plain[at])
    if call.evidence is not None:
        mark, body, writer, emitted = call.evidence
        plain[_EVIDENCE_AT] = [int(mark), body, writer, list(emitted)]
    if call.cancel is not None:
        plain[_CANCEL_AT] = list(call.cancel)
    return plain


def load_calls(plain: Any, *, is_fenced: bool) -> GroupCalls:
    """Return the fold that :func:`dump_calls` was given.

    Raises:
        one of ``dump_forms.UNREADABLE``: it does not hold together.
    """
    holder, epoch, accepted, concluded, anomalies, *rest = form.typed(plain, _CALLS)
    sessions, open_calls, requeueing, letters = rest
    calls = GroupCalls(keep_bodies=False, is_fenced=is_fenced)
    calls.hold(holder, form.read_number(epoch))
    calls.accepted = accepted
    calls.concluded.update(
        form.unique((Mark(mark), count) for mark, count in form.each(concluded, (form.INT, form.INT)))
    )
    calls.anomalies.update(form.load_counts(anomalies))
    calls.sessions.load(form.each(sessions, (form.TEXT, form.INT, form.INT)))
    calls.open = form.unique(map(_load_call, open_calls))
    calls.requeueing = OrderedDict(form.unique(map(_load_call, requeueing)))
    calls.letters.load(form.each(letters, (form.BINARY, form.INT)))
    return calls


def _load_call(plain: Any) -> tuple[CallId, OpenCall]:
    call_id, client, method, resource, seq, deadline, *rest = form.typed(plain, _CALL)
    if len(call_id) != _ID_BYTES:
        raise ValueError("a call id is none")
    accepted_ns, since_ns, state, claimed_by, claimed_epoch, attempts, evidence, key, *rest = rest
    priority, tries, due, cancel, is_requeued, said_seq, dead_seq = rest
    call = OpenCall(call_id, client, method, resource, seq, form.read_number(deadline), b"", since_ns)
    call.accepted_ns = accepted_ns
    call.state = CallState(state)
    call.claimed_by, call.claimed_epoch, call.attempts = claimed_by, claimed_epoch, attempts
    call.evidence = None if evidence is None else _load_evidence(evidence)
    call.key, call.priority = key, form.read_number(priority)
    call.tries, call.retry_at_ns = form.read_number(tries), form.read_number(due)
    if cancel is not None:
        author, reason = form.typed(cancel, (form.TEXT, form.TEXT))
        call.cancel = author, reason
    call.is_requeued = is_requeued
    call.said_seq, call.dead_seq = said_seq, form.read_number(dead_seq)
    return call_id, call


def _load_evidence(plain: Any) -> Evidence:
    mark, body, writer, emitted = form.typed(plain, _EVIDENCE)
    return Evidence(Mark(mark), body, writer, tuple(form.typed(emitted, (form.BINARY,) * len(emitted))))
