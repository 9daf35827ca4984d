"""Defects in what callers are told beside outcomes: where a call is kept and how, and who has a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break, GroupPlan, Plan

_SEARCHES: Final = "aegisipc.eventstore.key_seeking"


def _claims_a_sync(original: Any) -> Callable[[Any, int], Any]:
    def receipt(durability: Any, seq: int) -> Any:
        made = original(durability, seq)
        return replace(made, fsync="always", durability="fsynced") if made.durability == "written" else made

    return receipt


def _counts_from_zero(original: Any) -> Callable[..., None]:
    def on_acked(caller: Any, frame: Any, seq: int, now_ns: int) -> None:
        original(caller, frame, seq - 1, now_ns)

    return on_acked


def _knows_no_sequence(_: Any) -> Callable[[Any], Any]:
    async def look_up(submitted: Any) -> None:  # noqa: ARG001 - as the original
        return None

    return look_up


def _looks_in_the_first_group(original: Any) -> Callable[[Any, str, str | None], str]:
    def group_of_key(topology: Any, service: str, resource: str | None) -> str:
        found: str = original(topology, service, resource)
        view = topology.services.get(service)
        return min(view.groups) if resource is not None and view is not None else found

    return group_of_key


def _gives_nothing_back(_: Any) -> Callable[[Any, Any], None]:
    def release(search: Any, call_id: Any) -> None:
        search._waiting.pop(call_id, None)

    return release


def _none(_: Any) -> frozenset[Any]:
    return frozenset()


def _unsynced(inner: Callable[[Plan], Plan]) -> Callable[[Plan], Plan]:
    """As `inner`, on one server that syncs now and then only; it never loses its power."""

    def steer(plan: Plan) -> Plan:
        return replace(inner(plan), syncs=False, replicas=1)

    return steer


def _cancelled_at_once(inner: Callable[[Plan], Plan]) -> Callable[[Plan], Plan]:
    """As `inner`, with calls that are cancelled as soon as they are accepted."""

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        calls = tuple(replace(call, is_submitted=True, cancel_after_s=0.0) for call in bent.calls)
        return replace(bent, calls=calls)

    return steer


def _of_two_groups(inner: Callable[[Plan], Plan]) -> Callable[[Plan], Plan]:
    """As `inner`, with the calls of each key (or number) in one of two groups."""
    groups = GroupPlan("g1", ("a1x",), 1), GroupPlan("g2", ("a2x",), 1)

    def steer(plan: Plan) -> Plan:
        bent = inner(plan)
        calls = tuple(
            replace(call, resource=f"a{1 + sum((call.key or '').encode()) % 2}x") for call in bent.calls
        )
        return replace(bent, groups=groups, calls=calls)

    return steer


_OFTEN: Final = steering.owned("place", "add", count=8)

OF_PROMISES: Final = (
    Mutant(
        "claim-an-fsync",
        "a receipt says that a call is on the disk, although the server only syncs now and then",
        ("receipts",),
        (Change("aegisipc.sdk.receipts:Durability.receipt", _claims_a_sync),),
        known_seed=0,
        steer=_unsynced(_OFTEN),
        needs="a server that does not sync each write",
    ),
    Mutant(
        "count-records-from-zero",
        "a client takes the record before its frame for that of its calls",
        ("receipts",),
        (Change("aegisipc.sdk.core.caller:Caller.on_acked", _counts_from_zero),),
        known_seed=0,
        steer=_OFTEN,
        needs="calls that are submitted",
    ),
    Mutant(
        "receipt-of-no-record",
        "a receipt names no record if the outcome came before the acknowledgement",
        ("receipts",),
        (Change("aegisipc.sdk.pending:SubmittedCall._look_up", _knows_no_sequence),),
        known_seed=1,
        steer=steering.owned("place", "peek", kinds=(Break.ACKS_LOST,), times=3, works_s=(0.0,)),
        needs="acknowledgements that are lost",
    ),
    Mutant(
        "key-of-the-first-group",
        "a client looks for a key in the first group of a service, whatever the resource",
        ("keys",),
        (Change("aegisipc.sdk.client:group_of_key", _looks_in_the_first_group),),
        known_seed=0,
        steer=_of_two_groups(steering.keyed(_OFTEN)),
        needs="keys of several groups",
    ),
    Mutant(
        "key-of-who-never-had-it",
        "a search for a key in the log leads to a call that ended while it waited for its turn",
        ("keys",),
        (Change(f"{_SEARCHES}:_WITHOUT_KEY", _none),),
        known_seed=0,
        steer=steering.keyed(steering.owned("place", count=24, works_s=(0.3,), timeouts_s=(0.1,)), keys=20),
        needs="keys whose only call expires before its turn",
    ),
    Mutant(
        "keep-a-key-that-is-free",
        "a search for a key in the log leads to a call that has given it back",
        ("keys",),
        (Change(f"{_SEARCHES}:KeyFold._release", _gives_nothing_back),),
        known_seed=0,
        steer=_cancelled_at_once(steering.keyed(steering.owned("add", "peek"), keys=16)),
        needs="calls that are cancelled after they got their key and before they start",
    ),
)
