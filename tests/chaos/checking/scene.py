"""A run made by hand: a log as real writers would leave it, and what clients and handlers wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from aegisipc.chaos.checking import Bounds, judge
from aegisipc.chaos.history import Deed, Effect, Evidence, Fault, Operation, Phase, Probe, Stage
from aegisipc.chaos.log_facts import LogFacts, facts_of
from aegisipc.chaos.verdicts import Finding, Judgement, Verdict
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import Effect as Declared
from aegisipc.eventstore.events import ErrorInfo, Event, Requeued, Resolution
from aegisipc.eventstore.frames import (
    CallEntry,
    CallFrame,
    CallOptions,
    Mark,
    PenEntry,
    PenFrame,
    encode_calls,
    encode_pen,
)
from aegisipc.eventstore.ids import CallIds, format_call_id, parse_call_id
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.references import Reference, arguments_name, encode_reference
from aegisipc.eventstore.subjects import subjects_of

NS: Final = subjects_of("t")
SERVICE, GROUP, POOL = "orders", "acc", "_pool"
START_NS: Final = 1_800_000_000_000_000_000
"""Where the server's clock begins; that of the evidence begins at 0."""

METHODS: Final = {"pay": Declared.ONCE, "put": Declared.IDEMPOTENT, "get": Declared.PURE}


def error(code: str, **details: Any) -> bytes:
    """The body of an error."""
    return encode(ErrorInfo(code=code, message=code, details=details))


def resolution(source: Any = "operator", doubt_seq: int = 0) -> bytes:
    """The body that ends a doubt."""
    return encode(Resolution(source=source, author="ann", doubt_seq=doubt_seq))


def requeued(dead_seq: int) -> bytes:
    """The body that lets a dead letter run again."""
    return encode(Requeued(author="ann", dead_seq=dead_seq, timeout_ms=1000))


