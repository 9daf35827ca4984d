"""Three workers, one log, a consumer that forgets: whatever is handed out to whom, the guarantees hold."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.frames import CallFrame, Mark, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import HA, PEN
from aegisipc.sdk.core.pen import Written
from aegisipc.sdk.core.pool_attempts import MAX_ATTEMPTS
from aegisipc.sdk.core.pool_facts import FINAL, Known, LookUp
from tests.sdk.kit import NS, POOL, SERVICE, ListLog, a_call, stored_frame
from tests.sdk.pool_kit import BY_OPERATOR, WorkerRig, pause, pool_client, resume

NAMES = ("w1", "w2", "w3")
WORKERS = st.sampled_from(NAMES)
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
        rig = WorkerRig(self.log, name, incarnation=incarnation, max_running=self.max_running)
        bound = len(self.log.records)
        for record in self.log.records:  # facts are followed from here on only; older ones are looked up
            if NS.parse(record.subject).kind == HA:
                rig.core.on_record(record, self.log.now_ns)
        rig.position = bound
        self.workers[name] = Worker(rig, bound)
        self.log.join(name, incarnation, group=POOL)

    # -- clients, the clock, the consumer ------------------------------------------------------------------

    @rule(calls=CALLS)
    def client_sends(self, calls: list[tuple[str, str | None, int, bytes]]) -> None:
        seq, frame = stored_frame(self.log, self.client, *calls)
        self.frames.append(Handed(seq, frame))
        for entry in frame.entries:
            self.methods[entry.call_id] = entry.method

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
        is_again = handed.times > 1 or handed.seq < worker.bound + 1
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
        look_up = rig.core.facts.look_up({entry.call_id for entry in handed.frame.entries})
        unread = self.log.records[handed.seq :]
        for record in unread[: len(unread) // 2]:
            self._read_for(look_up, record)
        self.worker_reads(name)
        for record in unread[len(unread) // 2 :]:
            self._read_for(look_up, record)
        return rig.core.facts.finish(look_up)

    @staticmethod
    def _read_for(look_up: LookUp, record: Record) -> None:
        place = NS.parse(record.subject)
        if place.kind == PEN:
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
            self.log.append(NS.pen(SERVICE, POOL, name), written.payload, None, written.record_id)
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
        self.log.append(NS.pen(SERVICE, POOL, name), written.payload, None, written.record_id)

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
        self.replies += rig.replies
        rig.replies = []
        for token in rig.acks:
            worker.tokens[token].is_acked = True
        rig.acks = []
        rig.naks.clear()

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def a_once_call_starts_again_only_after_a_doubt_that_was_resolved_so(self) -> None:
        allowed = Counter(call_id for call_id, _ in self.not_executed)
        for call_id, starts in Counter(self.once_starts).items():
            assert starts <= 1 + allowed[call_id]

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

    def _conclusions(self) -> dict[CallId, tuple[int, bytes | None]]:
        """What the log says, by its marks alone: the first that ends a call ends it. A call that was claimed,
        and not found to be free again, does not expire.
        """
        ends: dict[CallId, tuple[int, bytes | None]] = {}
        claimed: set[CallId] = set()
        for record in self.log.records:
            if NS.parse(record.subject).kind != PEN:
                continue
            frame = decode_pen(record.payload)
            for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
                if mark is Mark.CLAIMED:
                    claimed.add(call_id)
                elif mark is Mark.NOT_EXECUTED:
                    claimed.discard(call_id)
                elif mark in FINAL and not (mark is Mark.EXPIRED and call_id in claimed):
                    ends.setdefault(call_id, (int(mark), body))
        return ends

    def teardown(self) -> None:
        if not self.workers:
            return
        self._come_to_rest()
        ends = self._conclusions()
        assert set(ends) == set(self.methods), "an accepted call has no outcome"
        for call_id, mark, body in self.replies:
            if mark != Mark.IN_DOUBT:
                assert ends[call_id] == (mark, body), "a reply told something else than the log"
        for call_id, (mark, body) in ends.items():
            if mark == Mark.DEAD_LETTERED:
                assert self.methods[call_id] == "put"
                assert decode(body or b"")["details"]["attempts"] == MAX_ATTEMPTS
        for worker in self.workers.values():
            core = worker.rig.core
            assert core.is_quiet
            assert (core.running, core.waiting, core.deliveries, core.doubts) == (0, 0, {}, {})

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
                for call in list(self.workers[name].rig.core.doubts.values()):
                    self._resolve(NAMES[turn % 3], call, is_executed=turn % 2 == call.call_id[-1] % 2)
                self.worker_writes(name, answered=True)
                self.worker_reads(name)
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
            if rig.core.is_quiet:
                assert rig.core.waiting == 0
                self._spawn(name)
                return
        raise AssertionError("a draining worker is never quiet")


TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=int(os.environ.get("AEGIS_EXAMPLES", "100")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
