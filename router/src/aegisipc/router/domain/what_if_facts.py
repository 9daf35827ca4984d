"""What a simulation takes from a recorded history: how patient its routers were, what they heard beside the
heartbeats, and what operators wished.

Decisions are no facts, but they carry some: a suspicion says in its evidence what a server told of a
connection, or that an instance did not answer. A hint from which no decision followed is not in the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.pulses import MAX_MISSES, ConnectionId, InstanceKey, PulseBoard
from aegisipc.eventstore.subjects import GROUP_WHO, HA, TERM, Place, Subjects
from aegisipc.eventstore.topology import GroupView
from aegisipc.router.domain.requests import Promote
from aegisipc.router.domain.terms import MAX_MS, POLICY_KEYS, Policy, RouterIdentity, policy_in

_PROBED: Final = f"{MAX_MISSES} probes in a row had no answer: "
_PROMOTED_BY: Final = "promoted by "


class BadPolicy(AegisError):
    """That cannot be a policy. Field: ``keys``, those that there are."""

    code = "bad_policy"


def read_policy(texts: Sequence[str]) -> dict[str, int]:
    """Read ``KEY=MILLISECONDS`` texts.

    Raises:
        BadPolicy: a key that there is not, one given twice, or a value that is no number of milliseconds.
    """
    wanted: dict[str, int] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in POLICY_KEYS:
            raise _bad(f"cannot take {text!r}: there is no {key!r} in a policy")
        if key in wanted:
            raise _bad(f"cannot take {text!r}: {key} is given twice")
        if not (value.isascii() and value.isdigit()) or not 0 < int(value[:20]) <= MAX_MS:
            raise _bad(f"cannot take {text!r}: give a whole number of milliseconds from 1 to {MAX_MS}")
        wanted[key] = int(value)
    return wanted


def _bad(why: str) -> BadPolicy:
    return BadPolicy(
        f"{why}; write KEY=MILLISECONDS, with one of {', '.join(POLICY_KEYS)}", keys=list(POLICY_KEYS)
    )


def with_changes(policy: Policy, changes: Mapping[str, int]) -> Policy:
    """Return `policy` with these values instead.

    Raises:
        BadPolicy: an instance would be lost before it was suspected.
    """
    changed = replace(policy, **changes)
    if changed.lost_after_ms < changed.suspect_after_ms:
        suspect, lost = changed.suspect_after_ms, changed.lost_after_ms
        raise _bad(
            f"cannot simulate suspect_after_ms={suspect} with lost_after_ms={lost}: nobody is lost before it "
            "is suspected, so give another lost_after_ms, too"
        )
    return changed


class Hint(NamedTuple):
    """What a router heard of an instance beside its heartbeats, when, and the first record that tells of it.
    ``client_id`` is ``None`` for probes without an answer, else the number of the connection that ended.
    """

    at_ns: int
    seq: int
    key: InstanceKey
    client_id: int | None
    reason: str

    def tell(self, board: PulseBoard, incarnation: str) -> None:
        """Mark the board with it, as a router does; `incarnation` is the run of the instance at that time."""
        if self.client_id is not None:
            pulse = board.instances.get(self.key)
            server = pulse.report.get("server") if pulse is not None else None
            connection = ConnectionId(server if isinstance(server, str) else "", self.client_id)
            board.connection_ended(connection, reason=self.reason, event_ns=self.at_ns)
            return
        board.probe_answered(self.key, incarnation)
        for _ in range(MAX_MISSES):
            board.probe_missed(self.key, incarnation, asked_ns=board.now_ns, waited_ms=0, cause=self.reason)


class Known:
    """What is known before a simulation begins. `given` are values for a policy of which the log says
    nothing, or something else.
    """

    def __init__(self, subjects: Subjects, given: Mapping[str, int] | None = None) -> None:
        self._subjects = subjects
        self._given = dict(given or {})
        self._policies: dict[RouterIdentity, Policy] = {}
        self._untold: set[str] = set()
        self._hints: dict[tuple[int, InstanceKey], Hint] = {}

    def note(self, record: Record) -> None:
        """Take in one record; of kinds other than ``ha`` and ``term`` nothing."""
        try:
            place = self._subjects.parse(record.subject)
            event = ev.decode_event(record.payload) if place.kind in (HA, TERM) else None
        except MalformedPayload:  # the fold counts it
            return
        match event:
            case ev.RouterElected():
                policy = policy_in(event.policy)
                self._policies[RouterIdentity(event.router, event.incarnation)] = policy
                if not event.policy:
                    self._untold.add(event.router)
            case ev.InstanceSuspected() | ev.InstanceLost():
                self._note_evidence(record, place, event.instance, event.cause, event.evidence)
            case ev.GroupPromoted():
                former = event.evidence.get("former_holder")
                if isinstance(former, str):
                    self._note_evidence(record, place, former, "", event.evidence)

    def _note_evidence(
        self, record: Record, place: Place, instance: str, cause: str, evidence: Mapping[str, Any]
    ) -> None:
        key, seq = (place.service, place.group, instance), record.seq
        match evidence:
            case {"disconnected_ns": int(at_ns), "client_id": int(client_id)}:
                reason = evidence.get("reason")
                hint = Hint(at_ns, seq, key, client_id, reason if isinstance(reason, str) else "")
            case {"probe_failed_ns": int(at_ns)}:
                hint = Hint(at_ns, seq, key, None, cause.removeprefix(_PROBED) or "no answer")
            case _:
                return
        at_ns = min(at_ns, record.timestamp_ns)  # it was heard before, whatever another server's clock said
        hint = hint._replace(at_ns=at_ns)
        known = self._hints.get((at_ns, key))
        if known is None:
            self._hints[at_ns, key] = hint
        elif cause:  # the suspicion says more of a probe than the promotion before it
            self._hints[at_ns, key] = hint._replace(seq=known.seq)

    def policy_of(self, router: RouterIdentity) -> Policy:
        """Return how patient that router was: of one that never led, as the first that did."""
        policy = self._policies.get(router) or next(iter(self._policies.values()), Policy())
        return with_changes(policy, self._given)

    @property
    def untold(self) -> list[str]:
        """The routers of which nobody wrote down, or gave, how patient they were."""
        return [] if self._given else sorted(self._untold)

    def others(self, policy: Policy, routers: Iterable[RouterIdentity]) -> list[str]:
        """Those of `routers` that were otherwise patient than `policy`, and how."""
        told = []
        for router in routers:
            known = asdict(self.policy_of(router))
            differs = [f"{key}={value}" for key, value in known.items() if value != getattr(policy, key)]
            if differs:
                told.append(f"{router.id} ({', '.join(differs)})")
        return list(dict.fromkeys(told))

    def policies(self) -> list[Policy]:
        """Return all policies that may be in force, each once."""
        found = list(self._policies.values()) or [Policy()]
        return list(dict.fromkeys(with_changes(policy, self._given) for policy in found))

    def hints(self) -> list[Hint]:
        """Return the hints in the order in which they came."""
        return sorted(self._hints.values(), key=lambda hint: (hint.at_ns, hint.seq, hint.key))


def wish_of(group: GroupView | None, place: Place, event: ev.Event) -> Promote | None:
    """Return the promotion that an operator asked for, if this record on a group's fence is what came of it;
    `group` is as it was before the record.

    What a router does of itself to carry out a handover that was asked for is a decision of its own.
    """
    if place.who != GROUP_WHO or not isinstance(event, ev.GroupPromoted | ev.GroupHandoverStarted):
        return None
    asked = f"{_PROMOTED_BY}{event.author}"
    if not event.author or not event.cause.startswith(asked):
        return None
    if isinstance(event, ev.GroupPromoted) and group is not None and group.handover is not None:
        begun = group.handover.cause
        if event.cause == begun or event.cause.startswith(f"{begun}; "):
            return None
    return Promote.model_construct(
        service=place.service,
        group=place.group,
        instance=event.to if isinstance(event, ev.GroupHandoverStarted) else event.holder,
        author=event.author,
        reason=event.cause.removeprefix(asked).removeprefix(": ")[: ev.MAX_REASON],
    )
