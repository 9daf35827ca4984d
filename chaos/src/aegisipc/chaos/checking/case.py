"""Evidence and log side by side: who asked for which call, and what it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from aegisipc.chaos.checking.bounds import Bounds
from aegisipc.chaos.history import Deed, Effect, Evidence, Fault, Operation, Phase, Stage
from aegisipc.chaos.log_facts import CallFact, LogFacts
from aegisipc.chaos.verdicts import Finding, Verdict

ASKING: Final = (Deed.CALL, Deed.SUBMIT)
"""Operations that make a call."""

NOT_ACCEPTED: Final = frozenset(
    {
        "bad_credentials",
        "contract_conflict",
        "contract_mismatch",
        "invalid_name",
        "limit_exceeded",
        "log_full",
        "log_missing",
        "no_responders",
        "no_route",
        "not_connected",
        "not_encodable",
        "objects_full",
        "payload_too_large",
        "permission_denied",
        "service_definition",
    }
)
"""Errors that say: nothing was accepted. ``overloaded`` says so if it names no call."""

_READING: Final = frozenset({"object_missing", "object_damaged", "unexpected_result"})
"""Errors that say that an outcome cannot be read, and not what it is."""

_NO_OUTCOME: Final = (
    NOT_ACCEPTED | _READING | {"call_cancelled", "call_unknown", "call_timeout", "ack_unknown"}
)


@dataclass(slots=True)
class Asked:
    """An operation: its invocation, and what became of it as far as its client knew."""

    invoke: Operation
    answer: Operation | None = None

    @property
    def is_refused(self) -> bool:
        """Whether its client was told that nothing was accepted."""
        answer = self.answer
        if answer is None or answer.stage is not Stage.FAIL:
            return False
        return answer.error in NOT_ACCEPTED or (answer.error == "overloaded" and answer.call_id is None)

    @property
    def is_read(self) -> bool:
        """Whether its client was told an outcome, or of a doubt."""
        answer = self.answer
        if answer is None or answer.deed not in (Deed.CALL, Deed.ATTACH):
            return False
        if answer.stage is Stage.INFO:
            return answer.error == "call_in_doubt"
        return answer.stage is Stage.OK or not (self.is_refused or answer.error in _NO_OUTCOME)

    @property
    def is_accepted(self) -> bool:
        """Whether what its client was told can be said of nothing but a call that was accepted."""
        answer = self.answer
        if answer is None:
            return False
        if answer.deed is Deed.SUBMIT:
            return answer.stage is Stage.OK
        if not self.is_read:
            return False
        # An error of the arguments may have been found by the client.
        return answer.stage is not Stage.FAIL or answer.call_id is not None or answer.error in _ENDS


_ENDS: Final = frozenset({"call_expired", "dead_lettered", "idempotency_conflict"})


@dataclass(slots=True)
class Case:
    """What all invariants look at. Build it with :func:`case_of`."""

    evidence: Evidence
    facts: LogFacts
    bounds: Bounds
    asked: dict[int, Asked] = field(default_factory=dict)
    begins: dict[str, list[Effect]] = field(default_factory=dict)
    """By call, in the order in which they began."""
    ends: dict[str, list[Effect]] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    """The effect that the ledger gives for a call."""
    named: dict[str, int] = field(default_factory=dict)
    """Calls that a client was given the id of, when it made them: by which operation."""
    keyed: dict[str, list[CallFact]] = field(default_factory=dict)
    """By idempotency key."""
    struck: dict[str, list[Fault]] = field(default_factory=dict)
    """By victim."""

    @property
    def slack_ns(self) -> int:
        """What may pass between a decision and what follows from it, with the error of the clocks."""
        return int(self.bounds.slack_s * 1e9) + self.bounds.clock_error_ns

    def is_struck(self, who: Iterable[str], since_ns: int, until_ns: int, *kinds: str) -> bool:
        """Tell whether something was broken about one of these, at some time between two times of the
        evidence; only `kinds` of faults count, if there are any.
        """
        return any(
            fault.at_ns <= until_ns and fault.until_ns >= since_ns and (not kinds or fault.name in kinds)
            for victim in who
            for fault in self.struck.get(victim, ())
        )

    @property
    def is_whole(self) -> bool:
        """Whether the log still holds its beginning."""
        return self.facts.first_seq <= 1

    def effect_of(self, call: CallFact) -> str:
        """Return how the method of a call was declared (``once``, ``idempotent``, ``pure``)."""
        told = self.declared.get(call.call_id)
        return told or self.facts.effects.get((call.service, call.method), "")

    def call_of(self, asked: Asked) -> CallFact | None:
        """Return the call that an operation made, or looked at; ``None`` if none, or if several may be it."""
        calls, answer, invoke = self.facts.calls, asked.answer, asked.invoke
        call_id = (answer.call_id if answer is not None else None) or invoke.call_id
        if call_id is not None:
            return calls.get(call_id)
        if invoke.deed not in ASKING:
            return None
        found = self.facts.by_number.get(invoke.number, ())
        if len(found) == 1 and invoke.key is None:
            return found[0]
        others = [call for call in found if self.named.get(call.call_id, invoke.number) == invoke.number]
        return others[0] if len(others) == 1 and invoke.key is None else None

    def may_be(self, asked: Asked) -> Sequence[CallFact]:
        """Return all calls that an operation may have made, if it is not known which."""
        call = self.call_of(asked)
        if call is not None:
            return (call,)
        answer = asked.answer
        if asked.invoke.call_id is not None or (answer is not None and answer.call_id is not None):
            return ()
        if asked.invoke.key is not None:
            return self.keyed.get(asked.invoke.key, ())
        return self.facts.by_number.get(asked.invoke.number, ())

    def owner_of(self, call: CallFact) -> CallFact:
        """Return the call whose outcome is that of `call`: itself, but for one that repeats another."""
        seen = {call.call_id}
        while (first := call.first) is not None and first in self.facts.calls and first not in seen:
            seen.add(first)
            call = self.facts.calls[first]
        return call

    def evidence_time(self, server_ns: int) -> int | None:
        """Return a time of the server as one of the evidence, if the clocks can be compared."""
        offset = self.bounds.clock_offset_ns
        return None if offset is None else server_ns - offset

    def server_time(self, at_ns: int) -> int | None:
        """Return a time of the evidence as one of the server, if the clocks can be compared."""
        offset = self.bounds.clock_offset_ns
        return None if offset is None else at_ns + offset

    def is_before(self, at_ns: int, server_ns: int) -> bool:
        """Tell whether a time of the evidence is certainly before one of the server."""
        offset = self.bounds.clock_offset_ns
        return offset is not None and at_ns + self.bounds.clock_error_ns < server_ns - offset


def case_of(evidence: Evidence, facts: LogFacts, bounds: Bounds) -> Case:
    """Put evidence and log side by side. Linear in both."""
    case = Case(evidence, facts, bounds)
    asked, named = case.asked, case.named
    for operation in evidence.operations:
        number = operation.number
        if operation.stage is Stage.INVOKE:
            asked[number] = Asked(operation)
        elif number in asked:
            asked[number].answer = operation
        else:
            asked[number] = Asked(operation, operation)
        # Of a call that repeats another one, the error may name that other one.
        if operation.call_id is not None and operation.deed in ASKING and operation.key is None:
            named[operation.call_id] = number
    for effect in evidence.effects:
        into = case.begins if effect.phase is Phase.BEGAN else case.ends
        into.setdefault(effect.call_id, []).append(effect)
        if effect.effect:
            case.declared[effect.call_id] = effect.effect
    for fault in evidence.faults:
        case.struck.setdefault(fault.victim, []).append(fault)
    for call in facts.calls.values():
        if call.key is not None:
            case.keyed.setdefault(call.key, []).append(call)
    return case


class Look:
    """Gathers what is found about one invariant. The first findings are kept, the others counted."""

    def __init__(self, case: Case, name: str, promise: str) -> None:
        self.name, self.promise = name, promise
        self.looked_at = 0
        self._most = case.bounds.findings
        self._findings: list[Finding] = []
        self._more = 0

    def found(
        self, text: str, *, calls: Iterable[str] = (), numbers: Iterable[int] = (), seqs: Iterable[int] = ()
    ) -> None:
        """Note a violation."""
        if len(self._findings) >= self._most:
            self._more += 1
            return
        # In the order in which they were given, each once.
        self._findings.append(
            Finding(
                text,
                tuple(dict.fromkeys(calls)),
                tuple(dict.fromkeys(numbers)),
                tuple(dict.fromkeys(seqs)),
            )
        )

    def verdict(self) -> Verdict:
        """Return what was found."""
        findings = self._findings
        if self._more:
            findings = [*findings, Finding(f"and {self._more} more of this kind")]
        return Verdict(self.name, self.promise, self.looked_at, tuple(findings))
