"""Where things are: the subjects and streams of one namespace.

Every log subject is ``aegis.<ns>.log.<service>.<group>.<kind>[.<who>]``. The writer's identity is the last
token, so NATS permissions alone hold each role to its own writes, and every follower needs a single filter:

===========================  ==============================================
``log.<service>.<group>.>``  one member of a group
``log.*.*.ha.*``             a client's routing table
``log.>``                    a router
===========================  ==============================================

See ``docs/architecture.md`` for who writes what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import InvalidName, MalformedPayload
from aegisipc.eventstore.names import check_name

ROUTER_SERVICE: Final = "_router"
ROUTER_GROUP: Final = "_"
GROUP_WHO: Final = "_group"
WATCH_WHO: Final = "_watch"

HA: Final = "ha"
CALL: Final = "call"
PEN: Final = "pen"
DEAD: Final = "dead"
KEYS: Final = "keys"
CANCEL: Final = "cancel"
EVIDENCE: Final = "evidence"
CONTRACT: Final = "contract"
STATE: Final = "state"
TERM: Final = "term"
SNAPSHOT: Final = "snapshot"
SNAPSHOT_INDEX: Final = "index"
SNAPSHOT_PART: Final = "part"

CONCLUSIONS: Final = frozenset({PEN, DEAD})
"""Kinds of the frames that the holder of a pen writes: dead letters stand apart, so that they can be listed.
"""

_ROOT: Final = "aegis"
"""The first part of all subjects of this system."""

_PULSE_SUFFIX: Final = "_PULSE"


class Place(NamedTuple):
    """What a log subject says: whose record this is. ``who`` is ``""`` where the kind has no writer token."""

    service: str
    group: str
    kind: str
    who: str


class PulsePlace(NamedTuple):
    """What a pulse subject says: ``kind`` is ``instance`` or ``router``."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one namespace. Build it with :func:`subjects_of`, which checks the name."""

    namespace: str
    log_root: str
    pulse_root: str

    @property
    def stream(self) -> str:
        """Name of the log's stream."""
        return f"AEGIS_{self.namespace}"

    @property
    def pulse_stream(self) -> str:
        """Name of the heartbeats' stream."""
        return f"AEGIS_{self.namespace}{_PULSE_SUFFIX}"

    @property
    def everything(self) -> str:
        """Filter: every record of the log."""
        return f"{self.log_root}.>"

    @property
    def topology(self) -> str:
        """Filter: registrations, promotions and the like of every group."""
        return f"{self.log_root}.*.*.{HA}.*"

    @property
    def term(self) -> str:
        """Leadership among routers (compare-and-set)."""
        return f"{self.log_root}.{ROUTER_SERVICE}.{ROUTER_GROUP}.{TERM}"

    @property
    def snapshot_index(self) -> str:
        """Which snapshots of the whole system there are (compare-and-set by the leading router)."""
        return f"{self.log_root}.{ROUTER_SERVICE}.{ROUTER_GROUP}.{SNAPSHOT}.{SNAPSHOT_INDEX}"

    @property
    def snapshot_part(self) -> str:
        """What these snapshots are made of."""
        return f"{self.log_root}.{ROUTER_SERVICE}.{ROUTER_GROUP}.{SNAPSHOT}.{SNAPSHOT_PART}"

    def group(self, service: str, group: str) -> str:
        """Filter: everything of one group."""
        return f"{self.log_root}.{service}.{group}.>"

    def of_kind(self, service: str, group: str, kind: str) -> str:
        """Filter: all records of one kind in one group, whoever wrote them."""
        return f"{self.log_root}.{service}.{group}.{kind}.*"

    def fence(self, service: str, group: str) -> str:
        """Promotions of the group; its last record is the fence (compare-and-set by the router)."""
        return f"{self.log_root}.{service}.{group}.{HA}.{GROUP_WHO}"

    def watch(self, service: str, group: str) -> str:
        """What the router decided about the group's instances (admitted, refused, suspected, lost), and what
        operators want of the group and of them.
        """
        return f"{self.log_root}.{service}.{group}.{HA}.{WATCH_WHO}"

    def instance(self, service: str, group: str, instance: str) -> str:
        """What an instance says of itself: registered, ready, draining, left."""
        return f"{self.log_root}.{service}.{group}.{HA}.{instance}"

    def call(self, service: str, group: str, client: str) -> str:
        """Call frames of one client to one group."""
        return f"{self.log_root}.{service}.{group}.{CALL}.{client}"

    def pen(self, service: str, group: str, instance: str) -> str:
        """Claims and conclusions, written by the holder of the group's pen."""
        return f"{self.log_root}.{service}.{group}.{PEN}.{instance}"

    def dead(self, service: str, group: str, instance: str) -> str:
        """Like :meth:`pen`, for frames that say something of dead letters."""
        return f"{self.log_root}.{service}.{group}.{DEAD}.{instance}"

    def conclusions(self, service: str, group: str) -> list[str]:
        """Filters: all that the holders of the group's pen wrote of calls."""
        return [self.of_kind(service, group, kind) for kind in sorted(CONCLUSIONS)]

    def keys(self, service: str, group: str, instance: str) -> str:
        """Segments of the index of idempotency keys, written by the holder of the pen."""
        return f"{self.log_root}.{service}.{group}.{KEYS}.{instance}"

    def cancel(self, service: str, group: str, who: str) -> str:
        """What a client or an operator wants cancelled."""
        return f"{self.log_root}.{service}.{group}.{CANCEL}.{who}"

    def flow(self, service: str, group: str) -> str:
        """How long calls wait at the holder of the pen (plain NATS, a hint)."""
        return f"aegis.{self.namespace}.flow.{service}.{group}"

    def evidence(self, service: str, group: str, instance: str) -> str:
        """What an instance that lost the pen did run to its end: not fenced, and not a conclusion."""
        return f"{self.log_root}.{service}.{group}.{EVIDENCE}.{instance}"

    def contract(self, service: str, group: str, instance: str) -> str:
        """The schemas of what an instance offers."""
        return f"{self.log_root}.{service}.{group}.{CONTRACT}.{instance}"

    def state(self, service: str, group: str, instance: str) -> str:
        """Snapshots of the group's shared state, written by the holder of the pen."""
        return f"{self.log_root}.{service}.{group}.{STATE}.{instance}"

    def pulse(self, kind: str, who: str) -> str:
        """Heartbeats of one instance or router."""
        return f"{self.pulse_root}.{kind}.{who}"

    def reply(self, client: str) -> str:
        """Outcomes for one client (plain NATS, a hint)."""
        return f"aegis.{self.namespace}.reply.{client}"

    def ask(self, service: str, group: str) -> str:
        """Questions about calls, answered by the holder of the pen (plain NATS)."""
        return f"aegis.{self.namespace}.ask.{service}.{group}"

    def tell(self, service: str, group: str) -> str:
        """Commands to the holder of the pen (plain NATS)."""
        return f"aegis.{self.namespace}.tell.{service}.{group}"

    def find_key(self, service: str, group: str) -> str:
        """Which call has an idempotency key? Answered by the holder of the pen (plain NATS). Apart from
        :meth:`tell`, so that clients need no right to command.
        """
        return f"aegis.{self.namespace}.find.{service}.{group}"

    def peers(self, service: str, group: str) -> str:
        """What workers of a pool tell each other (plain NATS, hints)."""
        return f"aegis.{self.namespace}.peers.{service}.{group}"

    def probe(self, service: str, group: str, instance: str) -> str:
        """Questions to one instance about itself (plain NATS)."""
        return f"aegis.{self.namespace}.probe.{service}.{group}.{instance}"

    def api(self, verb: str) -> str:
        """The router's request/reply interface (plain NATS)."""
        return f"aegis.{self.namespace}.api.{verb}"

    def parse(self, subject: str) -> Place:
        """Read a log subject of this namespace.

        Raises:
            MalformedPayload: when the subject is not one of ours.
        """
        tokens = subject.split(".") if subject.isascii() else ()  # names are ASCII
        match tokens:
            case ["aegis", self.namespace, "log", service, group, kind, who] if all(tokens):
                return Place(service, group, kind, who)
            case ["aegis", self.namespace, "log", service, group, kind] if all(tokens):
                return Place(service, group, kind, "")
            case _:
                raise MalformedPayload(
                    f"cannot read {subject!r}: not a log subject of namespace {self.namespace!r}"
                )

    def writer(self, subject: str) -> str:
        """Return who wrote a record of the log; "" if its subject is none of ours. A filter lets such ones
        pass, too: a wildcard stands for any token, even for one that is no text.
        """
        try:
            return self.parse(subject).who
        except MalformedPayload:
            return ""

    def parse_pulse(self, subject: str) -> PulsePlace:
        """Read a pulse subject of this namespace.

        Raises:
            MalformedPayload: when the subject is not one of ours.
        """
        match subject.split("."):
            case ["aegis", self.namespace, "pulse", kind, who] if kind and who:
                return PulsePlace(kind, who)
            case _:
                raise MalformedPayload(
                    f"cannot read {subject!r}: not a pulse of namespace {self.namespace!r}"
                )


def may_answer(reply: str) -> bool:
    """Whether the answer to a request may go to `reply`, which whoever asks has chosen: to any inbox, but not
    into the subjects of this system, of any namespace, nor to those of the server (``$…``).

    Whoever answers has rights that the asker may lack: an answer must not go where only they may write. And
    what a consumer delivers has a reply subject of the server's, so that no record of a log is taken for a
    request, wherever somebody has it delivered.
    """
    first, _, _ = reply.partition(".")
    return bool(first) and first != _ROOT and not first.startswith("$")


def subjects_of(namespace: str) -> Subjects:
    """Return the subjects of `namespace`.

    Raises:
        InvalidName: when the namespace cannot be a subject token, or ends with ``_PULSE``.
    """
    check_name(namespace, "namespace")
    if namespace.endswith(_PULSE_SUFFIX):  # its log would have the name of another namespace's heartbeats
        raise InvalidName(
            f"cannot use {namespace!r} as a namespace name: names that end with {_PULSE_SUFFIX!r} are taken "
            "by the streams of heartbeats; choose another ending",
            name=namespace,
            what="namespace",
        )
    return Subjects(namespace, f"aegis.{namespace}.log", f"aegis.{namespace}.pulse")
