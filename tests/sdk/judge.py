"""Reads a group's log beside its members, and says what they should have made of it."""

from __future__ import annotations

from collections import Counter, defaultdict

from aegisipc.eventstore.calls import NOTHING, Folded, GroupCalls, OpenCall, Outcome, Outcomes
from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.events import GroupPromoted, decode_event
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.ids import CallId, format_call_id
from aegisipc.eventstore.keys import KeyIndex
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import CONCLUSIONS, GROUP_WHO, HA
from aegisipc.eventstore.topology import Topology
from tests.sdk.kit import GROUP, NS, SERVICE, ListLog


class Judge:
    """What the log says so far. Feed it with :meth:`read`."""

    def __init__(self, log: ListLog) -> None:
        self._log = log
        self.position = 0
        self.topology = Topology(NS)
        self.fold = GroupCalls(keep_bodies=True, outcomes=Outcomes(), is_fenced=True, keys=KeyIndex())
        self.places: dict[CallId, int] = {}
        """Where each accepted call stands among all of them."""
        self.said: dict[CallId, list[Outcome]] = defaultdict(list)
        """The outcomes of each call in log order: doubts that ended later, dead letters that were requeued,
        then the last one.
        """
        self.reopened: Counter[CallId] = Counter()
        self.retried: Counter[CallId] = Counter()
        """How many more attempts of each call were announced."""
        self.requeued: Counter[CallId] = Counter()
        self.discarded: set[CallId] = set()
        self.calls: dict[CallId, OpenCall] = {}
        """Every call, as it was accepted."""
        self.owners: dict[str, CallId] = {}
        """Which call has each key."""
        self.keyed: dict[CallId, int] = {}
        """The calls that got their keys, and where that stands."""
        self.released: set[CallId] = set()
        self.attempts: dict[CallId, list[int]] = defaultdict(list)
        """The epochs in which a call was begun alone."""
        self.order: dict[str, list[int]] = defaultdict(list)
        """Per resource, the places of the calls that ran, as they ended; without those that were in doubt."""
        self.failovers: list[int] = []
        self.fences: dict[int, int] = {}
        """Where each epoch began."""
        self._last_place = -1
        self.events: list[bytes] = []
        self.events_at = [0]
        """How many events there were after each record."""

    def read(self) -> None:
        """Take in what is new."""
        for record in self._log.records[self.position :]:
            self.position = record.seq
            place = NS.parse(record.subject)
            if place.kind == HA:
                self._route(record, is_fence=place.who == GROUP_WHO)
            else:
                folded = self.fold.apply(record, place)
                self._take(folded)
                if place.kind in CONCLUSIONS and folded is not NOTHING:
                    self._read_frame(record)
            self.events_at.append(len(self.events))

    def _route(self, record: Record, *, is_fence: bool) -> None:
        self.topology.apply(record)
        group = self.topology.group(SERVICE, GROUP)
        if not is_fence or group is None:
            return
        event = decode_event(record.payload)
        if isinstance(event, GroupPromoted) and group.epoch not in self.fences:
            self.fences[group.epoch] = record.seq
            if event.kind == "failover":
                self.failovers.append(record.seq)
        self.fold.hold(group.holder, group.epoch)

    def _take(self, folded: Folded) -> None:
        for call in folded.opened:
            self.places[call.call_id] = self._next_place()
            self.calls[call.call_id] = call
        for done in folded.concluded:
            call_id = done.call.call_id
            self.said[call_id].append(done.outcome)
            ran = done.outcome.mark in (Mark.SUCCEEDED, Mark.FAILED)
            if ran and done.call.resource is not None and not self.was_in_doubt(call_id):
                self.order[done.call.resource].append(self.places[call_id])
        for call in folded.reopened:
            self.reopened[call.call_id] += 1
            if call.is_requeued and call.seq == self.position:
                self.places[call.call_id] = self._next_place()
                self.requeued[call.call_id] += 1
        for call in folded.retrying:
            self.retried[call.call_id] += 1
        self.events += [body for mark, body in folded.state if mark is Mark.EMITTED]

    def _next_place(self) -> int:
        self._last_place += 1
        return self._last_place

    def _read_frame(self, record: Record) -> None:
        frame = decode_pen(record.payload)
        for (mark, call_id), body in zip(frame.entries, frame.bodies, strict=True):
            match mark:
                case Mark.ATTEMPTED:
                    self.attempts[call_id].append(frame.epoch)
                case Mark.KEYED:
                    self._grant(call_id, record.seq)
                case Mark.RELEASED:
                    self._release(call_id)
                case Mark.DUPLICATE:
                    assert body is not None
                    self._check_duplicate(call_id, body)
                case Mark.FAILED if self.calls[call_id].key is not None:
                    self._check_conflict(call_id, body)
                case Mark.DISCARDED:
                    self.discarded.add(call_id)
                case _:
                    pass

    def _grant(self, call_id: CallId, seq: int) -> None:
        key = self.calls[call_id].key
        assert key is not None, "a call without a key got one"
        assert key not in self.owners, "a key was granted that another call has"
        assert call_id not in self.keyed or call_id in self.released
        self.owners[key] = call_id
        self.keyed[call_id] = seq

    def _release(self, call_id: CallId) -> None:
        key = self.calls[call_id].key
        assert key is not None
        assert self.owners.pop(key, None) == call_id, "a call gave back a key that it did not have"
        assert not self.retried[call_id], "a call that ran gave back its key"
        assert not self.requeued[call_id], "a call that ran gave back its key"
        self.released.add(call_id)

    def _check_duplicate(self, call_id: CallId, first: CallId) -> None:
        call = self.calls[call_id]
        assert call.key is not None
        assert self.owners[call.key] == first != call_id, "a duplicate of a call that has not the key"
        assert self._asks_the_same(call_id, first), "a duplicate that asks for something else"

    def _check_conflict(self, call_id: CallId, body: bytes | None) -> None:
        if body is None or b"idempotency_conflict" not in body:
            return
        call = self.calls[call_id]
        assert call.key is not None
        first = self.owners[call.key]
        assert decode(body)["details"] == {"first": format_call_id(first), "key": call.key}
        assert not self._asks_the_same(call_id, first), "the same request was refused"

    def _asks_the_same(self, one: CallId, other: CallId) -> bool:
        asked = [(call.method, call.resource, call.body) for call in (self.calls[one], self.calls[other])]
        return asked[0] == asked[1]

    def is_dead(self, call_id: CallId) -> bool:
        """Whether it is a dead letter now, that an operator may do something about."""
        said = self.said[call_id]
        is_last = bool(said) and said[-1].mark is Mark.DEAD_LETTERED
        return is_last and call_id not in self.fold.open and call_id not in self.discarded

    def was_in_doubt(self, call_id: CallId) -> bool:
        """Whether it was at any time: then it keeps no order, and people decide what became of it."""
        return any(outcome.mark is Mark.IN_DOUBT for outcome in self.said[call_id])

    def is_suspect(self, call_id: CallId, call_seq: int, epoch: int) -> bool:
        """Whether a call, harmless to repeat, has to be begun alone in `epoch`."""
        fence = self.fences[epoch]
        lived_through = sum(1 for seq in self.failovers if call_seq < seq <= fence)
        tried_before = any(tried < epoch for tried in self.attempts[call_id])
        return call_seq < fence and (lived_through > 1 or tried_before)

    def events_until(self, seq: int) -> list[bytes]:
        """The shared state after the record `seq`."""
        return self.events[: self.events_at[seq]]
