"""Three workers, one log, a consumer that forgets: whatever is handed out to whom, the guarantees hold."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegisipc.eventstore.calls import GroupCalls, state_after
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import (
    DEAD_MARKS,
    CallFrame,
    CallOptions,
    Mark,
    decode_pen,
    encode_calls,
)
from aegisipc.eventstore.histories import AcceptedCall, CallHistory
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.lifecycles import CallState
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.pool_keys import PoolKeys
from aegisipc.eventstore.subjects import CONCLUSIONS, DEAD, PEN
from aegisipc.sdk.core.pen import Written
from aegisipc.sdk.core.pool_attempts import MAX_ATTEMPTS
from aegisipc.sdk.core.pool_facts import CLOSED, Known, LookUp
from tests.sdk.kit import NS, POOL, SERVICE, ListLog, a_call
from tests.sdk.pool_kit import (
    BY_OPERATOR,
    WorkerRig,
    cancel,
    fold_keys,
    found_in,
    owner_of,
    pause,
    pool_client,
    requeue_frame,
    resume,
    subject_of,
    with_options,
)

MAY_RUN_AGAIN = (Mark.NOT_EXECUTED, Mark.RETRY_SCHEDULED, Mark.REQUEUED)
decoded = lru_cache(decode_pen)
ENDS = frozenset(
    {
        CallState.SUCCEEDED,
        CallState.FAILED,
        CallState.EXPIRED,
        CallState.CANCELLED,
        CallState.DUPLICATE,
        CallState.DISCARDED,
        CallState.DEAD_LETTERED,
    }
)
NAMES = ("w1", "w2", "w3")
WORKERS = st.sampled_from(NAMES)
KEYS = st.sampled_from([None, None, "a", "b"])
CALLS = st.lists(
    st.builds(a_call, st.sampled_from(["pay", "pay", "put"]), st.none(), st.sampled_from([10, 1000])),
    min_size=1,
    max_size=3,
)


@dataclass
class Handed:
    """One call frame as the consumer sees it."""

    seq: int
    frame: CallFrame
    times: int = 0
    is_acked: bool = False


@dataclass
class Worker:
    """One incarnation of one worker, and its frame in flight."""

    rig: WorkerRig
    bound: int
    in_flight: Written | None = None
    tokens: dict[str, Handed] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)


class Pool(RuleBasedStateMachine):
    """The world around three workers of one pool."""

    def __init__(self) -> None:
        super().__init__()
        self.log = ListLog()
        self.client = pool_client(self.log)
        self.frames: list[Handed] = []
        self.workers: dict[str, Worker] = {}
        self.incarnations = dict.fromkeys(NAMES, 0)
        self.ghosts: list[tuple[str, Written]] = []
        self.is_paused = False
        self.not_executed: set[tuple[CallId, int]] = set()
        self.once_starts: list[CallId] = []
        self.replies: list[tuple[CallId, int, bytes | None]] = []
        self.methods: dict[CallId, str] = {}
        self.tokens = 0
        self.keys: dict[CallId, str] = {}
        self.firsts: dict[CallId, tuple[int, CallFrame]] = {}
        self.segments: list[tuple[str, bytes]] = []
        self.requeues = 0
        self.effects: dict[str, set[CallId]] = defaultdict(set)

    @initialize(max_running=st.sampled_from([1, 2, 8]))
    def begin(self, max_running: int) -> None:
        self.max_running = max_running
        for name in NAMES:
            self._spawn(name)
        for name in NAMES:
            self.worker_reads(name)

    def _spawn(self, name: str) -> None:
        former = self.workers.get(name)
        if former is not None and former.in_flight is not None:
            self.ghosts.append((name, former.in_flight))
        self.incarnations[name] += 1
        incarnation = str(self.incarnations[name])
        rig = WorkerRig(self.log, name, incarnation=incarnation, max_running=self.max_running, segment_keys=2)
        bound = len(self.log.records)
        rig.join()  # facts are followed from here on only; older ones are looked up
        self.workers[name] = Worker(rig, bound)
        self.log.join(name, incarnation, group=POOL)

    # -- clients, the clock, the consumer ------------------------------------------------------------------

    @rule(calls=CALLS, keys=st.lists(KEYS, min_size=3, max_size=3))
    def client_sends(
        self, calls: list[tuple[str, str | None, int, bytes]], keys: list[str | None] | None = None
    ) -> None:
        options = [None if key is None else CallOptions(key) for key in (keys or [None] * 3)]
        frame = with_options(self.client.frame(*calls), *options[: len(calls)])
        seq = self.log.append(NS.call(SERVICE, POOL, "c1"), encode_calls(frame))
        self.frames.append(Handed(seq, frame))
        for entry, body in zip(frame.entries, frame.bodies, strict=True):
            self.methods[entry.call_id] = entry.method
            self.firsts[entry.call_id] = seq, CallFrame(1, 1, 0, [entry], [body])
            if entry.options is not None and entry.options.key is not None:
                self.keys[entry.call_id] = entry.options.key

    @rule(keys=st.lists(st.sampled_from(["a", "b"]), min_size=2, max_size=3), name=WORKERS)
    def calls_with_keys_are_made_and_go_on(self, keys: list[str], name: str) -> None:
        self.client_sends([a_call("pay" if key == "a" else "put", None, 1000) for key in keys], list(keys))
        self._hand(name, self.frames[-1])
        for _ in range(3):
            self.worker_goes_on(name)
            self.a_worker_writes_a_segment(name, later=False)
            self.worker_reads_segments(name)

    @precondition(lambda self: self.methods)
    @rule(which=st.integers(0, 50))
    def a_client_cancels(self, which: int) -> None:
        cancel(self.log, sorted(self.methods)[which % len(self.methods)])

    def _dead(self) -> list[CallId]:
        """The calls that may be dead letters now."""
        found: dict[CallId, bool] = {}
        for record in self.log.records:
            if f".{DEAD}." in record.subject:
                for mark, call_id in decoded(record.payload).entries:
                    if mark in DEAD_MARKS:
                        found[call_id] = mark is Mark.DEAD_LETTERED
        return sorted(call_id for call_id, is_dead in found.items() if is_dead)

    @precondition(lambda self: self._dead())
    @rule(which=st.integers(0, 7), times=st.sampled_from([1, 1, 2]), timeout_ms=st.sampled_from([10, 1000]))
    def an_operator_lets_a_dead_letter_run_again(self, which: int, times: int, timeout_ms: int) -> None:
        dead = self._dead()
        call_id = dead[which % len(dead)]
        history = self._history(call_id)
        if history.state is not CallState.DEAD_LETTERED or history.dead_letter is None:
            return
        for _ in range(times):
            self.requeues += 1
            letter = history.dead_letter.seq
            frame = requeue_frame(self.firsts[call_id][1], letter, self.requeues, timeout_ms)
            seq = self.log.append(NS.call(SERVICE, POOL, "w1"), encode_calls(frame))
            self.frames.append(Handed(seq, frame))

    @precondition(lambda self: self._dead())
    @rule(name=WORKERS, which=st.integers(0, 7))
    def an_operator_discards_a_dead_letter(self, name: str, which: int) -> None:
        dead = self._dead()
        call_id = dead[which % len(dead)]
        history = self._history(call_id)
        if history.dead_letter is None:
            return
        core = self.workers[name].rig.core
        look_up = core.facts.look_up({call_id}, {call_id: history.dead_letter.seq})
        for record in self.log.records[history.dead_letter.seq :]:
            self._read_for(look_up, record)
        self.worker_reads(name)
        core.facts.learn(call_id, core.facts.finish(look_up)[call_id])
        seq, frame = self.firsts[call_id]
        entry = frame.entries[0]
        call = OpenCall(call_id, "c1", entry.method, None, seq, 1 << 62, frame.bodies[0])
        core.discard(call, BY_OPERATOR)

    @rule(name=WORKERS, later=st.booleans())
    def a_worker_writes_a_segment(self, name: str, later: bool) -> None:
        core = self.workers[name].rig.core
        if core.keying.needs_opening or (core.keys.is_open and core.keys.position > core.keys.covered):
            segment = self.workers[name].rig.segment()
            if later:
                self.segments.append(segment)
            else:
                self.log.append(*segment)

    @precondition(lambda self: self.segments)
    @rule(which=st.integers(0, 7))
    def a_late_segment_is_stored(self, which: int) -> None:
        self.log.append(*self.segments.pop(which % len(self.segments)))

    @rule(name=WORKERS)
    def worker_reads_segments(self, name: str) -> None:
        self.workers[name].rig.look_up_keys()
        self._collect(name)

    @rule(name=WORKERS, which=st.integers(0, 7), delay_ms=st.sampled_from([None, 0, 5, 50]))
    def handler_fails(self, name: str, which: int, delay_ms: int | None) -> None:
        rig = self.workers[name].rig
        if rig.running:
            start = rig.running[which % len(rig.running)]
            rig.fail(start.call.call_id, None if delay_ms is None else delay_ms * 1_000_000)
            self._collect(name)

    @rule(name=WORKERS)
    def a_cancelled_handler_stops(self, name: str) -> None:
        rig = self.workers[name].rig
        running = {start.call.call_id for start in rig.running}
        for call_id in {found.call_id for found in rig.to_cancel} & running:
            rig.stop(call_id)
            self._collect(name)

    @rule(milliseconds=st.sampled_from([1, 20]))
    def time_passes(self, milliseconds: int) -> None:
        self.log.now_ns += milliseconds * 1_000_000
        for name, worker in self.workers.items():
            worker.rig.core.on_tick(self.log.now_ns)
            self._collect(name)

    @precondition(lambda self: any(not handed.is_acked for handed in self.frames))
    @rule(name=WORKERS, which=st.integers(0, 20))
    def consumer_hands_out(self, name: str, which: int) -> None:
        waiting = [handed for handed in self.frames if not handed.is_acked]
        self._hand(name, waiting[which % len(waiting)])

    def _hand(self, name: str, handed: Handed) -> None:
        worker = self.workers[name]
        handed.times += 1
        if not worker.rig.core.standing.keeps_frames:
            return  # it gives the frame back at once
        self.tokens += 1
        token = f"t{self.tokens}"
        worker.tokens[token] = handed
        is_requeue = any(e.options is not None and e.options.requeue for e in handed.frame.entries)
        is_again = handed.times > 1 or handed.seq < worker.bound + 1 or is_requeue
        known = self._look_up(name, handed) if is_again else {}
        record = Record(
            handed.seq, NS.call(SERVICE, POOL, "c1"), b"", self.log.records[handed.seq - 1].timestamp_ns
        )
        worker.rig.core.on_frame(
            token,
            record,
            handed.frame,
            known,
            self.log.now_ns,
            is_again=is_again,
            is_suspect=handed.times > 1,
        )
        self._collect(name)

    def _look_up(self, name: str, handed: Handed) -> dict[CallId, Known]:
        """Read the log to its end, while the worker goes on to follow it."""
        rig = self.workers[name].rig
        dead = {
            entry.call_id: entry.options.requeue[0]
            for entry in handed.frame.entries
            if entry.options is not None and entry.options.requeue is not None
        }
        look_up = rig.core.facts.look_up({entry.call_id for entry in handed.frame.entries}, dead)
        unread = self.log.records[min([handed.seq, *dead.values()]) :]
        for record in unread[: len(unread) // 2]:
            self._read_for(look_up, record)
        self.worker_reads(name)
        for record in unread[len(unread) // 2 :]:
            self._read_for(look_up, record)
        return rig.core.facts.finish(look_up)

    @staticmethod
    def _read_for(look_up: LookUp, record: Record) -> None:
        place = NS.parse(record.subject)
        if place.kind in CONCLUSIONS:
            look_up.read(record, place.who)

    @precondition(lambda self: any(handed.is_acked for handed in self.frames))
    @rule()
    def server_forgets_an_ack(self) -> None:
        next(handed for handed in reversed(self.frames) if handed.is_acked).is_acked = False

    # -- workers -------------------------------------------------------------------------------------------

    @rule(name=WORKERS)
    def worker_reads(self, name: str) -> None:
        self.workers[name].rig.read()
        self._collect(name)

    @rule(name=WORKERS, which=st.integers(0, 7))
    def handler_returns(self, name: str, which: int) -> None:
        rig = self.workers[name].rig
        if rig.running:
            start = rig.running[which % len(rig.running)]
            rig.finish(start.call.call_id, f"{name}{rig.core.identity.incarnation}".encode())
            self._collect(name)

    @rule(name=WORKERS, answered=st.booleans())
    def worker_writes(self, name: str, answered: bool) -> None:
        worker = self.workers[name]
        if worker.in_flight is None:
            worker.in_flight = worker.rig.core.next_frame()
        if worker.in_flight is not None:
            written = worker.in_flight
            self.log.append(subject_of(name, written), written.payload, None, written.record_id)
            if answered:
                worker.in_flight = None
                worker.rig.core.on_acked()

    @rule(name=WORKERS)
    def a_frame_is_on_its_way(self, name: str) -> None:
        """It was sent, and nobody knows when it is stored."""
        worker = self.workers[name]
        if worker.in_flight is None:
            worker.in_flight = worker.rig.core.next_frame()

    @precondition(lambda self: self.ghosts)
    @rule(which=st.integers(0, 7))
    def a_frame_of_a_dead_worker_is_stored_after_all(self, which: int) -> None:
        name, written = self.ghosts.pop(which % len(self.ghosts))
        self.log.append(subject_of(name, written), written.payload, None, written.record_id)

    @rule(name=WORKERS)
    def worker_goes_on(self, name: str) -> None:
        """What mostly happens: it reads, writes what it has, and reads that back."""
        self.worker_reads(name)
        self.worker_writes(name, answered=True)
        self.worker_reads(name)

    @rule(name=WORKERS, calls=CALLS, other=WORKERS)
    def calls_are_handed_out_twice(
        self, name: str, calls: list[tuple[str, str | None, int, bytes]], other: str
    ) -> None:
        self.client_sends(calls)
        self._hand(name, self.frames[-1])
        self.worker_goes_on(name)
        self._hand(other, self.frames[-1])

    @rule(name=WORKERS)
    def worker_dies_and_comes_back(self, name: str) -> None:
        self._spawn(name)

    @rule(name=WORKERS)
    def worker_dies_and_is_lost(self, name: str) -> None:
        """It never comes back under that incarnation; a later one registers after the router's word."""
        self.log.lose(name, str(self.incarnations[name]), group=POOL)
        self._spawn(name)

    @precondition(lambda self: any(not handed.is_acked for handed in self.frames))
    @rule(names=st.lists(WORKERS, min_size=2, max_size=4), which=st.integers(0, 20))
    def a_frame_takes_down_whoever_has_it(self, names: list[str], which: int) -> None:
        waiting = [handed for handed in self.frames if not handed.is_acked]
        for name in names:
            self.worker_reads(name)
            self._hand(name, waiting[which % len(waiting)])
            self.worker_goes_on(name)
            self.worker_dies_and_is_lost(name)
            self.worker_reads(name)

    @rule(name=WORKERS)
    def worker_drains(self, name: str) -> None:
        self.workers[name].rig.core.drain()
        self._collect(name)

    @rule(name=WORKERS)
    def worker_is_held(self, name: str) -> None:
        self.workers[name].rig.core.hold()
        self._collect(name)

    @rule(name=WORKERS)
    def worker_is_released(self, name: str) -> None:
        self.workers[name].rig.core.release(self.log.now_ns)
        self._collect(name)

    @rule()
    def an_operator_pauses_or_resumes_the_pool(self) -> None:
        self.is_paused = not self.is_paused
        (pause if self.is_paused else resume)(self.log)

    @precondition(lambda self: any(worker.rig.core.doubts for worker in self.workers.values()))
    @rule(name=WORKERS, which=st.integers(0, 7), is_executed=st.booleans())
    def a_doubt_is_resolved(self, name: str, which: int, is_executed: bool) -> None:
        """By any worker, and who has its frame may be another one."""
        calls = {i: call for worker in self.workers.values() for i, call in worker.rig.core.doubts.items()}
        self._resolve(name, sorted(calls.items())[which % len(calls)][1], is_executed=is_executed)

    def _resolve(self, name: str, call: OpenCall, *, is_executed: bool) -> None:
        core = self.workers[name].rig.core
        handed = next(handed for handed in self.frames if handed.seq == call.seq)
        known = self._look_up(name, handed).get(call.call_id)
        if known is None or known.mark is not Mark.IN_DOUBT:
            return
        core.facts.learn(call.call_id, known)
        if core.resolve(call, BY_OPERATOR, b"told" if is_executed else None) and not is_executed:
            self.not_executed.add((call.call_id, known.seq))

    @rule(name=WORKERS)
    def a_live_worker_is_taken_for_lost(self, name: str) -> None:
        self.log.lose(name, str(self.incarnations[name]), group=POOL)

    def _collect(self, name: str) -> None:
        worker = self.workers[name]
        rig = worker.rig
        rig.take()
        for start in rig.running:
            if id(start) not in worker.started:
                worker.started.add(id(start))
                assert self.log.now_ns < start.call.deadline_ns, "an expired call was started"
                if start.call.method == "pay":
                    self.once_starts.append(start.call.call_id)
                if start.call.call_id in self.keys:
                    self.effects[self.keys[start.call.call_id]].add(start.call.call_id)
        self.replies += rig.replies
        rig.replies = []
        for token in rig.acks:
            worker.tokens[token].is_acked = True
        rig.acks = []
        rig.naks.clear()

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def a_once_call_starts_again_only_after_a_word_that_it_may(self) -> None:
        for call_id, starts in Counter(self.once_starts).items():
            if starts > 1:
                steps = Counter(step.mark for step in self._history(call_id).steps if step.counts)
                allowed = sum(
                    steps[mark] for mark in (Mark.NOT_EXECUTED, Mark.RETRY_SCHEDULED, Mark.REQUEUED)
                )
                assert starts <= 1 + allowed

    @invariant()
    def a_key_has_one_effect(self) -> None:
        for key, calls in self.effects.items():
            assert len(calls) <= 1, f"key {key} let several calls start"

    @invariant()
    def suspects_are_begun_one_at_a_time_and_the_last_attempt_is_made_alone(self) -> None:
        for worker in self.workers.values():
            core = worker.rig.core
            known = [core.facts.get(start.call.call_id) for start in worker.rig.running]
            mine = [its for its in known if its is not None and its.mark is None and its.attempts]
            mine = [its for its in mine if its.writer == worker.rig.name and its.seq > worker.bound]
            assert len(mine) <= 1
            if any(len(its.attempts) == MAX_ATTEMPTS for its in mine):
                assert core.running == 1

    @invariant()
    def no_worker_runs_more_than_it_may(self) -> None:
        for worker in self.workers.values():
            assert 0 <= worker.rig.core.running <= self.max_running

    @invariant()
    def a_frame_is_acknowledged_only_when_all_its_calls_have_come_to_their_end(self) -> None:
        concluded = self._conclusions()
        for handed in self.frames:
            if handed.is_acked:
                assert all(entry.call_id in concluded for entry in handed.frame.entries)

    def _conclusions(self) -> set[CallId]:
        """The calls of which the log says that they came to an end."""
        return {
            call_id
            for record in self.log.records
            if f".{PEN}." in record.subject or f".{DEAD}." in record.subject
            for mark, call_id in decoded(record.payload).entries
            if mark in CLOSED
        }

    def _history(self, call_id: CallId) -> CallHistory:
        """What the log says of a call, to those who read it there."""
        seq, frame = self.firsts[call_id]
        entry, at_ns = frame.entries[0], self.log.records[seq - 1].timestamp_ns
        deadline_ns = at_ns + entry.timeout_ms * 1_000_000
        call = AcceptedCall(
            call_id,
            SERVICE,
            POOL,
            "c1",
            entry.method,
            None,
            seq,
            at_ns,
            deadline_ns,
            0,
            frame.bodies[0],
            entry.options,
        )
        history = CallHistory(NS, call)
        for record in self.log.records:
            history.apply(record)
        return history

    def _routers_view(self) -> GroupCalls:
        """What a router that reads headers believes of the pool's calls."""
        calls = GroupCalls(keep_bodies=False)
        for record in self.log.records:
            calls.apply(record, NS.parse(record.subject))
        return calls

    def _check_routers_view(self) -> None:
        view = self._routers_view()
        for call_id in self.methods:
            state = self._history(call_id).state
            found = view.open.get(call_id)
            assert (None if state in ENDS else state) == (None if found is None else found.state)

    def teardown(self) -> None:
        if not self.workers:
            return
        self._check_routers_view()
        self._come_to_rest()
        assert self._routers_view().open == {}
        for name in NAMES:
            self.worker_reads(name)
        self.a_key_has_one_effect()
        self.a_once_call_starts_again_only_after_a_word_that_it_may()
        histories = {call_id: self._history(call_id) for call_id in self.methods}
        self._check_outcomes(histories)
        self._check_keys(histories)
        for worker in self.workers.values():
            core = worker.rig.core
            assert core.is_quiet
            assert (core.running, core.waiting, core.deliveries, core.doubts) == (0, 0, {}, {})

    def _check_outcomes(self, histories: dict[CallId, CallHistory]) -> None:
        told = set()
        for call_id, history in histories.items():
            assert history.state in ENDS, f"an accepted call has no outcome, but is {history.state}"
            told |= {(call_id, step.mark, step.body) for step in history.steps if step.counts}
            if history.dead_letter is not None:
                assert decode(history.dead_letter.body or b"")["code"] == "dead_lettered"
        for call_id, mark, body in self.replies:
            assert (call_id, mark, body) in told, "a reply told something else than the log"
        for worker in self.workers.values():
            core = worker.rig.core
            for call_id, history in histories.items():
                known = core.facts.get(call_id)
                if known is not None and history.call.seq > worker.bound:
                    assert state_after(known.mark) is history.state, "a worker and the history disagree"
                    outcome = core.outcomes.get(call_id)
                    assert outcome == history.outcome

    def _check_keys(self, histories: dict[CallId, CallHistory]) -> None:
        """Every worker says the same of keys, and whoever repeats a call is sent to one with the same key."""
        plain = PoolKeys(most=2)
        for record in self.log.records:
            fold_keys(plain, record)
        for key in ("a", "b"):
            owners = {worker.rig.owner(key) for worker in self.workers.values()}
            assert len(owners) == 1
            assert owners == {owner_of(self.log, plain, key)}
            (owner,) = owners
            if owner is not None:
                assert found_in(self.log, key) == owner.call_id, "who reads the log comes to another owner"
            for call_id in self.effects[key]:
                assert owner is not None
                assert owner.call_id == call_id, "the key of a call that started is another's, or free"
        for call_id, history in histories.items():
            if history.outcome is not None and history.outcome.mark is Mark.DUPLICATE:
                assert self.keys[call_id] == self.keys[history.outcome.body or b""]

    def _come_to_rest(self) -> None:
        """The faults end: whoever was taken for lost comes back, nobody is held or paused, operators resolve
        what is in doubt, and the consumer hands out what is open.
        """
        resume(self.log)
        for name in NAMES:
            self.worker_is_released(name)
            self.worker_reads(name)
            self._end_drain(name)
            me = self.workers[name].rig.core.me
            if me is None or not me.is_live:
                self._spawn(name)
        for turn in range(1000):
            for name in NAMES:
                self.worker_reads(name)
                while self.workers[name].rig.running:
                    self.handler_returns(name, 0)
                self.worker_reads_segments(name)
                if turn % 4 == 0:  # a word that a segment overtakes has to be said again, so they are rare
                    self.a_worker_writes_a_segment(name, later=False)
                for call in list(self.workers[name].rig.core.doubts.values()):
                    self._resolve(NAMES[turn % 3], call, is_executed=turn % 2 == call.call_id[-1] % 2)
                self.worker_writes(name, answered=True)
                self.worker_reads(name)
            self.time_passes(5)
            waiting = [handed for handed in self.frames if not handed.is_acked]
            cores = [worker.rig.core for worker in self.workers.values()]
            if not waiting and all(core.is_quiet and not core.deliveries for core in cores):
                return
            for handed in waiting:
                self._hand(NAMES[turn % 3], handed)
        raise AssertionError("the workers never come to rest")

    def _end_drain(self, name: str) -> None:
        """A draining worker is done without any further frame, and its instance starts anew."""
        rig = self.workers[name].rig
        if not rig.core.is_draining:
            return
        for _ in range(1000):
            while rig.running:
                self.handler_returns(name, 0)
            self.worker_writes(name, answered=True)
            self.worker_reads(name)
            self.worker_reads_segments(name)
            self.a_worker_writes_a_segment(name, later=False)
            if rig.core.is_quiet:
                assert rig.core.waiting == 0
                self._spawn(name)
                return
        raise AssertionError("a draining worker is never quiet")


TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=int(os.environ.get("AEGIS_EXAMPLES", "30")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
