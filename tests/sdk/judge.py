"""Reads a group's log beside its members, and says what they should have made of it."""

from __future__ import annotations

from collections import Counter, defaultdict

from aegisipc.eventstore.calls import NOTHING, Folded, GroupCalls, Outcome, Outcomes
from aegisipc.eventstore.events import GroupPromoted, decode_event
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import GROUP_WHO, HA, PEN
from aegisipc.eventstore.topology import Topology
from tests.sdk.kit import GROUP, NS, SERVICE, ListLog


class Judge:
    """What the log says so far. Feed it with :meth:`read`."""

    def __init__(self, log: ListLog) -> None:
        self._log = log
        self.position = 0
        self.topology = Topology(NS)
        self.fold = GroupCalls(keep_bodies=True, outcomes=Outcomes(), is_fenced=True)
        self.places: dict[CallId, int] = {}
        """Where each accepted call stands among all of them."""
        self.said: dict[CallId, list[Outcome]] = defaultdict(list)
        """The outcomes of each call in log order: doubts that ended later, then the final one."""
        self.reopened: Counter[CallId] = Counter()
        self.attempts: dict[CallId, list[int]] = defaultdict(list)
        """The epochs in which a call was begun alone."""
        self.order: dict[str, list[int]] = defaultdict(list)
        """Per resource, the places of the calls that ran, as they ended; without those that were in doubt."""
        self.failovers: list[int] = []
        self.fences: dict[int, int] = {}
        """Where each epoch began."""
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
                if place.kind == PEN and folded is not NOTHING:
                    self._note_attempts(record)
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
            self.places[call.call_id] = len(self.places)
        for done in folded.concluded:
            call_id = done.call.call_id
            self.said[call_id].append(done.outcome)
            ran = done.outcome.mark in (Mark.SUCCEEDED, Mark.FAILED)
            if ran and done.call.resource is not None and not self.was_in_doubt(call_id):
                self.order[done.call.resource].append(self.places[call_id])
        for call in folded.reopened:
            self.reopened[call.call_id] += 1
        self.events += [body for mark, body in folded.state if mark is Mark.EMITTED]

    def _note_attempts(self, record: Record) -> None:
        frame = decode_pen(record.payload)
        for mark, call_id in frame.entries:
            if mark is Mark.ATTEMPTED:
                self.attempts[call_id].append(frame.epoch)

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