@dataclass
class Scene:
    """Writes log and history side by side; each step takes a millisecond."""

    records: list[Record] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    now_ns: int = 1_000_000
    epoch: int = 0
    holder: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    """The number of each call."""
    asked: dict[int, Operation] = field(default_factory=dict)
    _ids: CallIds = field(default_factory=lambda: CallIds(7))
    _frames: dict[tuple[str, int], int] = field(default_factory=dict)
    _next: int = 0
    _term: int = 0

    # -- the log ------------------------------------------------------------------------------------------

    def tick(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns

    def store(self, subject: str, payload: bytes) -> int:
        self.tick()
        record = Record(len(self.records) + 1, subject, payload, START_NS + self.now_ns)
        self.records.append(record)
        return record.seq

    def say(self, subject: str, event: Event) -> int:
        return self.store(subject, ev.encode_event(event))

    def elect(self, router: str = "r", policy: dict[str, int] | None = None) -> int:
        self._term += 1
        event = ev.RouterElected(
            term=self._term, router=router, incarnation="1", cause="test", policy=policy or {}
        )
        return self.say(NS.term, event)

    def register(self, instance: str, group: str = GROUP) -> None:
        """An instance joins; the first one finds a router that leads."""
        if not self._term:
            self.elect()
        contract = {
            name: ev.MethodContract(effect=effect, arguments="a", returns="r", signature=f"{name}()")
            for name, effect in METHODS.items()
        }
        event = ev.InstanceRegistered(
            incarnation=f"{instance}-1",
            mode="pool" if group == POOL else "owned",
            contract=contract,
            host="h",
            pid=1,
            version="0",
        )
        self.say(NS.instance(SERVICE, group, instance), event)
        admitted = ev.InstanceAdmitted(instance=instance, incarnation=f"{instance}-1", decided_by="r")
        self.say(NS.watch(SERVICE, group), admitted)
        self.say(NS.instance(SERVICE, group, instance), ev.InstanceReady(incarnation=f"{instance}-1"))

    def promote(self, holder: str, epoch: int | None = None, *, group: str = GROUP) -> int:
        """Give the pen to an instance: to the first one, or because the one before it answers no probes."""
        former, is_first = self.holder, self.epoch == 0
        self.epoch = self.epoch + 1 if epoch is None else epoch
        self.holder = holder
        event = ev.GroupPromoted(
            epoch=self.epoch,
            holder=holder,
            incarnation=f"{holder}-1",
            kind="first" if is_first else "failover",
            cause="first instance of the group" if is_first else f"holder {former!r} is suspected: test",
            evidence={} if is_first else {"source": "probe", "probe_failed_ns": self.now_ns},
            decided_by="r",
        )
        return self.say(NS.fence(SERVICE, group), event)

    def _number_of_frame(self, subject: str, session: int) -> int:
        self._frames[subject, session] = number = self._frames.get((subject, session), 0) + 1
        return number

    def accept(
        self,
        number: int,
        method: str = "put",
        *,
        resource: str | None = None,
        key: str | None = None,
        client: str = "c",
        group: str = GROUP,
        call_id: str | None = None,
        argument: Any = None,
        timeout_ms: int = 1000,
        is_large: bool = False,
    ) -> str:
        """Put a call into the log; returns its id."""
        subject = NS.call(SERVICE, group, client)
        raw = parse_call_id(call_id) if call_id else self.next_id()
        options = CallOptions(key) if key is not None else None
        body = encode([[number if argument is None else argument], {}])
        if is_large:
            name = arguments_name(SERVICE, group, raw)
            body = encode_reference(Reference(name, len(body), sha256(body).digest()))
        entry = CallEntry(raw, method, timeout_ms, resource, options)
        frame = CallFrame(7, self._number_of_frame(subject, 7), 0, [entry], [body])
        self.store(subject, encode_calls(frame))
        shown = format_call_id(raw)
        self.numbers.setdefault(shown, argument if isinstance(argument, int) else number)
        return shown

    def next_id(self) -> bytes:
        return self._ids.next(START_NS // 1_000_000)

    def pen(
        self,
        *facts: tuple[Mark, str, bytes | None],
        writer: str = "",
        epoch: int | None = None,
        session: int | None = None,
        group: str = GROUP,
    ) -> int:
        """Put a frame of the holder (or of another writer) into the log; returns its sequence."""
        writer = writer or self.holder
        is_dead = any(mark in (Mark.DEAD_LETTERED, Mark.REQUEUED, Mark.DISCARDED) for mark, *_ in facts)
        subject = (NS.dead if is_dead else NS.pen)(SERVICE, group, writer)
        session = len(writer) * 100 + ord(writer[0]) if session is None else session
        entries = [PenEntry(mark, parse_call_id(call_id)) for mark, call_id, _ in facts]
        held = 0 if group == POOL else self.epoch if epoch is None else epoch
        frame = PenFrame(
            session, self._number_of_frame(subject, session), held, entries, [b for *_, b in facts]
        )
        return self.store(subject, encode_pen(frame))

    def mark(self, mark: Mark, call_id: str, body: bytes | None = None, **given: Any) -> int:
        return self.pen((mark, call_id, body), **given)

    # -- what others wrote down ---------------------------------------------------------------------------

    def invoke(
        self,
        deed: Deed = Deed.CALL,
        *,
        client: str = "c",
        resource: str | None = None,
        key: str | None = None,
        call_id: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        self._next += 1
        operation = Operation(
            self._next,
            Stage.INVOKE,
            deed,
            client,
            self.tick(),
            "orders.put",
            resource=resource,
            key=key,
            call_id=call_id,
            timeout_s=timeout_s,
        )
        self.asked[self._next] = operation
        self.evidence.take(operation)
        return self._next

    def answer(
        self,
        number: int,
        stage: Stage = Stage.OK,
        *,
        value: Any = None,
        error: str | None = None,
        call_id: str | None = None,
    ) -> None:
        asked = self.asked[number]
        self.evidence.take(
            Operation(
                number,
                stage,
                asked.deed,
                asked.client,
                self.tick(),
                call_id=call_id,
                value=value,
                error=error,
            )
        )

    def began(
        self, call_id: str, instance: str = "", epoch: int | None = None, *, effect: str = "", life: str = ""
    ) -> None:
        self._effect(Phase.BEGAN, call_id, instance, epoch, effect, life)

    def ended(
        self, call_id: str, instance: str = "", epoch: int | None = None, *, effect: str = "", life: str = ""
    ) -> None:
        self._effect(Phase.ENDED, call_id, instance, epoch, effect, life)

    def ran(self, call_id: str, instance: str = "", epoch: int | None = None) -> None:
        self.began(call_id, instance, epoch)
        self.ended(call_id, instance, epoch)

    def _effect(
        self, phase: Phase, call_id: str, instance: str, epoch: int | None, effect: str, life: str
    ) -> None:
        instance = instance or self.holder
        self.evidence.take(
            Effect(
                self.numbers.get(call_id, 0),
                phase,
                call_id,
                instance,
                life or f"{instance}-1",
                self.epoch if epoch is None else epoch,
                self.tick(),
                effect=effect,
            )
        )

    def whole_call(
        self, method: str = "put", *, resource: str | None = None, client: str = "c", value: Any = "done"
    ) -> str:
        """One call from its invocation to its answer, without any trouble."""
        number = self.invoke(client=client, resource=resource)
        call_id = self.accept(number, method, resource=resource, client=client)
        if method == "pay":
            self.mark(Mark.CLAIMED, call_id)
        if method != "get":
            self.ran(call_id)
        self.mark(Mark.SUCCEEDED, call_id, encode(value))
        self.answer(number, value=value, call_id=call_id)
        return call_id

    def probe(self, node: str, *, serves: bool = True, after_s: float = 0.1, **digests: str) -> None:
        self.evidence.take(Probe(node, "instance", serves, self.now_ns, after_s, digests))

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)

    def fault(self, name: str, victim: str, since_ns: int) -> None:
        """Something was broken from then until now."""
        self.evidence.take(Fault(name, victim, since_ns, self.now_ns))

    # -- judging ------------------------------------------------------------------------------------------

    @property
    def facts(self) -> LogFacts:
        return facts_of(self.records, NS)

    def judge(self, bounds: Bounds | None = None) -> Judgement:
        return judge(self.evidence, self.facts, bounds=bounds or Bounds(clock_offset_ns=START_NS))

    def verdict(self, name: str) -> Verdict:
        return next(verdict for verdict in self.judge().verdicts if verdict.name == name)


def a_scene(*instances: str) -> Scene:
    """An owned group, whose first instance (``a``) holds the pen; ``b`` is its standby."""
    scene = Scene()
    for instance in instances or ("a", "b"):
        scene.register(instance)
    scene.promote((instances or ("a",))[0])
    return scene


def a_pool(*workers: str) -> Scene:
    """A pool; its workers are ``a`` and ``b``."""
    scene = Scene()
    for worker in workers or ("a", "b"):
        scene.register(worker, POOL)
    scene.holder = "a"
    return scene


def broken_by(scene: Scene, name: str, *call_ids: str) -> Finding:
    """The finding against an invariant that is about these calls, which there must be."""
    verdict = scene.verdict(name)
    assert verdict.looked_at or verdict.findings
    for finding in verdict.findings:
        if set(call_ids) <= set(finding.call_ids):
            return finding
    raise AssertionError(f"{name} was not found to be broken by {call_ids}: {verdict.findings}")


def holds(scene: Scene, *but: str) -> None:
    """All invariants hold, except for those named, which are about something else."""
    judgement = scene.judge()
    findings = [(v.name, f.text) for v in judgement.verdicts if v.name not in but for f in v.findings]
    assert not findings


def all_marks(scene: Scene, call_ids: Sequence[str]) -> list[list[Mark]]:
    """The marks that count of each call."""
    return [[word.mark for word in scene.facts.calls[call_id].words] for call_id in call_ids]
