"""The whole state of the system as plain data, and back: what snapshots, bundles and digests are made of.

A dump holds everything that the fold is and everything that its future depends on: also which frames were
seen, which dead letters stand where, and in which order things came. So to load a dump and to fold on gives,
byte for byte, what folding all of the log gives. The digest of a dump is the name of the state: two that
believe the same of a log up to a record have the same one.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import dump_forms as form
from aegisipc.eventstore.calls_dumps import dump_calls, load_calls
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.rates import Rate
from aegisipc.eventstore.subjects import Subjects
from aegisipc.eventstore.system import GroupKey, SystemState
from aegisipc.eventstore.topology_dumps import dump_topology, load_topology

__all__ = ["FOLD_VERSION", "digest_of", "digest_of_dump", "dump_state", "load_state", "pack_dump"]

FOLD_VERSION: Final = 1
"""Raised whenever equal records would give another state than before, or a state another dump: then dumps of
the other version are not used.
"""

_STATE: Final = (
    form.INT,  # version
    form.INT,  # position
    form.INT,  # its time
    form.INT,  # unreadable
    form.LIST,  # topology
    form.LIST,  # calls
    form.LIST,  # schemas
    form.LIST,  # rates
    form.LIST,  # finished
    form.LIST,  # suspected
)
_OF_GROUP: Final = (form.TEXT, form.TEXT, form.LIST)
_FINISHED: Final = (form.TEXT, form.TEXT, form.FLAG)
_SUSPECTED: Final = (form.TEXT, form.TEXT, form.TEXT, form.TEXT, form.NUMBER)
_PIECES_AT: Final = 5
"""So deep in a dump are single calls, and single groups."""


def dump_state(state: SystemState) -> list[Any]:
    """Return the state as plain data that MessagePack can carry. Equal folds give equal data, byte for byte
    when packed. Nothing in it changes when the state folds on.
    """
    return [
        FOLD_VERSION,
        state.position,
        state.position_ns,
        state.unreadable,
        dump_topology(state.topology),
        [[*key, dump_calls(calls)] for key, calls in state.calls.items()],
        state.schemas.dump(),
        [[*key, [list(second) for second in rate.dump()]] for key, rate in state.rates.items()],
        [[*key, finished] for key, finished in state.finished.items()],
        [[*key, run, form.number(pulse_ns)] for key, (run, pulse_ns) in state.suspected.items()],
    ]


def load_state(plain: Any, subjects: Subjects) -> SystemState:
    """Return the state that :func:`dump_state` was given.

    Raises:
        MalformedPayload: it is no dump, or one of another version of the fold.
    """
    try:
        return _load(plain, subjects)
    except form.UNREADABLE as error:
        raise MalformedPayload(
            f"cannot read a dump of the system's state: {error or type(error).__name__}; fold the log instead"
        ) from error


def _load(plain: Any, subjects: Subjects) -> SystemState:
    if type(plain) is list and plain and plain[0] != FOLD_VERSION:
        raise ValueError(f"it is of version {plain[0]!r:.20} of the fold, and this is version {FOLD_VERSION}")
    _, position, position_ns, unreadable, topology, calls, schemas, *rest = form.typed(plain, _STATE)
    rates, finished, suspected = rest
    state = SystemState(subjects)
    state.position, state.position_ns, state.unreadable = position, position_ns, unreadable
    load_topology(topology, state.topology)
    state.calls = form.unique(
        ((service, group), load_calls(of_group, is_fenced=group != POOL_GROUP))
        for service, group, of_group in form.each(calls, _OF_GROUP)
    )
    state.schemas.load(schemas)
    state.rates = form.unique(_load_rate(*rate) for rate in form.each(rates, _OF_GROUP))
    state.finished = form.unique(
        ((service, group), flag) for service, group, flag in form.each(finished, _FINISHED)
    )
    state.suspected = form.unique(
        ((service, group, instance), (run, form.read_number(pulse)))
        for service, group, instance, run, pulse in form.each(suspected, _SUSPECTED)
    )
    return state


def _load_rate(service: str, group: str, seconds: list[Any]) -> tuple[GroupKey, Rate]:
    rate = Rate()
    rate.load([(second, count) for second, count in form.each(seconds, (form.INT, form.INT))])
    return (service, group), rate


def pack_dump(plain: list[Any]) -> bytes:
    """Return a dump as bytes, which are those of ``msgpack.packb``: of equal states equal ones. In a thread
    of its own it lets others run between the pieces.
    """
    packer = msgpack.Packer(autoreset=False)
    _pack(packer, plain, _PIECES_AT)
    packed: bytes = packer.bytes()
    return packed


def _pack(packer: msgpack.Packer, plain: Any, depth: int) -> None:
    if depth and type(plain) is list:
        packer.pack_array_header(len(plain))
        for item in plain:
            _pack(packer, item, depth - 1)
    else:
        packer.pack(plain)


def digest_of_dump(packed: bytes) -> str:
    """Return the name of the state whose packed dump this is."""
    return hashlib.sha256(packed).hexdigest()


def digest_of(state: SystemState) -> str:
    """Return the name of a state: the SHA-256 of its dump, in hexadecimal digits."""
    return digest_of_dump(pack_dump(dump_state(state)))
